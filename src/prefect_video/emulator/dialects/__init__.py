"""Dialects: the HTTP APIs of the emulated providers, each as routes and renderers over the one engine.

A dialect may import the engine, its records, the faults and the download host; never another dialect.
"""
