"""Fixtures of this folder."""

from tests.support.cli_fixtures import call, connected, environment, film, quick_emulator, shell

__all__ = ["call", "connected", "environment", "film", "quick_emulator", "shell"]
