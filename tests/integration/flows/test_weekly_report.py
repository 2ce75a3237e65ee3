"""The example that is a flow, run as printed; the emulator's usage says what was paid."""

from __future__ import annotations

import runpy
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName

from prefect_video.emulator import Emulator
from prefect_video.storage import open_store
from tests.support.examples import EXAMPLES, example_environment, run_python, stored_videos

__all__ = ["example_environment"]


def test_the_weekly_report_pays_once(
    example_environment: pytest.MonkeyPatch,
    emulator: Emulator,
    tmp_path: Path,
    prefect_api: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    example_environment.setenv("PREFECT_API_URL", prefect_api)
    uri = run_python(str(EXAMPLES / "weekly_report.py")).strip().splitlines()[-1]
    assert [path.as_uri() for path in stored_videos(tmp_path / "videos")] == [uri]
    assert emulator.usage()["billed"] == 1

    # Again in another process: this one, which has loaded Prefect already.
    runpy.run_path(str(EXAMPLES / "weekly_report.py"), run_name="__main__")
    assert capsys.readouterr().out.strip().splitlines()[-1] == uri
    _await_task_state("Cached")
    assert open_store(str(tmp_path / "videos")).owns(uri)
    assert emulator.usage()["billed"] == 1


def _await_task_state(name: str) -> None:
    """Wait until a task run of the weekly report has a state of this name; the server records it after it ended."""
    deadline = time.monotonic() + 60
    names: set[str] = set()
    with get_client(sync_client=True) as client:
        while name not in names:
            assert time.monotonic() < deadline, names
            runs = client.read_task_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["weekly-report"])), limit=10)
            names = {str(run.state_name) for run in runs}
            time.sleep(0.1)
