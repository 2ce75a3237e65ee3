"""Process workers of Prefect, each a process group of its own that can be killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import EntrypointType

from prefect_video.flows import generate_project

Value = TypeVar("Value")


async def deploy_projects(client: PrefectClient, name: str, pool: str) -> str:
    """Deploy `generate_project` on a process pool, found by its module; return the deployment's name."""
    await client.create_work_pool(WorkPoolCreate(name=pool, type="process"), overwrite=True)
    deployment = await generate_project.ato_deployment(
        name, work_pool_name=pool, entrypoint_type=EntrypointType.MODULE_PATH
    )
    await deployment.aapply()
    return f"{generate_project.name}/{name}"


@dataclass
class PrefectWorker:
    """A running worker.

    Attributes:
        process: Its process, which leads a group of its own.
        log: What it has printed.
    """

    process: subprocess.Popen[bytes]
    log: Path
    _start: Callable[[], subprocess.Popen[bytes]]

    def restart_if_ended(self) -> None:
        """Start it again where it has ended by itself, as systemd or Kubernetes does."""
        if self.process.poll() is not None:
            self.process = self._start()

    def find_flow_processes(self) -> list[int]:
        """Find the processes of the flow runs that it has started and that are still there."""
        return find_descendants(self.process.pid)

    def find_flow_runs(self) -> set[str]:
        """Find the ids of the flow runs that it has taken; what another worker had taken before it is not among them."""
        lines = self.log.read_text().splitlines()
        ids = {kind: set(_find_ids(lines, kind)) for kind in ("submitting", "Aborted submission of")}
        return ids["submitting"] - ids["Aborted submission of"]

    def wait_for_flow_process(self) -> int:
        """Wait until it has started the process of a flow run."""
        return wait_until(lambda: next(iter(self.find_flow_processes()), None), f"a flow run starts; {self.log}")

    def kill_flow_processes(self) -> None:
        """Kill the processes of its flow runs, which it sees and reports."""
        kill_all(self.find_flow_processes())

    def kill(self) -> None:
        """Kill it and its flow processes, as a power cut does."""
        kill_all([self.process.pid, *self.find_flow_processes()])
        self.process.wait()


@contextmanager
def run_worker(
    api: str, pool: str, folder: Path, *, limit: int = 4, variables: Mapping[str, str] | None = None
) -> Iterator[PrefectWorker]:
    """Run a worker in a new folder, with this process's environment, until the block ends."""
    folder.mkdir()
    environ = {
        **os.environ,
        "PREFECT_API_URL": api,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DO_NOT_TRACK": "1",
        **(variables or {}),
    }
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--limit", str(limit)]
    log = folder / "worker.log"

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [*command, "--name", folder.name],
                cwd=folder,
                env=environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    worker = PrefectWorker(start(), log, start)
    try:
        yield worker
    finally:
        kill_all([worker.process.pid, *find_descendants(worker.process.pid)])
        worker.process.wait()


def _find_ids(lines: Iterable[str], kind: str) -> Iterator[str]:
    return (match[1] for line in lines if (match := re.search(f"{kind} flow run '([^']+)'", line)))


def find_descendants(pid: int) -> list[int]:
    """Find the processes that a process has started, and those that they have."""
    try:
        children = [
            int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [*children, *(descendant for child in children for descendant in find_descendants(child))]


def kill_all(pids: list[int]) -> None:
    """Kill processes at once; some may be gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_until(check: Callable[[], Value | None], what: str, *, seconds: float = 300) -> Value:
    """Wait until a check of something outside of this process gives a value, and return it."""
    deadline = time.monotonic() + seconds
    while (found := check()) is None or found is False:
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds:.0f} s, still waiting until {what}")
        time.sleep(0.1)
    return found
