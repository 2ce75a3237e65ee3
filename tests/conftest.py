"""Fixtures for every test, and how the suite is spread over processes."""

import gc

from tests.support.distribution import pytest_runtest_logreport, pytest_xdist_make_scheduler
from tests.support.emulator import emulator
from tests.support.prefect_server import prefect_api

__all__ = ["emulator", "prefect_api", "pytest_runtest_logreport", "pytest_xdist_make_scheduler"]


def pytest_collection_finish() -> None:
    """Keeps what is loaded by now out of the garbage collector's rounds: to go through it takes a tenth of the time."""
    gc.collect()
    gc.freeze()
