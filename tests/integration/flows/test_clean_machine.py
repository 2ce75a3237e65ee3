"""A machine with nothing but the installed wheel: `init`, `setup`, and a scheduled run on a worker in another folder."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import prefect
import pytest
from packaging.version import Version
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from prefect_video.blocks import SoraCredentials, VideoLedger, VideoStore
from prefect_video.emulator import Emulator

PATIENCE_SECONDS = 300
PROJECT = "generate-project/project"
HAS_SCHEDULING = Version(prefect.__version__) >= Version("3.9")
"""The server of Prefect 3.8.0 answers "database is locked" when a schedule's runs are requested on SQLite."""


class Machine:
    """An environment that only has the wheel, and a home of its own.

    Attributes:
        scripts: The folder of its commands.
        home: Its home.
    """

    def __init__(self, python: Path, home: Path, api: str) -> None:
        self.scripts = python.parent
        self.home = home
        self._environ = {
            "PATH": f"{self.scripts}:{os.environ['PATH']}",
            "HOME": str(home),
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_API_URL": api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
        }

    def folder(self, name: str) -> Path:
        """Create an empty folder."""
        path = self.home / name
        path.mkdir()
        return path

    def run(self, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        script = [str(self.scripts / command[0]), *command[1:]]
        return subprocess.run(script, cwd=cwd, env=self._environ, capture_output=True, text=True, check=False)

    def prefect(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run Prefect's own command to its end."""
        return self.run("python", "-m", "prefect", *arguments, cwd=cwd)

    @contextmanager
    def worker(self, pool: str, cwd: Path) -> Iterator[Path]:
        """Run a worker of the pool in a folder; yields its log."""
        log = self.home / "worker.log"
        command = [str(self.scripts / "python"), "-m", "prefect", "worker", "start", "--pool", pool]
        with log.open("w") as output:
            process = subprocess.Popen(
                command, cwd=cwd, env=self._environ, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                yield log
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def machine(installed_wheel: tuple[Path, str], prefect_api: str, tmp_path: Path) -> Machine:
    return Machine(installed_wheel[0], tmp_path, prefect_api)


def save_blocks(emulator: Emulator, folder: Path) -> None:
    """Save what an operator saves: an account, a store, a ledger."""
    account = SoraCredentials(api_key=emulator.key, endpoint=emulator.endpoint, plan="emulator")  # type: ignore[arg-type]
    account.save("production", overwrite=True)
    VideoStore(url=f"file://{folder}/videos").save("production", overwrite=True)
    ledger = VideoLedger(url=f"sqlite:///{folder}/ledger.db", monthly_usd=100)  # type: ignore[arg-type]
    ledger.save("production", overwrite=True)


@pytest.mark.timeout(1200)
def test_from_nothing_to_a_scheduled_video(machine: Machine, emulator: Emulator) -> None:
    films = machine.folder("films")
    assert machine.run("prefect-video", "init", cwd=films).returncode == 0
    save_blocks(emulator, machine.home)
    setup = machine.run("prefect-video", "setup", cwd=films)
    assert setup.returncode == 0, setup.stdout + setup.stderr
    assert "prefect worker start --pool video" in setup.stderr
    with machine.worker("video", cwd=machine.folder("elsewhere")) as log:
        # Due within some seconds, however long it takes to make it.
        often = ("deployment", "schedule", "create", PROJECT, "--interval", "20")
        once = ("deployment", "run", PROJECT, "--start-in", "2 seconds")
        scheduled = machine.prefect(*(often if HAS_SCHEDULING else once), cwd=machine.home)
        assert scheduled.returncode == 0, scheduled.stdout + scheduled.stderr
        if HAS_SCHEDULING:
            schedule_runs(PROJECT)
        run = wait_for_end(PROJECT)
        assert run.auto_scheduled is HAS_SCHEDULING, "the schedule has made the run, not the test"
        assert run.state is not None
        assert run.state.is_completed(), (run.state, log.read_text())
    assert emulator.usage()["billed"] == 2
    assert len(list((machine.home / "videos" / "coffee-ad").glob("*.mp4"))) == 2
    assert list((machine.home / "elsewhere").iterdir()) == [], "nothing is written where the worker was started"


def schedule_runs(deployment: str) -> None:
    """Let the server make the next run of a deployment's schedule, as its scheduler does, which tests leave out."""
    # The server answers 503 while its database is busy.
    busy = retry_if_exception(lambda error: getattr(getattr(error, "response", None), "status_code", 0) == 503)
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(deployment)
        for attempt in Retrying(retry=busy, wait=wait_fixed(1), stop=stop_after_delay(PATIENCE_SECONDS), reraise=True):
            with attempt:
                answer = client._client.post(f"/deployments/{found.id}/schedule", json={"min_runs": 1, "max_runs": 1})
                answer.raise_for_status()


def wait_for_end(deployment: str) -> FlowRun:
    """Wait until the first run of a deployment has ended, and return it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with get_client(sync_client=True) as client:
        of_it = DeploymentFilter(id=DeploymentFilterId(any_=[client.read_deployment_by_name(deployment).id]))
        while time.monotonic() < deadline:
            runs = client.read_flow_runs(deployment_filter=of_it)
            if ended := [run for run in runs if run.state and run.state.is_final()]:
                return ended[0]
            time.sleep(0.5)
    pytest.fail(f"no run has ended after {PATIENCE_SECONDS} s: {[run.state_name for run in runs]}")
