"""`account rename` and `account share`: exit status, message, JSON, and what a run under the new name pays."""

from __future__ import annotations

import asyncio

import pytest

from prefect_video.emulator import Emulator
from prefect_video.ledger import Job
from prefect_video.pipeline import run_project
from prefect_video.pipeline.steps import build_project_job_requests, claim_shots
from prefect_video.projects import Project
from prefect_video.session import Session, SessionRef, open_session
from tests.support.cli_fixtures import InProcess
from tests.support.recovery import a_shot, film, statuses


@pytest.fixture(autouse=True)
def account(call: InProcess, quick_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the emulator's Sora dialect as the account `main` of this process."""
    monkeypatch.setenv("SORA_API_KEY", quick_emulator.key)
    monkeypatch.setenv("SORA_API_ENDPOINT", quick_emulator.endpoint)
    monkeypatch.setenv("SORA_PLAN", "emulator")
    monkeypatch.setenv("PREFECT_VIDEO_ACCOUNT", "main")


async def open_sora() -> Session:
    return await open_session(SessionRef.from_names("sora"))


async def make(project: Project) -> tuple[str, list[str]]:
    """Run a project; return the id of the account and the statuses of its shots."""
    async with await open_sora() as session:
        return session.provider.account.id, statuses(await run_project(session, project))


async def claim(session: Session, project: Project) -> Job:
    """Claim the one shot of a project, so that a job of the account is owned by a live process."""
    requests = await build_project_job_requests(session, project)
    (claimed,) = await claim_shots(session, requests, budgets=(), partial=False)
    assert claimed.job is not None
    return claimed.job


def test_an_account_is_renamed_once_no_process_works_on_its_jobs(
    call: InProcess, quick_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid = quick_emulator.usage()["accepted"]
    with asyncio.Runner() as process:
        main, made = process.run(make(film(a_shot(1))))
        renamed = main.replace("main", "renamed")
        session = process.run(open_sora())
        owned = process.run(claim(session, film(a_shot(2))))
        refused = call("account", "rename", main, renamed)
        assert (refused.status, refused.out) == (1, "")
        assert f"{owned.owner} works on its jobs, and nothing was moved" in refused.err
        process.run(session.aclose())
    done = call("account", "rename", main, renamed)
    assert (done.status, done.out) == (0, f"2 jobs of {main} are recorded as {renamed} now\n")
    again = call("account", "rename", main, renamed)
    assert (again.status, again.out) == (2, "")
    assert f"nothing of an account '{main}'" in again.err
    monkeypatch.setenv("PREFECT_VIDEO_ACCOUNT", "renamed")
    assert (made, asyncio.run(make(film(a_shot(1), a_shot(2))))) == (["stored"], (renamed, ["stored"] * 2))
    assert quick_emulator.usage()["accepted"] - paid == 2
    back = call("account", "rename", renamed, main, "--json")
    assert (back.status, back.json) == (0, {"account": main, "jobs": 2})


def test_a_second_account_may_use_a_key_once_that_was_chosen(
    call: InProcess, quick_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid = quick_emulator.usage()["accepted"]
    main, _ = asyncio.run(make(film(a_shot(1))))
    second = main.replace("main", "second")
    unknown = call("account", "share", second, main)
    assert (unknown.status, unknown.out) == (2, "")
    done = call("account", "share", main, second)
    assert (done.status, done.out) == (0, f"{second} may use the keys of {main}\n")
    again = call("account", "share", main, second, "--json")
    assert (again.status, again.json) == (0, {"account": second, "shares_keys_of": main})
    monkeypatch.setenv("PREFECT_VIDEO_ACCOUNT", "second")
    assert asyncio.run(make(film(a_shot(2)))) == (second, ["stored"])
    assert quick_emulator.usage()["accepted"] - paid == 2
