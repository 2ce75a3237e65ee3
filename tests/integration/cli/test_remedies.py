"""The commands that messages print, run in a shell as they are, for a ledger that is not the default."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from prefect_video.cli import main
from prefect_video.cli.options import ledger_name
from prefect_video.ledger import HoldReason, Job, Ledger, State, hold_message
from prefect_video.ledger.hold_reasons import HOLDS
from prefect_video.ledger.urls import parse_database_url
from prefect_video.pipeline.steps import build_project_job_requests, claim_shots
from prefect_video.projects import Project
from prefect_video.session import SessionRef, open_session
from tests.support.cli_fixtures import COMMAND, InProcess, Shell
from tests.support.records import begin_submit

SHOT = Project.model_validate(
    {"project": "film", "shots": [{"id": "sea", "prompt": "the sea", "duration": 1, "resolution": "480p"}]}
)


def find_commands(text: str) -> list[str]:
    """Find the command lines in a message, in their order."""
    return re.findall(r"prefect-video (?:resolve|cancel|collect|jobs)\b(?:(?! \(|, or |\. |;).)*", text)


async def create_unanswered_job(ledger: Path) -> Job:
    """Create a held job whose submit was not answered, and whose owner is dead."""
    async with await open_session(SessionRef.from_names("emulator", ledger=str(ledger))) as session:
        (claim,) = await claim_shots(
            session, await build_project_job_requests(session, SHOT), budgets=(), partial=False
        )
        assert claim.job is not None
        await begin_submit(session.ledger, claim.job.id)
        job = await session.ledger.jobs.record_unknown(claim.job.id, "no answer")
        message = hold_message(
            HoldReason.SUBMIT_UNANSWERED,
            job=job.id,
            shot=job.shot.id,
            ledger=session.ledger.command_option,
            cause="the provider cannot tell",
        )
        return await session.ledger.jobs.hold(job.id, message)


async def read_state(ledger: Path, job: Job) -> State:
    async with await Ledger.open(str(ledger)) as opened:
        return (await opened.jobs.get(job.id)).state


def test_what_collect_prints_can_be_pasted_into_a_shell(call: InProcess, shell: Shell, tmp_path: Path) -> None:
    ledger = tmp_path / "another ledger.db"
    job = asyncio.run(create_unanswered_job(ledger))
    answer = call("collect", "--ledger", ledger)
    accepted, absent = find_commands(answer.out)
    assert f"--ledger '{ledger}'" in accepted
    found = subprocess.run(
        ["sh", "-c", absent],
        env={**shell.environment, "PATH": f"{COMMAND.parent}:{shell.environment['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert asyncio.run(read_state(ledger, job)) is State.RELEASED


@pytest.mark.parametrize("reason", HoldReason)
def test_every_remedy_is_a_whole_command_with_its_ledger(reason: HoldReason, call: InProcess, tmp_path: Path) -> None:
    """Run each command: it is parsed and finds the job; an error can only be about the job's state."""
    ledger = tmp_path / "another ledger.db"
    job = asyncio.run(create_unanswered_job(ledger))
    text = hold_message(
        reason,
        job=job.id,
        shot="sea",
        ledger=parse_database_url(str(ledger)).command_option,
        generation="gen-1",
        **dict.fromkeys(
            (
                "cause",
                "what",
                "account",
                "credentials",
                "used_account",
                "used_credentials",
                "deadline",
                "provider",
                "reported",
                "booked",
                "file",
                "key",
                "used_key",
            ),
            "x",
        ),
    )
    lines = find_commands(text)
    assert len(lines) == len(HOLDS[reason].remedies)
    for line in lines:
        _, *arguments = shlex.split(line)
        assert arguments[-2:] == ["--ledger", str(ledger)]
        # The amount is the one argument that the user fills in.
        answer = call(*("1.25" if argument == "USD" else argument for argument in arguments))
        assert answer.status == 0 or job.id in answer.err or "gen-1" in answer.err, answer.err
        assert "no job" not in answer.err


def test_a_password_is_never_in_a_command() -> None:
    option = parse_database_url("postgresql://me:hush@db.example.com/video?sslmode=require").command_option
    assert option == "postgresql://me@db.example.com/video?ssl=require"


def test_the_default_ledger_needs_no_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PREFECT_VIDEO_LEDGER_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert parse_database_url(str(tmp_path / "video-ledger.db")).command_option is None
    assert main(["jobs", "--json"]) == 0


def test_a_url_without_a_password_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    own = "postgresql://me:hush@db.example.com/video"
    monkeypatch.setenv("PREFECT_VIDEO_LEDGER_URL", own)
    assert ledger_name("postgresql://me@db.example.com/video") is None
    assert os.environ["PREFECT_VIDEO_LEDGER_URL"] == own
    ledger_name("postgresql://me@elsewhere.example.com/video")
    assert os.environ["PREFECT_VIDEO_LEDGER_URL"] == "postgresql://me@elsewhere.example.com/video"
