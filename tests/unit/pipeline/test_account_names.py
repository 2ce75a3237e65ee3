"""An account under another name: its limits count on, and what is in progress is finished under the new one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from prefect_video.errors import InvalidInput, InvalidTransition
from prefect_video.ledger import Budget, ClaimBatch, Ledger, State
from prefect_video.ledger.claims import Claims
from prefect_video.pipeline import run_project
from prefect_video.pipeline.collect import collect
from prefect_video.pipeline.run_completion import DeferredOutcome
from prefect_video.projects import Project
from prefect_video.session import Session, SessionEvent, SessionNames
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenHarness
from tests.unit.pipeline.test_key_rotation import NEW, OLD, account

BLOCK, OTHER = "sora-credentials/", "sk-of-another-account"
ONE_VIDEO = [Budget(scope="account", limit_videos=1)]


@dataclass(frozen=True)
class Names:
    """Names by which a session is opened."""

    credentials: str
    store: str


@pytest.fixture
def harness(open_harness: OpenHarness) -> RecoveryHarness:
    """An account with an old and a new key, and another account."""
    return open_harness(keys=(OLD, NEW, OTHER), shared_accounts={NEW: OLD})


@pytest.fixture(params=["sqlite", "postgresql"])
async def either(request: pytest.FixtureRequest, harness: RecoveryHarness) -> RecoveryHarness:
    """That account, with each kind of ledger."""
    if request.param == "sqlite":
        return harness
    url: str = request.getfixturevalue("postgres_url")
    async with await Ledger.open(url, migrate=True):
        return replace(harness, ledger_url=url)


async def account_id(harness: RecoveryHarness, name: str | None) -> str:
    """Return the id of the account of the old key under a name."""
    async with harness.session(kind=account(OLD, name=name)) as session:
        return session.provider.account.id


@pytest.mark.parametrize("former", [None, "former"])
async def test_a_new_name_is_refused_until_the_account_is_renamed_and_its_budget_counts_on(
    harness: RecoveryHarness, former: str | None
) -> None:
    assert statuses(await harness.run(a_shot(1), kind=account(OLD, name=former), budgets=ONE_VIDEO)) == ["stored"]
    renamed = {"kind": account(OLD, name="renamed"), "budgets": ONE_VIDEO}
    old, new = await account_id(harness, former), await account_id(harness, "renamed")
    with pytest.raises(InvalidInput, match=f"account rename {old} {new}"):
        await harness.run(a_shot(2), **renamed)
    assert harness.paid == (1, 1)
    async with harness.ledger() as ledger:
        assert await ledger.names.rename(old, new) == 1
    assert statuses(await harness.run(film(a_shot(2), over_budget="fit"), **renamed)) == ["over_budget"]
    assert harness.paid == (1, 1)
    assert {row.account for row in await harness.rows()} == {new}


async def test_of_two_names_that_begin_to_use_one_key_at_once_one_pays(either: RecoveryHarness) -> None:
    """Claimed before either has sent anything, both are found only as they are sent."""
    named = {number: account(OLD, name=f"name-{number}") for number in (1, 2)}
    for number, kind in named.items():
        await either.interrupt(a_shot(number), SessionEvent.CLAIMED, kind=kind)
    outcomes = await asyncio.gather(
        *(either.run(a_shot(number), kind=kind) for number, kind in named.items()), return_exceptions=True
    )
    (refused,) = (outcome for outcome in outcomes if "account rename" in str(outcome))
    assert either.paid == (1, 1)
    assert {row.state for row in await either.rows()} == {State.STORED, State.RELEASED}, refused


async def test_what_is_in_progress_is_finished_under_the_new_name_and_paid_once(either: RecoveryHarness) -> None:
    await either.interrupt(a_shot(1), "submitted", kind=account(OLD, name="former"))
    old, new = await account_id(either, "former"), await account_id(either, "renamed")
    async with either.ledger() as ledger:
        (job,) = await ledger.jobs.unfinished(account=old)
        assert await ledger.claims.take_over(job.id) is not None
        with pytest.raises(InvalidTransition, match="works on its jobs"):
            async with either.ledger() as other:
                await other.names.rename(old, new)
    async with either.ledger() as ledger:
        assert await ledger.names.rename(old, new) == 1
    assert statuses(await either.run(a_shot(1), kind=account(OLD, name="renamed"))) == ["stored"]
    assert either.paid == (1, 1)


async def test_two_names_share_a_key_only_where_that_was_chosen(either: RecoveryHarness) -> None:
    assert statuses(await either.run(a_shot(1), kind=account(OLD, name="main"))) == ["stored"]
    main, second = await account_id(either, "main"), await account_id(either, "second")
    async with either.ledger() as ledger:
        await ledger.names.share(main, second)
    assert statuses(await either.run(a_shot(2), kind=account(OLD, name="second"))) == ["stored"]
    assert {row.account for row in await either.rows()} == {main, second}


async def test_a_reservation_of_the_former_name_is_not_made_anew_under_another(harness: RecoveryHarness) -> None:
    await harness.run(a_shot(1), kind=account(OLD, name="former"), budgets=ONE_VIDEO)
    await harness.interrupt(a_shot(2), SessionEvent.CLAIMED, kind=account(OLD, name="former"))
    with pytest.raises(InvalidInput, match="account rename"):
        await harness.run(a_shot(2), kind=account(OLD, name="renamed"), budgets=ONE_VIDEO)
    assert harness.paid == (1, 1)


async def test_a_process_that_claims_while_its_account_is_renamed_begins_no_new_budget(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = {"kind": account(OLD, name="former"), "budgets": ONE_VIDEO}
    await harness.run(a_shot(1), **former)
    old, new = await account_id(harness, "former"), await account_id(harness, "renamed")
    claim = Claims.claim

    async def claim_after_rename(claims: Claims, *given: Any, **options: Any) -> ClaimBatch:
        async with harness.ledger() as ledger:
            await ledger.names.rename(old, new)
        return await claim(claims, *given, **options)

    # The last moment before the claim's transaction.
    monkeypatch.setattr(Claims, "claim", claim_after_rename)
    with pytest.raises(InvalidInput, match=f"account rename {new} {old}"):
        await harness.run(a_shot(2), **former)
    assert harness.paid == (1, 1)


async def test_a_new_ledger_fetches_again_for_free_what_was_made_under_a_former_name(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="longer", match={"prompt": "cut"})
    former, renamed = ({"kind": account(OLD, name=name)} for name in ("former", "renamed"))
    made = film(a_shot(1), a_shot(2, prompt="cut"))
    assert statuses(await harness.run(made, **former)) == ["stored", "held"]
    harness.videos[0].unlink()
    other = replace(harness, ledger_url=f"sqlite:///{harness.folder / 'other.db'}")
    assert statuses(await other.run(made, **renamed)) == ["stored", "held"]
    assert harness.paid == (2, 2)
    # Nor is the new ledger a reason to rename an account that it has never recorded.
    assert statuses(await other.run(a_shot(3), **renamed)) == ["stored"]
    assert {row.account for row in await other.rows()} == {await account_id(harness, "renamed")}
    assert harness.paid == (3, 3)


async def test_a_lost_file_of_another_name_of_the_key_is_fetched_again_for_free(harness: RecoveryHarness) -> None:
    assert statuses(await harness.run(a_shot(1), kind=account(OLD, name="main"))) == ["stored"]
    async with harness.ledger() as ledger:
        await ledger.names.share(await account_id(harness, "main"), await account_id(harness, "second"))
    harness.videos[0].unlink()
    report = await harness.run(a_shot(1), kind=account(OLD, name="second"))
    assert (statuses(report), len(harness.videos)) == (["stored"], 1)
    assert harness.paid == (1, 1)


async def test_deferred_runs_of_the_account_are_completed_by_its_new_credentials(either: RecoveryHarness) -> None:
    """The name of a block stands for another account once the block has another key: its runs keep it."""
    blocks = {"former": account(OLD, name="former"), "renamed": account(OLD, name="renamed")}
    opened: list[str] = []

    @asynccontextmanager
    async def open_named(names: SessionNames) -> AsyncIterator[Session]:
        opened.append(names.credentials)
        async with either.session(kind=blocks[names.credentials.removeprefix(BLOCK)]) as session:
            session.credentials = names.credentials
            yield session

    async def defer(project: Project) -> str:
        async with open_named(Names(f"{BLOCK}former", "")) as session:
            await run_project(session, project, wait=False)
            return session.provider.account.id

    either.emulator.change_speed(0.01)
    routed: dict[str, Any] = {"provider": "auto", "accounts": [f"{BLOCK}former"]}
    old = await defer(film(a_shot(1), **routed))
    blocks["former"] = account(OTHER, name="another")
    await defer(film(a_shot(2), name="trailer", **routed))
    either.emulator.change_speed(500)
    either.emulator.wait_until_idle()
    async with either.ledger() as ledger:
        await ledger.names.rename(old, await account_id(either, "renamed"), credentials=f"{BLOCK}renamed")
        runs = {run.project.name: (*run.credentials, *run.project.accounts) for run in await ledger.deferred.find()}
        assert runs == {"film": (f"{BLOCK}renamed",) * 2, "trailer": (f"{BLOCK}former",) * 2}
        outcomes: list[DeferredOutcome] = []

        async def report(outcome: DeferredOutcome) -> None:
            outcomes.append(outcome)

        opened.clear()
        await collect(ledger, open_named, on_outcome=report)
        assert {outcome.run.project.name: outcome.status for outcome in outcomes} == dict.fromkeys(runs, "completed")
        assert set(opened) == {f"{BLOCK}renamed", f"{BLOCK}former"}
    assert either.paid == (2, 2)
