"""The versions that are said to be supported, in every file that says or checks it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT: Final = Path(__file__).parents[2]
INTERPRETERS: Final = {"3.11", "3.12", "3.13"}
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def find_prefect() -> Requirement:
    """Return the requirement of Prefect."""
    (prefect,) = (wanted for wanted in map(Requirement, PROJECT["dependencies"]) if wanted.name == "prefect")
    return prefect


def find_one(pattern: str, file: str) -> str:
    """Return what the one line of a file that matches a pattern has in the pattern's group."""
    (found,) = re.findall(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    return str(found)


def test_the_package_says_which_interpreters_it_supports() -> None:
    named = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in PROJECT["classifiers"]]
    assert {match[1] for match in named if match} == INTERPRETERS
    oldest = min(INTERPRETERS, key=Version)
    assert PROJECT["requires-python"] == f">={oldest}"


def test_each_interpreter_is_checked_by_the_workflow() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["check"]
    assert set(job["strategy"]["matrix"]["python"]) == INTERPRETERS
    (setup,) = (step for step in job["steps"] if step.get("uses", "").startswith("actions/setup-python@"))
    assert setup["with"]["python-version"] == "${{ matrix.python }}"
    assert any(step.get("run") == "bash .ci/run" for step in job["steps"])


def test_each_interpreter_of_a_machine_runs_the_fast_tests_in_an_environment_of_its_own() -> None:
    assert set(find_one(r"^for version in (.+); do$", ".ci/run").split()) == INTERPRETERS
    assert find_one(r"^ +make test-fast (.+)$", ".ci/run") == 'PYTHON="$interpreter" VENV=".venv-$version"'


def test_the_oldest_prefect_that_is_supported_is_tested_beside_the_pinned_one() -> None:
    wanted = find_prefect()
    (lower,) = (bound.version for bound in wanted.specifier if bound.operator == ">=")
    oldest = Version(find_one(r"^OLDEST := prefect==(\S+) ", "Makefile"))
    pinned = Version(find_one(r"^prefect==(\S+)$", "constraints.txt"))
    assert oldest == Version(lower)
    assert pinned != oldest
    assert pinned in wanted.specifier
