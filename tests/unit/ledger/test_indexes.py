"""Indexes: no step of a job reads all jobs, however many there are."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import event

from prefect_video.ledger import Budget, Job, Ledger, ReceivedEvent, Requester
from tests.support.records import a_generation, a_request, an_asset

BUDGETS = (
    Budget(scope="month", limit_usd=Decimal(1_000)),
    Budget(scope="plan", limit_videos=1_000),
    Budget(scope="project", limit_usd=Decimal(1_000)),
)
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


async def require_indexes(ledger: Ledger) -> None:
    """Require that SQLite finds the rows of each statement of a job by an index."""
    statements: dict[str, Any] = {}

    @event.listens_for(ledger._database.engine.sync_engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, many: bool) -> None:
        statements.setdefault(sql, parameters[0] if many else parameters)

    await make_one(ledger)
    noted = {sql: parameters for sql, parameters in statements.items() if "jobs" in sql and "INSERT" not in sql}
    assert len(noted) > 10
    async with ledger._database.reading() as connection:
        for sql, parameters in noted.items():
            plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", tuple(parameters))
            steps = [row[3] for row in plan]
            assert not [step for step in steps if step.startswith("SCAN jobs")], sql


async def test_no_step_of_a_job_reads_all_jobs(sqlite_url: str) -> None:
    async with await Ledger.open(sqlite_url) as ledger:
        await require_indexes(ledger)
