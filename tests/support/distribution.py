"""How the suite is spread over processes, and what the death of one of them means: the end of the run, with its name.

Left to itself, xdist starts another process and hands it everything that the dead one had, finished files first. A
finished file holds no test to run, so nothing is heard of it and nothing more is handed out: the run stands still.
"""

from __future__ import annotations

from typing import Final, NoReturn

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

SHARE_PREFECT: Final = tuple(
    f"tests/{place}" for place in ("flows/", "service/test_prefect.py", "test_readme.py", "cli/test_real_runs.py")
)
"""These start Prefect's server or its databases: one process of the suite is enough for that."""

_OF_A_DEAD_WORKER: Final = "???"
"""The phase in xdist's report on the test that a worker has died in."""


class Together(LoadFileScheduling):
    """Keeps the tests of a file in one process, and those that need Prefect together."""

    def remove_node(self, node: WorkerController) -> str | None:
        """Return the test that a dead worker was running, None for a worker that has ended in good order.

        Raises:
            pytest.exit.Exception: It died while it ran no test; no report would tell of it.
        """
        works_on = super().remove_node(node)
        if works_on is None and not hasattr(node, "workeroutput"):
            _end_run(f"worker {node.gateway.id!r} died while it was running no test")
        return works_on

    def _split_scope(self, nodeid: str) -> str:
        return "prefect" if nodeid.startswith(SHARE_PREFECT) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Together:
    """Spread the suite over processes."""
    return Together(config, log)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """End the run when a worker has died; the report, which everything else has seen by now, names it and its test."""
    if str(report.when) == _OF_A_DEAD_WORKER:
        _end_run(str(report.longrepr))


def _end_run(reason: str) -> NoReturn:
    pytest.exit(f"{reason}: the run ends here; look for the worker's last lines above", returncode=1)
