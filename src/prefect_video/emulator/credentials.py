"""Credentials of an emulator that is given no others."""

from __future__ import annotations

from typing import Final

DEFAULT_KEY: Final = "sk-emulator"
DEFAULT_WEBHOOK_SECRET: Final = "whsec_emulator"
