"""Indexes: no step of a job reads all jobs, however many there are."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import event

from prefect_video.ledger import Budget, Job, Ledger, ReceivedEvent, Requester, State
from tests.support.records import a_generation, a_request, an_asset

BUDGETS = (
    Budget(scope="month", limit_usd=Decimal(1_000)),
    Budget(scope="plan", limit_videos=1_000),
    Budget(scope="project", limit_usd=Decimal(1_000)),
)
READS_ALL = re.compile(
    r"SCAN jobs(?! USING INDEX ix_jobs_(unfinished|held|late|blocked|waiting)$)|SEARCH jobs .*\((created_at<\?|account=\?)\)"
)
"""A step of a plan that goes through all jobs, unlike one through an index of a few of them."""
ANNA = Requester(name="anna", monthly_usd=Decimal(1_000))


async def make_one(ledger: Ledger) -> Job:
    """Go through the steps of one job of the service, from the request to the stored video."""
    wanted = a_request(requester=ANNA, flow_run_id="service:anna/k", idempotency_key="k")
    await ledger.idempotency.bind_key(
        "k", "digest", account=wanted.account, environment="production", requester="anna", flow_run_id="service:anna/k"
    )
    await ledger.jobs.find_stored([wanted])
    await ledger.jobs.find_existing_and_missing([wanted])
    (claim,) = (await ledger.claims.claim([wanted], BUDGETS, keys=["fingerprint"])).claims
    assert claim.job is not None
    job, _ = await ledger.reviews.get_with_block(claim.job.id)
    # The second one queues, and looks at who is before it.
    (second,) = (await ledger.claims.claim([a_request(2)], BUDGETS)).claims
    assert second.job is not None
    assert await ledger.accounts.acquire_slot(job.id, slots=1, key_fingerprint="fingerprint")
    assert await ledger.accounts.acquire_slot(second.job.id, slots=1) is None
    generation = a_generation()
    assert (await ledger.jobs.record_submitted(job.id, generation, leave=True)).owner is None
    received = ReceivedEvent(
        account=job.account, event_id="e", generation_id=generation.id, type="t", received_at=datetime.now(UTC)
    )
    await ledger.events.receive_events([received])
    assert await ledger.jobs.find_generation(job.account, generation.id)
    await ledger.jobs.record_completed(job.id, generation)
    await ledger.events.mark_handled([received])
    await ledger.callbacks.due("production")
    await ledger.jobs.find_resumable_requests(job.account, with_ended=True)
    await ledger.spend.budget_usage(BUDGETS, project=job.project, account=job.account, requester=ANNA)
    return await ledger.jobs.record_stored(job.id, an_asset())


async def read_all(ledger: Ledger, job: Job) -> None:
    """Read what commands, sweeps and monitoring do, of all accounts and projects."""
    jobs = ledger.jobs
    now = datetime.now(UTC)
    assert await jobs.unfinished() == await jobs.find(state=State.SUBMITTED) == await jobs.page(state=State.SUBMITTED)
    assert [found.left_count for found in await jobs.find(needs_attention=True)] == [2]
    assert await jobs.submissions_since(job.account, now - timedelta(hours=1)) == 2
    assert await jobs.submissions_since("another", now - timedelta(hours=1)) == 0
    for since in (now - timedelta(hours=1), now):
        counts = await ledger.measurements.count_states(since=since)
        assert counts == {"submitted": 1, "stored": 1} if since < now else {"submitted": 1}
    (measured,) = (await ledger.measurements.read()).accounts
    (of_account,) = await ledger.spend.budget_usage(BUDGETS[:1], project="", account="")
    assert (measured.unfinished, measured.spent_usd) == ({State.SUBMITTED: 1}, of_account.spent_usd)
    assert measured.spent_usd > 0


async def require_indexes(ledger: Ledger, steps: Callable[[Ledger], Awaitable[object]]) -> None:
    """Require that SQLite finds the rows of each statement of these steps by an index that is narrowed down."""
    statements: dict[str, Any] = {}

    @event.listens_for(ledger._database.engine.sync_engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, many: bool) -> None:
        statements.setdefault(sql, parameters[0] if many else parameters)

    await steps(ledger)
    event.remove(ledger._database.engine.sync_engine, "before_cursor_execute", note)
    noted = {sql: parameters for sql, parameters in statements.items() if "jobs" in sql and "INSERT" not in sql}
    assert len(noted) > 6
    async with ledger._database.reading() as connection:
        for sql, parameters in noted.items():
            plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", tuple(parameters))
            steps_of_plan = [row[3] for row in plan]
            assert not [step for step in steps_of_plan if READS_ALL.match(step)], sql


async def test_no_step_of_a_job_reads_all_jobs(sqlite_url: str) -> None:
    async with await Ledger.open(sqlite_url) as ledger:
        await require_indexes(ledger, make_one)


async def test_no_search_for_what_is_in_progress_reads_all_jobs(sqlite_url: str) -> None:
    async with await Ledger.open(sqlite_url) as ledger:
        job = await make_one(ledger)
        (second,) = await ledger.jobs.unfinished()
        assert await ledger.accounts.acquire_slot(second.id, slots=None)
        await ledger.jobs.record_submitted(second.id, a_generation("second"))
        for _ in range(2):
            await ledger.jobs.record_left(second.id, "not ready")
        await require_indexes(ledger, lambda ledger: read_all(ledger, job))
