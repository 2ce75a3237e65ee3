"""Import graph of the package: no module needs, directly or through others, a module that needs it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from prefect_video.service.settings import ServiceSettings
from prefect_video.session import Settings
from tests.unit.test_layout import FOLDERS, ROOT

Graph = dict[str, set[str]]


@dataclass
class Imports:
    """Modules of this package that one module imports.

    Attributes:
        runtime: When it runs; an import inside a function counts too, for it only puts a circle off.
        typing: Only for type checkers, below `if TYPE_CHECKING`.
    """

    runtime: set[str] = field(default_factory=set)
    typing: set[str] = field(default_factory=set)


@cache
def read_sources() -> Mapping[str, str]:
    """Read the source of every module by its dotted name."""
    sources: dict[str, str] = {}
    for folder, package in FOLDERS.items():
        prefix = ("prefect_video", *filter(None, [package]))
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            sources[".".join((*prefix, *parts))] = path.read_text()
    return sources


def is_type_checking(node: ast.AST) -> bool:
    """Tell whether a node is `if TYPE_CHECKING:`, written either way."""
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"


def imported_names(node: ast.AST, *, typing: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the dotted names that a tree imports, each with whether that is for type checkers only."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, typing) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield from ((f"{node.module}.{alias.name}", typing) for alias in node.names)
    elif isinstance(node, ast.If) and is_type_checking(node):
        for child in node.body:
            yield from imported_names(child, typing=True)
        for child in node.orelse:
            yield from imported_names(child, typing=typing)
    else:
        for child in ast.iter_child_nodes(node):
            yield from imported_names(child, typing=typing)


def resolve(name: str, modules: Set[str]) -> str | None:
    """Return the module that a dotted name lies in: itself, or the module that defines it."""
    while name not in modules and "." in name:
        name = name.rpartition(".")[0]
    return name if name in modules else None


def read_imports(sources: Mapping[str, str]) -> dict[str, list[tuple[str, bool]]]:
    """Read the dotted names that each module imports from the sources, each with whether it is for type checkers only."""
    return {module: list(imported_names(ast.parse(source))) for module, source in sources.items()}


@cache
def read_package() -> Mapping[str, list[tuple[str, bool]]]:
    """Read what each module of the package imports; for all tests at once, as it takes a second."""
    return read_imports(read_sources())


def build_graph(modules: Mapping[str, list[tuple[str, bool]]]) -> dict[str, Imports]:
    """Build the import graph of some modules from what they import.

    That importing a module runs the doors of its packages first is left out: a door imports what lies behind it.
    """
    graph = {module: Imports() for module in modules}
    for module, imported in modules.items():
        for name, typing in imported:
            target = resolve(name, modules.keys())
            if target is not None and target != module:
                (graph[module].typing if typing else graph[module].runtime).add(target)
    return graph


def find_circle(graph: Mapping[str, Set[str]]) -> list[str]:
    """Return the modules of a circle in the order in which they import each other; empty when there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # It lists each module before the one that imports it.
        circle: list[str] = error.args[1][::-1]
        return circle
    return []


def test_no_module_imports_itself_through_others() -> None:
    graph = build_graph(read_package())
    assert find_circle({module: imports.runtime for module, imports in graph.items()}) == []


def test_no_module_needs_itself_through_others_for_its_types() -> None:
    graph = build_graph(read_package())
    assert find_circle({module: imports.runtime | imports.typing for module, imports in graph.items()}) == []


def test_a_circle_is_found_wherever_it_closes() -> None:
    sources = {
        "a": "import b",
        "b": "def later() -> None:\n    from c import thing",
        "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import Thing\nelse:\n    import d",
        "d": "",
    }
    graph = build_graph(read_imports(sources))
    assert graph["c"] == Imports(runtime={"d"}, typing={"a"})
    assert find_circle({module: imports.runtime for module, imports in graph.items()}) == []
    circle = find_circle({module: imports.runtime | imports.typing for module, imports in graph.items()})
    assert circle[0] == circle[-1]
    assert set(circle) == {"a", "b", "c"}
    for module, imported in pairwise(circle):
        assert imported in graph[module].runtime | graph[module].typing


def test_importing_reads_no_setting() -> None:
    modules = [name for name in read_sources() if not name.endswith(("__main__", "migrations.env"))]
    settings = [
        f"{kind.model_config.get('env_prefix', '')}{name}".upper()
        for kind in (Settings, ServiceSettings)
        for name in kind.model_fields
    ]
    assert "PREFECT_VIDEO_TTL_SECONDS" in settings
    # It sets none either: a variable of the environment would win over what the user's Prefect profile says.
    before, after = "import os\nbefore = dict(os.environ)\n", "assert dict(os.environ) == before\n"
    run = subprocess.run(
        [sys.executable, "-c", before + "".join(f"import {name}\n" for name in modules) + after],
        env={**os.environ, **dict.fromkeys(settings, "nonsense")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def test_nothing_imports_aiosqlite() -> None:
    """Only SQLAlchemy's dialect does: a release of it with other private parts can break nothing here."""
    for module, imported in read_package().items():
        assert "aiosqlite" not in {name.split(".")[0] for name, _ in imported}, module
