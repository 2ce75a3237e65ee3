"""The queue of an account as people see it: who waits by priority, and what its plan leaves of the month."""

from datetime import UTC, datetime

from prefect_video.ledger import Ledger
from tests.support.records import claim_one

ACCOUNT = "sora-1"


async def test_waiting_jobs_are_counted_by_priority_and_the_plan_by_month(ledger: Ledger, other: Ledger) -> None:
    sent = await claim_one(ledger, 1)
    assert await ledger.accounts.acquire_slot(sent.id, slots=1) is not None
    await claim_one(ledger, 2, priority="high")
    await claim_one(other, 3, priority="high")
    await claim_one(other, 4, priority="low")
    await claim_one(other, 5, account="sora-2")
    released = await claim_one(ledger, 6)
    await ledger.jobs.release_reservation(released.id, "not wanted")
    queue = await ledger.queues.read(ACCOUNT, slots=1, monthly_videos=100)
    assert queue.queued == {"high": 2, "normal": 0, "low": 1}
    assert (queue.status.occupied, queue.status.slots) == (1, 1)
    # What is reserved counts against the plan, as claims see it; what was released does not.
    assert (queue.used_videos, queue.left_videos) == (4, 96)
    assert queue.resets_at > datetime.now(UTC)
    assert queue.resets_at.day == 1
    assert (await ledger.queues.read(ACCOUNT, slots=None, monthly_videos=None)).left_videos is None


async def test_states_are_counted_of_a_period_and_of_all_in_progress(ledger: Ledger) -> None:
    await claim_one(ledger, 1)
    released = await claim_one(ledger, 2)
    await ledger.jobs.release_reservation(released.id, "not wanted")
    assert await ledger.measurements.count_states(since=datetime.now(UTC).replace(year=2000)) == {
        "reserved": 1,
        "released": 1,
    }
    assert await ledger.measurements.count_states(since=datetime.now(UTC).replace(year=2100)) == {"reserved": 1}
