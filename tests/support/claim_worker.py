"""A process that claims, for the tests that need several of them or one to kill.

It sends `ready`, then executes each command that comes over its line and sends the result.
"""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal

from benchmarks.workers import Line
from prefect_video.ledger import Budget, Ledger
from tests.support.records import PRICE, a_request, begin_submit, claim_one


async def count_yours(ledger: Ledger, numbers: list[int], project: str, budgets: list[Budget], size: int) -> int:
    random.shuffle(numbers)
    yours = 0
    for start in range(0, len(numbers), size):
        job_requests = [a_request(number, project=project) for number in numbers[start : start + size]]
        batch = await ledger.claims.claim(job_requests, budgets, partial=True)
        yours += sum(claim.kind == "acquired" for claim in batch.claims)
    return yours


async def obey(ledger: Ledger, command: str) -> str:
    if command == "race":
        return str(await count_yours(ledger, list(range(100)), "race", [], 10))
    if command == "budget":
        ten = [Budget(scope="project", limit_usd=10 * PRICE + Decimal("0.01"))]
        # Every process wants videos of its own here: only the budget keeps them apart.
        first = 1000 * (1 + random.randrange(10**6))
        return str(await count_yours(ledger, list(range(first, first + 10)), "budget", ten, 1))
    job = await claim_one(ledger, 7)
    await begin_submit(ledger, job.id)
    return job.id


async def serve(url: str, line: Line) -> None:
    async with await Ledger.open(url) as ledger:
        line.send("ready")
        while True:
            line.send(await obey(ledger, await asyncio.to_thread(line.recv)))


def work(url: str, line: Line) -> int:
    """Execute commands until the process is killed."""
    asyncio.run(serve(url, line))
    return 0
