"""Layout of the package: what is installed, and who may import whom."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Set
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "src/prefect_video": "",
    "blocks": "blocks",
    "tasks": "tasks",
    "flows": "flows",
}
"""Folders of the checkout, and the subpackage of `prefect_video` that each is; the empty one is the package itself."""

RECORDS: Final = frozenset(
    {
        "errors",
        "generations",
        "assets",
        "shots",
        "projects",
        "frame_sizes",
        "inputs",
        "fingerprints",
        "retry_policy",
        "field_errors",
        "project_files",
        "project_text",
        "templates",
        "rows",
        "quality",
        "remixes",
    }
)
INTERNALS: Final = frozenset(
    {
        "_amounts",
        "_clean_text",
        "_counted",
        "_crash_trace",
        "_dedicated_thread",
        "_lazy_names",
        "_proxies",
        "_redaction",
        "_shield",
        "_tls",
    }
)
"""Single modules at the root of the package that any room but the records may import."""

BASE: Final = RECORDS | INTERNALS
DOMAIN: Final = frozenset(
    {"downloads", "film", "gallery", "ledger", "providers", "storage", "limits", "polling", "session", "pipeline"}
    | {"experiments"}
)
MAY_IMPORT: Final[Mapping[str, Set[str]]] = {
    # Records: what everything else speaks of.
    "errors": set(),
    "_clean_text": set(),
    "generations": {"errors", "_clean_text"},
    "inputs": {"errors"},
    "frame_sizes": set(),
    "quality": {"errors", "inputs"},
    "film": {"_lazy_names", "assets", "errors", "inputs"},
    "assets": {"errors", "generations", "inputs", "quality"},
    "shots": {"errors", "frame_sizes", "inputs"},
    "remixes": {"shots"},
    "projects": {"errors", "film", "frame_sizes", "inputs", "quality", "remixes", "shots"},
    "retry_policy": {"errors"},
    "fingerprints": {"errors", "generations", "assets", "inputs", "quality", "shots"},
    "templates": {"errors", "frame_sizes", "inputs", "projects", "quality", "shots"},
    "field_errors": {"projects", "templates"},
    "project_text": {"errors", "field_errors", "templates"},
    "project_files": RECORDS - {"project_files", "retry_policy", "rows"} | {"film"},
    "rows": {"errors", "inputs", "projects", "quality", "shots", "project_files", "project_text", "templates"},
    "_amounts": set(),
    "_counted": set(),
    "_crash_trace": set(),
    "_redaction": set(),
    "_shield": {"errors"},
    "_dedicated_thread": {"errors", "_shield"},
    "_lazy_names": set(),
    "_proxies": {"errors"},
    "_tls": {"errors"},
    # Rooms, from the ground up.
    "downloads": BASE,
    "ledger": BASE,
    "providers": BASE | {"downloads"},
    "storage": BASE | {"downloads"},
    "gallery": BASE | {"downloads", "film", "ledger", "storage"},
    "limits": BASE | {"downloads", "ledger", "providers"},
    "polling": BASE | {"downloads", "ledger", "providers"},
    "emulator": BASE | {"providers"},
    "session": BASE | DOMAIN - {"session", "pipeline", "experiments"},
    "pipeline": BASE | DOMAIN - {"pipeline", "experiments"},
    "experiments": BASE | DOMAIN - {"experiments"},
    # What Prefect sees, and what starts from a shell.
    "blocks": BASE | DOMAIN,
    "tasks": BASE | DOMAIN | {"blocks"},
    "flows": BASE | DOMAIN | {"blocks", "tasks"},
    "service": BASE | DOMAIN | {"blocks", "tasks", "flows"},
    "deployments": BASE | DOMAIN | {"blocks", "tasks", "flows"},
    "cli": BASE | DOMAIN | {"blocks", "tasks", "flows", "service", "deployments", "emulator"},
}
"""What each room may import besides itself."""

WITHOUT_PREFECT: Final = BASE | DOMAIN | {"emulator"}

SECOND_DOORS: Final = frozenset(
    {f"prefect_video.providers.{vendor}" for vendor in ("fal", "openai", "openrouter", "replicate", "sora")}
    | {
        "prefect_video.pipeline.steps",
        # Prefect registers every block that the door of `blocks` names: the base class must not be there.
        "prefect_video.blocks.base",
        # Deployments name flows by their modules; the command line runs one and reads its outcome.
        "prefect_video.flows.project",
        "prefect_video.flows.artifacts",
        "prefect_video.flows.suspension",
    }
)
"""Modules inside a room that may be imported from outside of it, besides the room's own door."""

SHARED_NAMES: Final = frozenset({"__init__", "__main__", "base", "settings", "sessions", "routes", "errors"})
"""File names that mean the same wherever they stand."""


def modules() -> list[tuple[str, Path]]:
    """Find every module with the folder of the checkout that it is in."""
    return [(folder, path) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def module_name(folder: str, path: Path) -> str:
    """Return the dotted name that a file is imported by."""
    parts = path.relative_to(ROOT / folder).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(("prefect_video", *filter(None, [FOLDERS[folder]]), *parts))


SOURCES: Final = {module_name(folder, path): path for folder, path in modules()}


@cache
def import_statements(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Return the import statements of a file, wherever in the file they are."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


@cache
def imported_modules(path: Path) -> frozenset[str]:
    """Return the modules of this package that a file imports, wherever in the file it does.

    A name that is imported from a package counts as an import of the submodule of that name only where the package
    does not define it otherwise.
    """
    found: set[str] = set()
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path}: relative import"
            source = node.module or ""
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                is_submodule = inner in SOURCES and alias.name not in defined_names(source)
                found.add(inner if is_submodule else source)
    return frozenset(name for name in found if name.split(".")[0] == "prefect_video")


@cache
def defined_names(module: str) -> frozenset[str]:
    """Return what a package's door lists in `__all__`."""
    if module not in SOURCES:
        return frozenset()
    for node in ast.parse(SOURCES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def room_of(module: str) -> str:
    """Return the room, or the single module at the root of the package, that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def imports_between_rooms() -> Iterator[tuple[str, str]]:
    """Yield every import that leaves its room: the module, and the module that it imports."""
    for module, path in SOURCES.items():
        for target in sorted(imported_modules(path)):
            if room_of(module) and room_of(target) != room_of(module):
                yield module, target


def test_every_room_has_its_place() -> None:
    assert {room_of(module) for module in SOURCES} - {""} == set(MAY_IMPORT)
    for room, targets in MAY_IMPORT.items():
        assert room not in targets


def test_rooms_import_only_what_lies_below_them() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, target in imports_between_rooms()
        # From inside, the package itself is imported for its version only.
        if room_of(target) and room_of(target) not in MAY_IMPORT[room_of(module)]
    ]
    assert wrong == []


def test_no_room_may_import_itself_through_others() -> None:
    # Raises CycleError where the table itself allows a circle.
    TopologicalSorter(MAY_IMPORT).prepare()


def test_rooms_are_imported_through_their_doors() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, target in imports_between_rooms()
        if target.count(".") > 1 and target not in SECOND_DOORS
    ]
    assert wrong == []


INNER_DOORS: Final = frozenset(
    {
        "prefect_video.service.jobs",
        "prefect_video.service.webhooks",
        "prefect_video.emulator.rendering",
        "prefect_video.emulator.dialects.openai",
    }
)
"""Rooms inside of rooms that even their neighbours in the same room import through the door."""


def test_rooms_inside_of_rooms_are_imported_through_their_doors() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, path in SOURCES.items()
        for target in sorted(imported_modules(path))
        for door in INNER_DOORS
        if target.startswith(f"{door}.") and not f"{module}.".startswith(f"{door}.")
    ]
    assert wrong == []


NAMED_BY_MODULE: Final = frozenset({"prefect_video.cli.commands", "prefect_video.emulator.dialects"})
"""Rooms inside of rooms whose modules are what they offer: a command or a dialect is imported when it is used."""


def rooms() -> dict[str, Path]:
    """Return every room, also inside of another, by its dotted name; the schema's revisions are none."""
    return {
        module: path
        for module, path in SOURCES.items()
        if path.name == "__init__.py" and module.count(".") > 0 and ".migrations" not in module
    }


def test_every_room_says_what_it_is_and_lists_its_names() -> None:
    for module, path in rooms().items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        about = ast.get_docstring(tree)
        assert about, f"{module} has no docstring"
        assert "may import" in " ".join(about.lower().split()), f"{module} does not say what it may import"
        if module in NAMED_BY_MODULE:
            continue
        names = defined_names(module)
        assert names, f"{module} has no __all__"
        # A door that imports its names at their first use shows them to type checkers.
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        # Entry points that differ by one word are functions of their vendor's door.
        own = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert names <= imported | own | {"__version__"}, f"{module}: {names - imported - own}"
        door = import_module(module)
        assert [name for name in names if not hasattr(door, name)] == []


@pytest.mark.parametrize("room", sorted(WITHOUT_PREFECT))
def test_the_domain_does_not_import_prefect(room: str) -> None:
    for module, path in SOURCES.items():
        if room_of(module) != room:
            continue
        for node in import_statements(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert "prefect" not in {name.split(".")[0] for name in names}, module


def places_by_file_name() -> dict[str, set[str]]:
    """Return the packages in which each file name stands.

    Files that vendors have in common count once for `providers` and once for the emulator's dialects, as do a command
    and the room that does its work.
    """
    places: dict[str, set[str]] = {}
    for module, path in SOURCES.items():
        if path.name == "__init__.py" or path.stem in SHARED_NAMES or path.stem.startswith("r0"):
            continue
        package = module.rpartition(".")[0]
        for family in ("prefect_video.providers", "prefect_video.emulator.dialects"):
            if package.startswith(f"{family}."):
                package = "a vendor's folder"
        places.setdefault(path.stem, set()).add(package)
    return places


ONE_SUBJECT: Final[Mapping[str, Set[str]]] = {
    # A command or a flow is called what the room calls the work that it starts.
    "collect": {"prefect_video.pipeline", "prefect_video.flows", "prefect_video.cli.commands"},
    "plan": {"prefect_video.pipeline", "prefect_video.cli.commands"},
    "cancel": {"prefect_video.pipeline", "prefect_video.cli.commands"},
    # The final cut: its records, the work, the command.
    "cut": {"prefect_video.film", "prefect_video.pipeline", "prefect_video.cli.commands"},
    "jobs": {"prefect_video.ledger", "prefect_video.cli.commands"},
    "experiment": {"prefect_video.experiments", "prefect_video.cli.commands"},
    "shot": {"prefect_video.flows", "prefect_video.cli.commands"},
    "spend": {"prefect_video.flows", "prefect_video.cli.commands"},
    "verify": {"prefect_video.flows", "prefect_video.cli.commands"},
    "gallery": {"prefect_video.flows", "prefect_video.cli.commands"},
    "setup": {"prefect_video.deployments", "prefect_video.cli.commands"},
    "ledger": {"prefect_video.ledger", "prefect_video.blocks", "prefect_video.cli.commands"},
    "emulator": {"prefect_video", "prefect_video.cli.commands"},
    # One word a vendor: its block, its folder of the providers, its dialect of the emulator.
    **{
        vendor: {"prefect_video.blocks", "prefect_video.emulator.dialects"}
        for vendor in ("fal", "openrouter", "replicate", "sora", "openai")
    },
    # The last steps of a shot, and what the room below calls the same thing.
    "store": {"prefect_video.blocks", "prefect_video.pipeline.steps"},
    # What an answer is read into, and how a refusal is told from a failure: of any provider, of one vendor.
    "responses": {"prefect_video.providers", "a vendor's folder"},
    "refusals": {"prefect_video.providers", "a vendor's folder"},
    # The application object of a program: of the service, of the command line.
    "app": {"prefect_video.cli", "prefect_video.service"},
    # What opens a thing by its name: a provider, a store.
    "registry": {"prefect_video.providers", "prefect_video.storage"},
    # A form that can be checked: of a project file, of the ledger's tables.
    "schema": {"prefect_video.ledger", "prefect_video.cli.commands"},
}
"""File names that stand more than once for one and the same subject."""


def test_no_file_name_stands_for_two_things() -> None:
    twice = {
        name: sorted(packages)
        for name, packages in places_by_file_name().items()
        if len(packages) > 1 and not packages <= ONE_SUBJECT.get(name, set())
    }
    assert twice == {}


def test_every_package_is_listed_and_every_listed_one_exists() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(tool["packages"]) == {module for module, path in SOURCES.items() if path.name == "__init__.py"}


def test_no_flow_or_task_module_hides_another() -> None:
    for folder in ("flows", "tasks"):
        for path in (ROOT / folder).glob("*.py"):
            assert path.stem not in sys.stdlib_module_names
            assert f"def {path.stem}(" not in path.read_text()


def test_importing_the_package_is_quick_and_does_not_import_prefect() -> None:
    code = (
        "import sys, time; began = time.process_time(); import prefect_video;"
        " print(time.process_time() - began, *(name in sys.modules for name in ('prefect', 'sqlalchemy', 'pydantic')))"
    )
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True).split() for _ in range(5)]
    assert {tuple(run[1:]) for run in runs} == {("False", "False", "False")}
    assert min(float(run[0]) for run in runs) < 0.1


def test_every_public_name_works_without_prefect() -> None:
    code = (
        "import sys, prefect_video as package; names = [getattr(package, name) for name in package.__all__];"
        " print(set(package.__all__) <= set(dir(package)), 'prefect' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["True", "False"]


def test_the_package_offers_every_error() -> None:
    import prefect_video
    from prefect_video import errors

    hierarchy = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.VideoError)
    }
    assert hierarchy <= set(prefect_video.__all__)


def test_the_wheel_puts_one_name_into_site_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "prefect_video",
        next(name for name in names if "dist-info" in name).split("/")[0],
    }
    for folder, path in modules():
        inside = "/".join(filter(None, ["prefect_video", FOLDERS[folder], str(path.relative_to(ROOT / folder))]))
        assert inside in names, f"{inside} is missing from the wheel"
    assert "prefect_video/py.typed" in names
    fonts = {name.rpartition("/")[2] for name in names if name.startswith("prefect_video/film/fonts/")}
    assert fonts == {"SourceSansPro-Regular.ttf", "SourceSansPro-Semibold.ttf", "OFL.txt"}


@pytest.mark.parametrize("from_checkout", [False, True], ids=["elsewhere", "in the checkout"])
def test_the_wheel_works(installed_wheel: tuple[Path, str], tmp_path: Path, from_checkout: bool) -> None:
    python, site = installed_wheel
    code = (
        "import prefect_video, prefect_video.flows, prefect_video.emulator.embedded as e;"
        " from prefect_video.providers.registry import provider_names;"
        " print(prefect_video.__file__, e.__file__, prefect_video.flows.__file__, provider_names())"
    )
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect")}
    # A worker's folder may be a checkout: `-c` puts it first on the path, and the wheel must win all the same.
    folder = ROOT if from_checkout else tmp_path
    output = subprocess.check_output([python, "-c", code], text=True, cwd=folder, env=environ)
    assert output.count(site) == 3
    assert "'emulator'" in output
    assert "'sora'" in output


def test_the_demo_installs_the_package_alone(tmp_path: Path) -> None:
    def installed(target: str) -> list[str]:
        command = ["make", "--dry-run", target, f"VENV={tmp_path}"]
        lines = subprocess.check_output(command, text=True, cwd=ROOT).splitlines()
        return [line.split()[-1] for line in lines if "pip install" in line]

    assert installed("demo") == ["."]
    assert installed("lint") == ["'.[dev]'"]
