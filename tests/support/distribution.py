"""Distribution of the suite over processes; the death of one ends the run and names it.

Left to itself, xdist starts another process and gives it everything that the dead one had, finished files first. A
finished file holds no test to run, so it sends no report and gets no more work: the run hangs.
"""

from __future__ import annotations

from typing import Final, NoReturn

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

SHARE_PREFECT: Final = (
    "tests/integration/cli/test_runs.py",
    "tests/integration/cli/test_traces.py",
    "tests/integration/docs/test_pages.py",
    "tests/integration/flows/",
    "tests/integration/service/test_deployment_queue.py",
    "tests/integration/service/test_key_reload.py",
    "tests/integration/service/test_prefect.py",
    "tests/integration/service/test_tokens_block.py",
)
"""These start Prefect's server or its databases, which takes long: one process of the suite runs them all.

`tests.support.markers` rejects a test that starts Prefect's server from anywhere else.
"""

_CRASH_PHASE: Final = "???"
"""The phase in xdist's report on the test that a worker died in."""


class GroupedFileScheduling(LoadFileScheduling):
    """Scheduler that keeps the tests of a file in one process, and all tests that need Prefect in one too."""

    def remove_node(self, node: WorkerController) -> str | None:
        """Return the test that a dead worker was running, None for a worker that ended normally.

        Raises:
            pytest.exit.Exception: The worker died while it ran no test; no report would mention it.
        """
        crashed_test = super().remove_node(node)
        # A worker that ends normally hands over its output first.
        if crashed_test is None and not hasattr(node, "workeroutput"):
            _end_run(f"worker {node.gateway.id!r} died while it was running no test")
        return crashed_test

    def _split_scope(self, nodeid: str) -> str:
        return "prefect" if nodeid.startswith(SHARE_PREFECT) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupedFileScheduling:
    """Return the scheduler of the suite."""
    return GroupedFileScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """End the run when a worker has died; the report, which every other plugin has by now, names it and its test."""
    if str(report.when) == _CRASH_PHASE:
        _end_run(str(report.longrepr))


def _end_run(reason: str) -> NoReturn:
    pytest.exit(f"{reason}: the run ends here; look for the worker's last lines above", returncode=1)
