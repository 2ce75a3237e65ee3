"""Fixtures and hooks of the whole suite."""

import gc

from hypothesis import settings

from tests.support.distribution import pytest_runtest_logreport, pytest_xdist_make_scheduler
from tests.support.emulator import emulator
from tests.support.markers import pytest_collection_modifyitems, pytest_ignore_collect
from tests.support.migrations import real_migrations, recorded_migrations
from tests.support.prefect_server import prefect_api

__all__ = [
    "emulator",
    "prefect_api",
    "pytest_collection_modifyitems",
    "pytest_ignore_collect",
    "pytest_runtest_logreport",
    "pytest_xdist_make_scheduler",
    "real_migrations",
    "recorded_migrations",
]

# Collection makes a million objects that stay and hardly any garbage; the collector would walk through them again and again.
gc.disable()

# One commit gives one answer; `make explore` looks for what the fixed examples do not reach. A busy machine may take any
# time for an example.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=1000, print_blob=True, deadline=None)
settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """Freeze everything loaded so far: the garbage collector would spend a tenth of the run on walking through it."""
    gc.freeze()
    # A test makes and drops tens of thousands of objects; the default looks at all young ones after each seven hundred.
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
