"""Fixtures of this folder."""

from tests.support.wheel import installed_wheel, wheel

__all__ = ["installed_wheel", "wheel"]
