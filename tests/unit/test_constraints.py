"""The constraints pin everything that the package brings: what is tested is what was pinned, wherever it is installed."""

from __future__ import annotations

from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def collect_requirements(root: str) -> set[str]:
    """Return the names of everything that a distribution needs here, with what that needs in turn."""
    found: set[str] = set()
    pending = [Requirement(root)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        wanted = pending.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        found.add(key[0])
        for line in requires(wanted.name) or ():
            needed = Requirement(line)
            extras = wanted.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                pending.append(needed)
    return found


def test_everything_that_is_installed_with_the_package_is_pinned() -> None:
    pinned = {canonicalize_name(line.partition("==")[0]) for line in CONSTRAINTS.read_text().splitlines()}
    assert collect_requirements("prefect-video[service]") - {"prefect-video"} - pinned == set()
