"""Fixtures of the gallery: an empty working folder and an emulator, as the command line has them."""

from __future__ import annotations

from tests.support.cli_fixtures import call, environment, film, quick_emulator

__all__ = ["call", "environment", "film", "quick_emulator"]
