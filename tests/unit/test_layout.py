"""The house: what is installed, and who may import whom."""

import ast
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "core": "",
    "blocks": "blocks",
    "tasks": "tasks",
    "flows": "flows",
    "service": "service",
    "emulator": "emulator",
    "cli": "cli",
}
MAY_IMPORT = {
    "core": set(),
    "blocks": {"core"},
    "tasks": {"core", "blocks"},
    "flows": {"core", "blocks", "tasks"},
    "emulator": {"core"},
    "service": {"core", "blocks", "tasks", "flows"},
    "cli": {"core", "blocks", "tasks", "flows", "service", "emulator"},
}


def modules() -> list[tuple[str, Path]]:
    return [(folder, path) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return names


def folder_of(name: str) -> str | None:
    if name != "prefect_video" and not name.startswith("prefect_video."):
        return None
    first = name.split(".")[1] if "." in name else ""
    return first if first in FOLDERS.values() and first else "core"


@pytest.mark.parametrize(("folder", "path"), modules(), ids=lambda value: str(value).removeprefix(str(ROOT)))
def test_imports_go_one_way(folder: str, path: Path) -> None:
    for name in imported(path):
        target = folder_of(name)
        assert target is None or target == folder or target in MAY_IMPORT[folder], f"{path} imports {name}"
        if folder in ("core", "emulator"):
            assert name.split(".")[0] != "prefect", f"{path} imports Prefect"


def test_every_package_is_listed_and_every_listed_one_exists() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        ".".join(
            [
                "prefect_video",
                *([FOLDERS[folder]] if FOLDERS[folder] else []),
                *path.parent.relative_to(ROOT / folder).parts,
            ]
        )
        for folder, path in modules()
        if path.name == "__init__.py"
    }
    assert set(tool["packages"]) == found


def test_no_flow_or_task_module_hides_another() -> None:
    for folder in ("flows", "tasks"):
        for path in (ROOT / folder).glob("*.py"):
            assert path.stem not in sys.stdlib_module_names
            assert f"def {path.stem}(" not in path.read_text()


def test_importing_the_package_is_quick_and_does_not_import_prefect() -> None:
    code = (
        "import sys, time; began = time.perf_counter(); import prefect_video;"
        " print(time.perf_counter() - began, 'prefect' in sys.modules, 'sqlalchemy' in sys.modules)"
    )
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True).split() for _ in range(5)]
    assert {tuple(run[1:]) for run in runs} == {("False", "False")}
    assert min(float(run[0]) for run in runs) < 0.3


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # `python -m build` goes by way of the sdist, so a file missing from there is missing here.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_puts_one_name_into_site_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "prefect_video",
        next(n for n in names if "dist-info" in n).split("/")[0],
    }
    for folder, path in modules():
        inside = "/".join(filter(None, ["prefect_video", FOLDERS[folder], str(path.relative_to(ROOT / folder))]))
        assert inside in names, f"{inside} is missing from the wheel"
    assert "prefect_video/py.typed" in names


def test_the_wheel_works_elsewhere(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False, system_site_packages=False)
    python = tmp_path / "env" / "bin" / "python"
    site = subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    zipfile.ZipFile(wheel).extractall(site)
    # The dependencies are borrowed from this environment; the package itself must come from the wheel.
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (Path(site) / "borrowed.pth").write_text("\n".join(borrowed))
    code = (
        "import prefect_video, prefect_video.flows, prefect_video.emulator.embedded as e;"
        " from prefect_video.providers.registry import provider_names;"
        " print(prefect_video.__file__, e.__file__, provider_names())"
    )
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect")}
    said = subprocess.check_output([python, "-c", code], text=True, cwd=tmp_path, env=environ)
    assert said.count(site) == 2
    assert "'emulator'" in said
    assert "'sora'" in said
