"""What the command tells when Prefect's API fails while the shots are made and paid."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from prefect.flow_engine import AsyncFlowRunEngine
from prefect.states import State

from prefect_video.cli import main
from prefect_video.cli.commands import run as run_command
from prefect_video.emulator import Emulator
from prefect_video.flows import artifacts


@pytest.fixture
def film(session: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = session / "film.yaml"
    path.write_text(
        "project: film\ndefaults: {duration: 1, resolution: 480p}\n"
        'shots:\n  - {id: sea, prompt: the sea}\n  - {id: fog, prompt: "[policy] fog"}\n'
    )
    monkeypatch.setattr(run_command, "ensure_api", lambda: None)
    package_logger = logging.getLogger("prefect_video")
    before = package_logger.handlers[:], package_logger.propagate
    yield path
    package_logger.handlers, package_logger.propagate = before


async def unreachable(*given: Any, **named: Any) -> NoReturn:
    raise httpx.ConnectError("All connection attempts failed")


def ending_fails_from(state_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real_set_state = AsyncFlowRunEngine.set_state

    async def set_state(engine: Any, state: State[Any], force: bool = False) -> Any:
        if engine.flow_run and (state.name == state_name or state.is_final()):
            await unreachable()
        return await real_set_state(engine, state, force)

    monkeypatch.setattr(AsyncFlowRunEngine, "set_state", set_state)


def test_artifacts_that_cannot_be_written_decide_about_no_video(
    film: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("acreate_progress_artifact", "acreate_table_artifact"):
        monkeypatch.setattr(artifacts, name, unreachable)
    status = main(["run", str(film), "--json"])
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    for part in ("progress artifact", "table of shots"):
        assert printed.err.count(f"warning: the {part} could not be written") == 1
    assert printed.err.count("content policy") == 1, "a failure is told once"
    assert status == 1
    assert [shot["status"] for shot in report["shots"]] == ["stored", "failed"]
    assert report["cost_usd"] == 0.3


def test_an_end_that_prefect_does_not_see_is_reported_all_the_same(
    film: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ending_fails_from("Completed", monkeypatch)
    status = main(["run", str(film), "--json"])
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert status == 1
    assert (report["project"], report["cost_usd"]) == ("film", 0.3)
    assert [shot["status"] for shot in report["shots"]] == ["stored", "failed"]
    assert "Prefect's API did not receive the run's end (All connection attempts failed)" in printed.err
    assert "Traceback" not in printed.err
    assert "defect" not in printed.err


def test_an_api_that_fails_at_the_beginning_is_named(
    film: Path, emulator: Emulator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ending_fails_from("Running", monkeypatch)
    status = main(["run", str(film), "--json"])
    printed = capsys.readouterr()
    assert status == 1
    assert json.loads(printed.out)["project"] == "film"
    assert "Prefect's API failed during the run" in printed.err
    assert "defect" not in printed.err
    assert emulator.usage()["submitted"] == 0
