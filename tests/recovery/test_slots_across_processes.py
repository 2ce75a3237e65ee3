"""Short forms of `benchmarks.concurrency`: several processes on one account, judged by the provider's usage records."""

from __future__ import annotations

from benchmarks.concurrency import SLOTS, killed, outage, shared


def test_three_workers_never_pass_the_accounts_limit() -> None:
    outcome = shared("sqlite", shots=8)
    assert outcome.holds, f"peak {outcome.peak}\n{outcome.verdict}\n{outcome.problems}"
    # All of it is used too; how soon depends on when three processes have started on a loaded machine.
    assert outcome.peak > SLOTS // 2
    # Had the limit not held them back, the provider would not have either: no submit was rejected.
    assert outcome.verdict.submitted == 24


def test_nor_when_one_of_them_is_killed() -> None:
    outcome = killed("sqlite", shots=8, in_common=2, speed=20)
    assert outcome.holds, f"peak {outcome.peak}\n{outcome.verdict}\n{outcome.problems}"
    assert outcome.peak == SLOTS


def test_an_outage_and_bursts_of_refusals_cost_time_and_nothing_else() -> None:
    outcome = outage(
        "sqlite", shots=4, down_seconds=3, burst_seconds=0.3, breaker_seconds=1, settle_seconds=0.5, speed=10
    )
    assert outcome.holds, f"{outcome.verdict}\n{outcome.notes}\n{outcome.problems}"
    assert outcome.verdict.billed == 12
