"""Measurements of the package against the emulator; each module is a script with a table of figures it must meet."""
