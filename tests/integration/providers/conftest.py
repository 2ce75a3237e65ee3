"""Fixtures of this folder."""

from tests.support.provider_fixtures import account, emulator, provider, receiver, shared_emulator

__all__ = ["account", "emulator", "provider", "receiver", "shared_emulator"]
