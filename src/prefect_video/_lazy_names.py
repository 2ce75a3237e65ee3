"""Lazy names: a package that offers names of its modules, and imports each at its first use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def import_at_first_use(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Build the `__getattr__` of a package that imports its public names at their first use.

    Args:
        package: Dotted name of the package.
        modules: By public name, the module below the package that defines it.
    """

    def get_name(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{modules[name]}"), name)
        # Found there from now on, without this call.
        setattr(sys.modules[package], name, value)
        return value

    return get_name
