"""Quotas of plans, and the queue for an account's slots."""

from __future__ import annotations

from prefect_video.ledger import Ledger
from tests.support.records import claim_one


async def test_quota_and_queue_by_priority(ledger: Ledger) -> None:
    jobs = [
        await claim_one(ledger, number, priority=priority)
        for number, priority in enumerate(("normal", "low", "high", "high"), start=1)
    ]
    assert await ledger.accounts.acquire_slot(jobs[0].id, slots=1) is not None
    quota = await ledger.quotas.read(jobs[0].account, 5)
    assert (quota.videos, quota.left, sum(quota.queued.values())) == (4, 1, 0)
    for job in jobs[1:]:
        assert await ledger.accounts.acquire_slot(job.id, slots=1) is None
    quota = await ledger.quotas.read(jobs[0].account, 4)
    assert (quota.left, quota.queued) == (0, {"high": 2, "normal": 0, "low": 1})
    assert quota.describe() == f"4 of 4 videos of {quota.month}; 3 wait for a slot (2 high, 1 low)"
    unlimited = await ledger.quotas.read(jobs[0].account, None)
    assert (unlimited.videos, unlimited.left) == (4, None)
    assert (await ledger.quotas.read("another", 4)).left == 4
