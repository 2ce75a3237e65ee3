"""Pruning: what goes, what stays, and that budgets, sums, cache and history of what matters are as before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text, update

from prefect_video.errors import ContentPolicyError, InvalidInput, LedgerError
from prefect_video.ledger import ClaimOutcome, Job, Ledger, ReceivedEvent, Removal
from prefect_video.ledger.tables import idempotency_keys
from tests.support.old_jobs import OLD, age, release
from tests.support.records import a_request, claim_one, store_one, submit_one

QUARTER = timedelta(days=90)


async def bind(ledger: Ledger, key: str, job: Job | None) -> None:
    await ledger.idempotency.bind_key(key, "digest", account="sora-1", environment="production")
    if job:
        async with ledger._database.writing() as connection:
            answered = update(idempotency_keys).where(idempotency_keys.c.key == key)
            await connection.execute(answered.values(job_id=job.id))


async def ids_of(ledger: Ledger, jobs: Sequence[Job]) -> list[bool]:
    found = {job.id for job in await ledger.jobs.get_many(job.id for job in jobs)}
    return [job.id in found for job in jobs]


async def test_what_nothing_needs_goes_and_the_books_stay(ledger: Ledger) -> None:
    stored = await store_one(ledger, 1, cost_usd=Decimal("2.10"))
    running = await submit_one(ledger, 2)
    released, keyed, fresh = await release(ledger, 3), await release(ledger, 4), await release(ledger, 5)
    refused = await ledger.reviews.record_screened(a_request(6), ContentPolicyError("no"))
    held = await ledger.jobs.hold((await claim_one(ledger, 7)).id, "look at it")
    await bind(ledger, "old", keyed)
    await bind(ledger, "unanswered", None)
    await bind(ledger, "of a live job", running)
    await ledger.events.receive_events(
        [ReceivedEvent(account="a", event_id=name, generation_id="g", type="t", received_at=OLD) for name in "xy"]
    )
    (handled, _) = await ledger.events.pending_events(["a"], since=OLD)
    await ledger.events.mark_handled([handled])
    await age(ledger, stored, running, released, keyed, refused, held)
    spend = await ledger.spend.report(by="month")

    expected = Removal(history=10, idempotency_keys=1, jobs=2, webhook_events=1)
    counted = await ledger.retention.prune(QUARTER, dry_run=True)
    assert await ids_of(ledger, [released, keyed]) == [True, True]
    removed = await ledger.retention.prune(QUARTER)
    assert counted == removed == expected
    assert await ledger.retention.prune(QUARTER) == Removal()

    kept = [stored, running, fresh, refused, held]
    assert await ids_of(ledger, [*kept, released, keyed]) == [True] * 5 + [False] * 2
    assert await ledger.spend.report(by="month") == spend
    assert await ledger.jobs.history(stored.id) == []
    assert len(await ledger.jobs.history(running.id)) == 3
    assert len(await ledger.jobs.history(held.id)) == 2
    (again,) = (await ledger.claims.claim([a_request(1)])).claims
    assert (again.kind, again.job and again.job.id) == (ClaimOutcome.STORED, stored.id)
    with pytest.raises(LedgerError, match="append-only"):
        async with ledger._database.writing() as connection:
            await connection.execute(text("DELETE FROM history"))


async def test_an_age_that_runs_still_count_on_is_refused(ledger: Ledger) -> None:
    job = await release(ledger, 1)
    with pytest.raises(InvalidInput, match="7 or more"):
        await ledger.retention.prune(timedelta(days=6))
    assert await ids_of(ledger, [job]) == [True]
