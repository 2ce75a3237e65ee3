"""Kept sums: whatever changes jobs, in any process, budgets read what the jobs give when they are summed anew."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import delete, insert, text, update

from prefect_video.ledger import Budget, Ledger, State, jobs_table
from prefect_video.ledger.claims import row_from_request
from tests.support.committed_sums import JOBS, KEPT, kept_sums, sums_anew
from tests.support.records import a_request

NOW = datetime.now(UTC)
COSTS = (None, Decimal(0), Decimal("0.3"), Decimal("1.000001"))
CHANGES: dict[str, tuple[Any, ...]] = {
    "state": tuple(State),
    "actual_usd": COSTS,
    "reserved_usd": COSTS,
    "provider": ("sora", "manual"),
    "account": ("sora-1", "sora-2"),
    "project": ("tea", "coffee"),
    "environment": ("production", "staging"),
    "requester": (None, "anna", "ben"),
    "created_at": (NOW, NOW - timedelta(days=40), NOW + timedelta(days=40)),
    "error_message": ("changes no sum",),
}


async def require_right_sums(ledger: Ledger) -> None:
    """Require that the kept sums are those of the jobs, in one snapshot."""
    async with ledger._database.reading() as connection:
        kept = kept_sums(await connection.execute(text(KEPT)))
        assert kept == sums_anew(await connection.execute(text(JOBS)))


def build_rows(chance: random.Random, number: int) -> list[dict[str, Any]]:
    """Build rows with values of every kind, each of another video."""
    rows = [row_from_request(a_request(), State.RESERVED, 1, None, NOW) for _ in range(number)]
    return [
        row | {"fingerprint": row["id"]} | {name: chance.choice(values) for name, values in CHANGES.items()}
        for row in rows
    ]


async def test_any_change_of_any_job_changes_the_kept_sums_with_it(ledger: Ledger) -> None:
    chance = random.Random(5)
    rows = build_rows(chance, 20)
    ids = [row["id"] for row in rows]
    async with ledger._database.writing() as connection:
        await connection.execute(insert(jobs_table), rows)
    for _ in range(60):
        async with ledger._database.writing() as connection:
            for _ in range(chance.randint(1, 4)):
                chosen = jobs_table.c.id.in_(chance.sample(ids, chance.randint(1, 5)))
                names = chance.sample(list(CHANGES), chance.randint(1, 3))
                values = {name: chance.choice(CHANGES[name]) for name in names}
                step = delete(jobs_table) if chance.random() < 0.03 else update(jobs_table).values(**values)
                savepoint = await connection.begin_nested()
                await connection.execute(step.where(chosen))
                await (savepoint.rollback() if chance.random() < 0.2 else savepoint.commit())
        await require_right_sums(ledger)
    async with ledger._database.writing() as connection:
        await connection.execute(delete(jobs_table))
    await require_right_sums(ledger)


async def test_processes_that_change_jobs_at_once_neither_block_one_another_nor_lose_an_amount(
    ledger: Ledger, other: Ledger
) -> None:
    rows = build_rows(random.Random(7), 40)
    async with ledger._database.writing() as connection:
        await connection.execute(insert(jobs_table), rows)

    async def change(each: Ledger, own: list[dict[str, Any]], chance: random.Random) -> None:
        for _ in range(5):
            async with each._database.writing() as connection:
                # In any order of the projects and accounts that they belong to.
                for row in chance.sample(own, 4):
                    values = {"state": chance.choice(list(State)), "actual_usd": chance.choice(COSTS)}
                    await connection.execute(update(jobs_table).where(jobs_table.c.id == row["id"]).values(**values))

    async def claim(each: Ledger, first: int) -> None:
        for number in range(first, first + 4):
            await each.claims.claim([a_request(number)], [Budget(scope="month", limit_usd=Decimal(10_000))])

    async with asyncio.timeout(60):
        await asyncio.gather(
            *(change((ledger, other)[n % 2], rows[5 * n : 5 * n + 5], random.Random(n)) for n in range(8)),
            claim(ledger, 100),
            claim(other, 200),
        )
    await require_right_sums(ledger)
    await ledger.claims.claim([a_request(300)])
    await require_right_sums(ledger)


async def test_a_transaction_that_changes_many_jobs_steps_over_no_versions_of_one_sum(postgres_url: str) -> None:
    """As the change of an account's name does: each version would cost the next change time, the square of all."""
    async with await Ledger.open(postgres_url, migrate=True) as ledger:
        async with ledger._database.writing() as connection:
            await connection.execute(insert(jobs_table), build_rows(random.Random(3), 20))
            await connection.execute(update(jobs_table).values(account="sora-3"))
            await connection.execute(text("SELECT pg_stat_force_next_flush()"))
        async with ledger._database.reading() as connection:
            counts = await connection.execute(
                text("SELECT n_tup_ins, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'committed_sums'")
            )
            inserted, updated = counts.one()
        assert inserted > 0
        assert updated == 0
        await require_right_sums(ledger)
