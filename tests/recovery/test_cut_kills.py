"""Processes that are killed while they make a film: the store shows none of it, and the next one makes it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from prefect_video.film import Cut
from tests.support.films import read_frames
from tests.support.recovery import RecoveryHarness, a_shot, film

CUT = {"title_card": {"text": "Hello", "seconds": 1}, "encoder": {"codec": "libx264", "preset": "ultrafast"}}


async def test_a_killed_cut_leaves_no_part_in_the_store(harness: RecoveryHarness, tmp_path: Path) -> None:
    project = film(a_shot(1), a_shot(2))
    await harness.run(project)
    file = tmp_path / "project.json"
    file.write_text(project.model_copy(update={"cut": Cut.model_validate(CUT)}).model_dump_json(by_alias=True))
    environment = {
        **os.environ,
        "PREFECT_VIDEO_EMULATOR_ENDPOINT": harness.emulator.endpoint,
        "PREFECT_VIDEO_EMULATOR_KEY": harness.emulator.key,
        "PREFECT_VIDEO_SPOOL": str(tmp_path / "spool"),
    }
    command = [sys.executable, "-m", "tests.support.cut_worker", file, tmp_path / "store", tmp_path / "ledger.db"]
    store = tmp_path / "store"
    before = sorted(store.rglob("*"))
    for share in ("0.5", "1.0"):
        killed = subprocess.run([*command, share], env=environment, capture_output=True, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert sorted(store.rglob("*")) == before
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    report = json.loads(ended.stdout.splitlines()[-1])
    assert report["status"] == "made"
    assert len(read_frames(Path(urlsplit(report["uri"]).path))) == 72
    assert harness.paid == (2, 2)
