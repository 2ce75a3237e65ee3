"""A process that is paused while it sends, and is taken for dead by another one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete

from prefect_video.errors import IllegalTransition
from prefect_video.ledger import Budget, Entry, Intent, Ledger, State, tables
from prefect_video.ledger import leases as owners
from prefect_video.pipeline.steps.claim import build_project_intents
from prefect_video.pipeline.steps.submit import submit
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.session.session import Studio
from tests.support.records import claim_one
from tests.support.recovery import Workshop, a_shot, film, statuses
from tests.support.recovery_fixtures import SLOW, OpenWorkshop


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every owner is on another machine, as far as its lock file tells."""
    monkeypatch.setattr(owners, "_lock_held", lambda owner_id: None)


async def test_what_is_accepted_for_a_row_that_others_have_carried_on_is_cancelled(
    open_workshop: OpenWorkshop, elsewhere: None
) -> None:
    workshop = open_workshop(**SLOW)
    entry = await overtaken(workshop)
    workshop.emulator.change_speed(500)
    rows = {row.id: row for row in await workshop.rows()}
    (stray,) = (row for row in rows.values() if row.id != entry.id)
    assert (rows[entry.id].state, stray.state, stray.attention) == (State.SUBMITTED, State.CANCELLED, None)
    assert stray.generation_id not in (None, rows[entry.id].generation_id)
    assert workshop.paid == (2, 1)
    async with workshop.ledger() as ledger:
        (standing,) = await ledger.budget_standing([Budget(scope="project")], project="film", account=stray.account)
        assert standing.videos == 1


async def test_what_can_no_longer_be_cancelled_is_held_with_its_id(
    open_workshop: OpenWorkshop, elsewhere: None
) -> None:
    workshop = open_workshop(**SLOW)
    workshop.emulator.add_fault(operation="cancel", kind="error_before", times=None)
    entry = await overtaken(workshop)
    (stray,) = (row for row in await workshop.rows() if row.id != entry.id)
    assert stray.state is State.LOST
    assert f"resolve {stray.id} --generation {stray.generation_id}" in str(stray.attention)
    async with workshop.ledger() as ledger:
        assert [step.to_state for step in await ledger.history(stray.id)] == [State.LOST]


async def overtaken(workshop: Workshop) -> Entry:
    """The row of a submit that was answered after another owner had found nothing and sent it again."""
    sending = asyncio.Event()
    go_on = asyncio.Event()

    class Paused(SoraProvider):
        async def submit(self, *shot: Any, **options: Any) -> Any:
            sending.set()
            await go_on.wait()
            return await super().submit(*shot, **options)

    async with workshop.studio(kind=Paused, settle_seconds=60) as paused, workshop.studio() as other:
        (claim,) = (await paused.ledger.claim([await an_intent_of(paused)])).claims
        assert claim.entry is not None
        first = asyncio.create_task(submit(paused, claim.entry))
        await sending.wait()
        await sign_off(paused)
        assert await other.ledger.take_over(claim.entry.id)
        await submit(other, claim.entry)
        go_on.set()
        return await first


async def an_intent_of(studio: Studio) -> Intent:
    (intent,) = await build_project_intents(studio, film(a_shot()))
    return intent


async def sign_off(studio: Studio) -> None:
    """Lets an owner look dead to others."""
    ledger = studio.ledger
    assert ledger._owner._beating is not None
    ledger._owner._beating.cancel()
    async with ledger._database.writing() as connection:
        await connection.execute(delete(tables.owners).where(tables.owners.c.id == ledger.owner_id))


async def test_a_pause_before_the_request_is_noticed(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is looked at again before it is sent: here it is still ours."""
    real = Ledger.now
    times = [timedelta(minutes=5), timedelta(0)]

    async def paused(ledger: Ledger) -> Any:
        return await real(ledger) + (times.pop(0) if times else timedelta(0))

    monkeypatch.setattr(Ledger, "now", paused)
    assert statuses(await workshop.run(a_shot())) == ["stored"]
    row = await workshop.row()
    async with workshop.ledger() as ledger:
        assert [step.detail for step in await ledger.history(row.id)].count("about to be sent after a pause") == 1


async def test_a_row_that_was_taken_over_in_a_pause_is_not_sent(workshop: Workshop, elsewhere: None) -> None:
    async with workshop.studio() as paused, workshop.studio() as other:
        (claim,) = (await paused.ledger.claim([await an_intent_of(paused)])).claims
        assert claim.entry is not None
        await paused.ledger.begin_submit(claim.entry.id)
        await sign_off(paused)
        assert await other.ledger.take_over(claim.entry.id)
        with pytest.raises(IllegalTransition, match="belongs to"):
            await paused.ledger.renew_submit(claim.entry.id)


async def test_a_submit_ends_before_others_may_send_in_its_place(workshop: Workshop) -> None:
    class Stuck(SoraProvider):
        async def submit(self, *shot: Any, **options: Any) -> Any:
            await asyncio.Event().wait()

    async with workshop.studio(kind=Stuck, settle_seconds=0, lease_seconds=0.05, submit_patience_seconds=0) as studio:
        entry = await claim_one(studio.ledger, account=studio.provider.account.id, provider="emulator")
        reconciling = asyncio.create_task(submit(studio, entry))
        await asyncio.wait([reconciling])
        history = await studio.ledger.history(entry.id)
    assert State.UNKNOWN in [step.to_state for step in history]
    assert workshop.paid == (0, 0)
