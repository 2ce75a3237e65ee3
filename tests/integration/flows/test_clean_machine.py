"""A machine with nothing but the installed wheel: `init`, `setup`, and a scheduled run on a worker in another folder."""

from __future__ import annotations

import json
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

from prefect_video.emulator import Emulator
from tests.support.page_blocks import read_blocks

DEPLOYING = Path(__file__).parents[3] / "docs" / "deploying.md"
PATIENCE_SECONDS = 300
PROJECT = "generate-project/project"
HAS_SCHEDULING = Version(prefect.__version__) >= Version("3.9")
"""The server of Prefect 3.8 answers "database is locked" when a schedule's runs are requested on SQLite."""


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


def save_blocks(machine: Machine, emulator: Emulator) -> None:
    """Save an account, a store and a ledger on the machine, as the page about deploying does."""
    (text,) = [block.text for block in read_blocks(DEPLOYING) if "VideoLedger(" in block.text]
    for named, here in {
        "sk-…": emulator.key,
        "https://host/v1/sora": emulator.endpoint,
        "s3://films/ads": f"file://{machine.home}/videos",
        "postgresql://user:password@host/video": f"sqlite:///{machine.home}/ledger.db",
    }.items():
        assert named in text
        text = text.replace(named, here)
    (machine.home / "save.py").write_text(text, encoding="utf-8")
    saved = machine.run("python", "save.py", cwd=machine.home)
    assert saved.returncode == 0, saved.stdout + saved.stderr


@pytest.mark.timeout(1200)
def test_from_nothing_to_a_scheduled_video(machine: Machine, emulator: Emulator) -> None:
    films = machine.folder("films")
    assert machine.run("prefect-video", "init", cwd=films).returncode == 0
    save_blocks(machine, emulator)
    # The schedule that is shipped is due every morning at six, which no test can wait for: this one edits its rule.
    declared = films / "prefect.yaml"
    text = declared.read_text(encoding="utf-8")
    assert text.count('cron: "0 6 * * *"') == 1
    declared.write_text(text.replace('cron: "0 6 * * *"', "interval: 20"), encoding="utf-8")
    setup = machine.run("prefect-video", "setup", cwd=films)
    assert setup.returncode == 0, setup.stdout + setup.stderr
    assert "prefect worker start --pool video" in setup.stderr
    with machine.worker("video", cwd=machine.folder("elsewhere")) as log:
        if HAS_SCHEDULING:
            resume_schedule(machine)
            schedule_runs(PROJECT)
        else:
            scheduled = machine.prefect("deployment", "run", PROJECT, "--start-in", "2 seconds", cwd=machine.home)
            assert scheduled.returncode == 0, scheduled.stdout + scheduled.stderr
        run = wait_for_end(PROJECT)
        assert run.auto_scheduled is HAS_SCHEDULING, "the schedule has made the run, not the test"
        assert run.state is not None
        assert run.state.is_completed(), (run.state, log.read_text())
    assert emulator.usage()["billed"] == 2
    assert len(list((machine.home / "videos" / "coffee-ad").glob("*.mp4"))) == 2
    assert list((machine.home / "elsewhere").iterdir()) == [], "nothing is written where the worker was started"


def resume_schedule(machine: Machine) -> None:
    """Find the schedule that the set-up has made, and resume it, with Prefect's own commands."""
    listed = machine.prefect("deployment", "schedule", "ls", PROJECT, "--output", "json", cwd=machine.home)
    assert listed.returncode == 0, listed.stdout + listed.stderr
    (schedule,) = json.loads(listed.stdout)
    assert (schedule["slug"], schedule["active"]) == ("every-morning", False)
    resumed = machine.prefect("deployment", "schedule", "resume", PROJECT, schedule["id"], cwd=machine.home)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr


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
