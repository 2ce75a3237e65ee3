"""Fixtures for every test, and which tests stay together when the suite runs on several cores."""

import gc

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.emulator.fixtures import emulator
from tests.prefect_server import prefect_api

__all__ = ["emulator", "prefect_api"]

SHARE_PREFECT = tuple(
    f"tests/{place}" for place in ("flows/", "service/test_prefect.py", "test_readme.py", "cli/test_real_runs.py")
)
"""These start Prefect's server or its databases: one process of the suite is enough for that."""


class Together(LoadFileScheduling):
    """Keeps the tests of a file in one process, and those that need Prefect together."""

    def _split_scope(self, nodeid: str) -> str:
        return "prefect" if nodeid.startswith(SHARE_PREFECT) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Together:
    """Spreads the suite over processes."""
    return Together(config, log)


def pytest_collection_finish() -> None:
    """Keeps what is loaded by now out of the garbage collector's rounds: to go through it takes a tenth of the time."""
    gc.collect()
    gc.freeze()
