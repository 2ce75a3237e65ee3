"""Other people's text in a run: the commands that show it, and the spreadsheet that they export."""

from __future__ import annotations

import asyncio
import csv
import io
import logging
from pathlib import Path

import pytest

from prefect_video.emulator import Emulator
from prefect_video.pipeline import run_project
from prefect_video.projects import Project
from prefect_video.session import SessionRef, open_session
from tests.integration.cli.test_secrets import provider
from tests.support.cli_fixtures import InProcess

__all__ = ["provider"]

PROMPT = "a sea \u202e\u2066gpj.exe"
MODEL = "=cmd|'/c calc'!A1\x1b[2J"
MESSAGE = "no\r\nerror: the run has paid \x1b[31mtwice\u2028\u202e"
ACTIVE = set("\x1b\x07\r\u202e\u2028\x9b")


async def run_hostile_film() -> str:
    shot = {"id": "sea", "prompt": PROMPT, "model": MODEL, "duration": 1, "resolution": "480p"}
    async with await open_session(SessionRef.from_names()) as session:
        report = await run_project(session, Project.model_validate({"project": "film", "shots": [shot]}))
    return report.summary()


def test_hostile_text_is_shown_and_not_obeyed(
    provider: Emulator, call: InProcess, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG, "prefect_video")
    provider.add_fault(operation="submit", kind="blocked", code="failed", message=MESSAGE, times=None)
    call("jobs")  # switches clean logs on, as every command does
    summary = asyncio.run(run_hostile_film())
    assert "paid" in summary
    assert len(summary.splitlines()) == 2
    answers = [call("jobs"), call("jobs", "--json"), call("spend", "--by", "model"), call("review", "--json")]
    table = call("spend", "--by", "model", "--csv")
    for text in (summary, caplog.text, *(part for answer in (*answers, table) for part in (answer.out, answer.err))):
        assert ACTIVE.isdisjoint(text)
    assert answers[1].json["jobs"][0]["prompt"] == PROMPT
    assert [row[0][:5] for row in csv.reader(io.StringIO(table.out))] == ["model", "'=cmd"]
