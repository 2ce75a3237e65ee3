"""Numbers of things in sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Write a number of things, such as `1 shot` or `2,000 shots`; the plural of the noun is made with an `s`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
