"""Markers that tests get by the fixtures they use and by the file they are in.

`postgres`, `s3` and `prefect` say which server a test starts, `kills` that it kills processes, `slow` that it takes
long. `pytest tests/unit -m "not postgres and not s3 and not prefect and not kills and not slow"` is the fast selection.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.support.distribution import SHARE_PREFECT

ROOT: Final = Path(__file__).parents[2]

BY_FIXTURE: Final[Mapping[str, Collection[str]]] = {
    "postgres": {"postgres_server", "postgres_url"},
    "s3": {"s3", "bucket"},
    "prefect": {"prefect_api", "shell"},
    "kills": {"emulator_process"},
}
"""The fixtures that start a server, or a process that the test kills."""

BY_FILE: Final[Mapping[str, Collection[str]]] = {
    "kills": {
        "tests/integration/ledger/test_processes.py",
        "tests/integration/test_distribution.py",
        "tests/recovery/test_kills.py",
        "tests/recovery/test_provider_kills.py",
    },
    "slow": {},
}
"""Files whose tests all kill processes, or together take longer than the fast selection can afford."""

_POSTGRES_PARAMETERS: Final = frozenset({"postgres", "postgresql"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every collected test.

    Raises:
        pytest.UsageError: A test starts Prefect's server outside of the files that share one, or a file of the table
            above does not exist: it was moved, and its tests would lose their marker silently.
    """
    if missing := [path for paths in BY_FILE.values() for path in paths if not (ROOT / path).is_file()]:
        raise pytest.UsageError(f"tests/support/markers.py names files that do not exist: {', '.join(missing)}")
    for item in items:
        if "prefect_api" in _fixtures(item) and not item.nodeid.startswith(SHARE_PREFECT):
            raise pytest.UsageError(f"{item.nodeid} starts Prefect's server: add its file to SHARE_PREFECT")
        for marker in set(_find_markers(item)):
            item.add_marker(marker)


def _fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def _find_markers(item: pytest.Item) -> Iterator[str]:
    fixtures = _fixtures(item)
    path = item.nodeid.partition("::")[0]
    yield from (marker for marker, names in BY_FIXTURE.items() if not fixtures.isdisjoint(names))
    yield from (marker for marker, paths in BY_FILE.items() if path in paths)
    # Fixtures for "each kind of ledger" open PostgreSQL by name while they run: only the parameter shows it.
    callspec = getattr(item, "callspec", None)
    if callspec is not None and any(str(value).lower() in _POSTGRES_PARAMETERS for value in callspec.params.values()):
        yield "postgres"
