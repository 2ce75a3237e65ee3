"""Deferred runs in processes of their own: none waits, and a film that a kill has prevented is made once, later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_video.film import Cut
from prefect_video.ledger import State
from tests.support.recovery import a_shot, film
from tests.support.recovery_fixtures import OpenHarness

CUT = {"title_card": {"text": "Hello", "seconds": 1}, "encoder": {"codec": "libx264", "preset": "ultrafast"}}


async def test_no_process_waits_and_what_a_kill_prevents_is_made_once(
    open_harness: OpenHarness, tmp_path: Path
) -> None:
    harness = open_harness(speed=1, times="fixed:3600")
    project = film(a_shot(1), a_shot(2)).model_copy(update={"cut": Cut.model_validate(CUT)})
    file = tmp_path / "project.json"
    file.write_text(project.model_dump_json(by_alias=True))
    environment = {
        **os.environ,
        "PREFECT_VIDEO_EMULATOR_ENDPOINT": harness.emulator.endpoint,
        "PREFECT_VIDEO_EMULATOR_KEY": harness.emulator.key,
        "PREFECT_VIDEO_SPOOL": str(tmp_path / "spool"),
    }

    def start(kind: str, *share: str) -> subprocess.Popen[str]:
        arguments = [kind, str(file), str(tmp_path / "store"), str(tmp_path / "ledger.db"), *share]
        command = [sys.executable, "-m", "tests.support.deferred_worker", *arguments]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    left = start("run")
    assert left.wait(240) == 0, left.communicate()[1]
    with pytest.raises(ProcessLookupError):
        os.killpg(left.pid, 0)
    rows = await harness.rows()
    assert {(row.state, row.owner) for row in rows} == {(State.SUBMITTED, None)}, "no process owns them"
    assert harness.emulator.usage()["billed"] == 0, "they are still being made"

    harness.emulator.change_speed(1_000_000)
    harness.emulator.wait_until_idle()
    killed = start("collect", "0.5")
    assert killed.wait(240) == -signal.SIGKILL, killed.communicate()[1]
    assert {row.state for row in await harness.rows()} == {State.STORED}
    assert not list((tmp_path / "store").rglob("film.*"))
    ended = [collecting.communicate(timeout=240) for collecting in (start("collect"), start("collect"))]
    assert sorted(output for output, _ in ended) == ["", "completed made\n"], ended
    assert list((tmp_path / "store").rglob("film.json"))
    assert harness.paid == (2, 2)
