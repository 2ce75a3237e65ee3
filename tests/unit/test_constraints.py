"""What the package needs is declared, and pinned: what is tested is what was pinned, wherever it is installed."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import packages_distributions, requires
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.test_layout import FOLDERS, ROOT

CONSTRAINTS = ROOT / "constraints.txt"

IMPORTED_BY: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "service": ("prometheus-client", ("src/prefect_video/service/",)),
    "c2pa": ("c2pa-python", ("src/prefect_video/downloads/", "src/prefect_video/film/")),
    "parquet": ("pyarrow", ("src/prefect_video/gallery/",)),
    "experiments": ("matplotlib", ("src/prefect_video/experiments/",)),
    "mcp": ("fastmcp", ("src/prefect_video/service/agent_tools.py",)),
}
"""What each extra brings, and the files that may import it."""

CARRIERS: Final[Mapping[str, str]] = {
    "aiobotocore": "s3fs",
    "aiohttp": "s3fs",
    "botocore": "s3fs",
    "h11": "uvicorn",
    "markupsafe": "jinja2",
    "opentelemetry-api": "prefect",
    "pydantic-core": "pydantic",
    "starlette": "fastapi",
}
"""What is imported and comes with something that is declared, whose own interface it is part of."""

SHARED: Final[Mapping[str, str]] = {"fastmcp": "fastmcp", "opentelemetry": "opentelemetry-api"}
"""Modules whose files several distributions write, or another one than is named, and the one that we import from."""


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


def test_every_import_is_declared() -> None:
    core, extras = read_declared()
    assert {extra: set(extras[extra]) for extra in IMPORTED_BY} == {
        extra: {canonicalize_name(distribution)} for extra, (distribution, _) in IMPORTED_BY.items()
    }
    places = dict(IMPORTED_BY.values())
    undeclared = [
        f"{path}: {distribution}"
        for path, distribution in find_imported()
        if distribution not in core
        and CARRIERS.get(distribution) not in core
        and not path.startswith(places.get(distribution, ()))
    ]
    assert undeclared == []


def test_what_others_bring_is_brought_by_them_and_needed() -> None:
    imported = {distribution for _, distribution in find_imported()}
    core, _ = read_declared()
    for distribution, carrier in CARRIERS.items():
        assert distribution in imported, f"{distribution} is not imported any more"
        assert distribution not in core, f"{distribution} is declared, and needs no carrier"
        assert distribution in collect_requirements(carrier), f"{carrier} does not bring {distribution}"


def read_declared() -> tuple[set[str], dict[str, list[str]]]:
    """Return the names of the distributions that the package needs, and those of each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(lines: list[str]) -> list[str]:
        return [canonicalize_name(Requirement(line).name) for line in lines]

    extras = {extra: names(lines) for extra, lines in project["optional-dependencies"].items()}
    return set(names(project["dependencies"])), extras


def find_imported() -> list[tuple[str, str]]:
    """Return each file of the package with each distribution that it imports anything of, inside functions too."""
    carriers = packages_distributions()
    found: set[tuple[str, str]] = set()
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name in find_modules(ast.parse(path.read_text(encoding="utf-8"))):
                if name not in sys.stdlib_module_names and name != "prefect_video":
                    (distribution,) = {SHARED.get(name) or canonicalize_name(carrier) for carrier in carriers[name]}
                    found.add((str(path.relative_to(ROOT)), distribution))
    return sorted(found)


def find_modules(tree: ast.Module) -> set[str]:
    """Return the first parts of the names of all modules that a source imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found
