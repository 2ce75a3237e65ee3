"""Fixtures for every test, and which tests stay together when the suite runs on several cores."""

from pathlib import Path

import pytest

from tests.emulator.fixtures import emulator
from tests.prefect_server import prefect_api

__all__ = ["emulator", "prefect_api"]

TESTS = Path(__file__).parent
SHARE_PREFECT = ("flows/", "service/test_prefect.py", "test_readme.py", "cli/test_real_runs.py")
"""These start Prefect's server or its databases: one process of the suite is enough for that."""


# First: the plugin that runs the suite on several cores reads the groups in the same hook.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests of a file in one process, and those that need Prefect together."""
    for item in items:
        file = item.path.relative_to(TESTS).as_posix()
        group = "prefect" if file.startswith(SHARE_PREFECT) else file
        item.add_marker(pytest.mark.xdist_group(group))
