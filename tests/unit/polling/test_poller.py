"""The poller in virtual time, over a provider that can be made to fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_video.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    InvalidResponse,
    NotFound,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
)
from prefect_video.generations import Generation, Status
from prefect_video.ledger import CompletionTime
from prefect_video.polling.completion import CompletionEstimate
from prefect_video.polling.latency import LatencyForecast, LatencyHistory
from prefect_video.polling.poller import Poller
from tests.support.fake_provider import FakeProvider, Job
from tests.support.virtual_time import now, run

SOON = CompletionEstimate(30, 31, 33)
VAGUE = CompletionEstimate(20, 35, 60)


def in_virtual_time(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Runs an async test on a loop where waiting takes no time."""

    def sync() -> None:
        async def work() -> None:
            await test()

        run(work)

    sync.__name__, sync.__doc__ = test.__name__, test.__doc__
    return sync


def waiting(
    poller: Poller, job: Job | str, expected: CompletionEstimate | LatencyForecast = SOON, **options: Any
) -> asyncio.Task[Generation]:
    """Another process who waits."""
    name = job if isinstance(job, str) else job.id
    options = {"submitted_at": datetime.now(UTC), **options}
    return asyncio.create_task(poller.wait_for_end(name, expected=expected, **options))


def failing(times: int, error: Callable[[], ProviderError], operation: str = "retrieve") -> Callable[[str, str], None]:
    """A fault that fires so many times."""
    left = [times]

    def fault(requested: str, generation_id: str) -> None:
        if requested == operation and left[0]:
            left[0] -= 1
            raise error()

    return fault


@in_virtual_time
async def test_a_single_generation_is_requested_itself_and_noticed_soon() -> None:
    provider = FakeProvider()
    job = provider.start(31)
    reported = await waiting(Poller(provider), job)
    assert reported.status is Status.COMPLETED
    assert reported.cost_usd is not None
    assert now() - job.ends < 0.05 * 31
    assert provider.requests["list"] == 0
    assert provider.requests["retrieve"] <= 3
    assert provider.looks[0][0] >= 30


@in_virtual_time
async def test_twenty_at_a_time_share_lists() -> None:
    provider = FakeProvider()
    poller = Poller(provider)
    slots, late = asyncio.Semaphore(20), list[float]()

    async def make() -> None:
        async with slots:
            await asyncio.sleep(0.1)
            job = provider.start(31)
            await waiting(poller, job)
            late.append((now() - job.ends) / 31)

    await asyncio.gather(*(make() for _ in range(100)))
    assert now() <= 1.05 * 155
    assert provider.requests.total() <= 2.5 * 100
    assert sorted(late)[94] <= 0.05


@in_virtual_time
async def test_what_a_list_reports_whole_is_not_requested_again() -> None:
    provider = FakeProvider(priced=False)
    poller = Poller(provider)
    for _ in range(3):
        jobs = [provider.start(31) for _ in range(20)]
        await asyncio.gather(*(waiting(poller, job) for job in jobs))
    # The first tells that single answers have no price either.
    assert provider.requests["retrieve"] <= 20 + 3


@in_virtual_time
async def test_a_list_of_many_pages_is_not_read_for_a_few() -> None:
    provider = FakeProvider()
    poller = Poller(provider)
    old = [provider.start(31) for _ in range(3)]
    for _ in range(1000):
        provider.start(500)
    await asyncio.gather(*(waiting(poller, job) for job in old))
    assert provider.requests["list"] <= 2 * provider.requests["retrieve"]


@in_virtual_time
async def test_generations_that_the_list_hides_are_requested_one_by_one() -> None:
    provider = FakeProvider(hide=lambda job: True)
    poller = Poller(provider)
    jobs = [provider.start(31) for _ in range(10)]
    await asyncio.gather(*(waiting(poller, job) for job in jobs))
    assert now() - 31 < 2
    assert provider.requests["list"] == 1


@in_virtual_time
async def test_a_provider_that_cannot_list_is_never_asked_to() -> None:
    provider = FakeProvider(can_list=False)
    jobs = [provider.start(31) for _ in range(20)]
    poller = Poller(provider)
    await asyncio.gather(*(waiting(poller, job) for job in jobs))
    assert provider.requests["list"] == 0
    assert provider.requests["retrieve"] <= 2.5 * 20


@pytest.mark.parametrize(
    "error",
    [
        lambda: RequestRejected("no list"),
        lambda: AuthenticationFailed("not for you"),
        lambda: ProviderUnavailable("501"),
        lambda: InvalidResponse("html"),
        lambda: ZeroDivisionError("a defect"),
    ],
)
def test_a_list_that_fails_costs_a_moment(error: Callable[[], ProviderError]) -> None:
    async def work() -> None:
        provider = FakeProvider(faults=failing(1000, error, "list"))
        jobs = [provider.start(31) for _ in range(10)]
        poller = Poller(provider)
        reported = await asyncio.gather(*(waiting(poller, job) for job in jobs))
        assert {generation.status for generation in reported} == {Status.COMPLETED}
        assert provider.requests["list"] == 1
        assert now() < 34

    run(work)


@in_virtual_time
async def test_waiters_for_the_same_generation_share_one_watch() -> None:
    provider = FakeProvider(can_list=False)
    alone = FakeProvider(can_list=False)
    poller = Poller(provider)
    job = provider.start(31)
    changes: list[Status] = []
    waiters = [waiting(poller, job, on_change=lambda reported: changes.append(reported.status)) for _ in range(50)]
    reported = await asyncio.gather(*waiters)
    assert len({id(generation) for generation in reported}) == 1
    assert provider.requests["retrieve"] <= 3
    assert changes.count(Status.COMPLETED) == 50
    assert await waiting(Poller(alone), alone.start(31))


@in_virtual_time
async def test_a_waiter_that_is_cancelled_leaves_the_others_waiting() -> None:
    provider = FakeProvider()
    poller = Poller(provider)
    job = provider.start(31)
    first, second = waiting(poller, job), waiting(poller, job)
    await asyncio.sleep(5)
    first.cancel()
    assert (await second).status is Status.COMPLETED
    assert first.cancelled()


@in_virtual_time
async def test_when_the_last_waiter_leaves_nothing_is_requested() -> None:
    provider = FakeProvider()
    poller = Poller(provider)
    only = waiting(poller, provider.start(31))
    await asyncio.sleep(5)
    only.cancel()
    await asyncio.sleep(1000)
    assert provider.requests.total() == 0
    assert (await waiting(poller, provider.start(31))).status is Status.COMPLETED


@in_virtual_time
async def test_a_waiter_that_comes_at_the_very_end_is_answered_too() -> None:
    provider = FakeProvider()
    poller = Poller(provider)
    job = provider.start(31)
    late: list[asyncio.Task[Generation]] = []

    def another(reported: Generation) -> None:
        # Its first step comes after the answer and before the first waiter has left.
        if reported.status.ended:
            late.append(waiting(poller, job))

    await waiting(poller, job, on_change=another)
    assert (await late[0]).status is Status.COMPLETED


@in_virtual_time
async def test_taken_up_late_even_a_relaxed_wait_looks_at_once() -> None:
    provider = FakeProvider()
    job = provider.start(0)
    earlier = datetime.now(UTC) - timedelta(minutes=10)
    await waiting(Poller(provider), job, submitted_at=earlier, relaxed=True)
    assert now() < 1


@in_virtual_time
async def test_a_relaxed_wait_that_begins_late_does_not_look_before_the_news_is_late() -> None:
    provider = FakeProvider()
    job = provider.start(0)
    earlier = datetime.now(UTC) - timedelta(seconds=32)
    assert await waiting(Poller(provider), job, submitted_at=earlier, relaxed=True)
    assert SOON.late * 1.5 - 32 <= provider.looks[0][0] <= SOON.late * 1.5


@in_virtual_time
async def test_a_provider_that_has_become_faster_is_looked_at_when_it_says() -> None:
    provider = FakeProvider()
    job = provider.start(31)
    history = LatencyHistory([CompletionTime(seconds=100, hinted_seconds=31)] * 10)
    await waiting(Poller(provider), job, LatencyForecast(history, hinted_seconds=31, usual_seconds=(60, 120)))
    assert now() - job.ends < 0.05 * 31
    # No belief is a gate: one look may come before the provider's own estimate.
    assert provider.requests.total() <= 2


@in_virtual_time
async def test_a_waiter_whose_callback_fails_fails_alone() -> None:
    provider = FakeProvider()
    poller = Poller(provider)
    job = provider.start(31)

    def fail(reported: Generation) -> None:
        raise ZeroDivisionError

    unlucky, other = waiting(poller, job, on_change=fail), waiting(poller, job)
    assert (await other).status is Status.COMPLETED
    with pytest.raises(ZeroDivisionError):
        await unlucky


@in_virtual_time
async def test_at_its_deadline_it_is_given_up_after_a_last_look() -> None:
    provider = FakeProvider()
    poller = Poller(provider)
    job = provider.start(1000)
    soon = datetime.now(UTC) + timedelta(seconds=10)
    patient = waiting(poller, job)
    with pytest.raises(DeadlineExceeded, match="collect"):
        await waiting(poller, job, deadline_at=soon)
    assert now() == pytest.approx(10.05, abs=0.1)
    assert (await patient).status is Status.COMPLETED


@in_virtual_time
async def test_a_generation_that_ended_long_before_its_deadline_was_looked_at_is_no_loss() -> None:
    provider = FakeProvider()
    job = provider.start(0)
    past = datetime.now(UTC) - timedelta(hours=1)
    reported = await waiting(Poller(provider), job, submitted_at=past - timedelta(hours=1), deadline_at=past)
    assert reported.status is Status.COMPLETED


@in_virtual_time
async def test_a_generation_that_is_taken_up_late_is_looked_at_now() -> None:
    provider = FakeProvider()
    jobs = [provider.start(0) for _ in range(30)]
    poller = Poller(provider)
    earlier = datetime.now(UTC) - timedelta(minutes=10)
    await asyncio.gather(*(waiting(poller, job, submitted_at=earlier) for job in jobs))
    assert now() < 1


@pytest.mark.parametrize(
    "error",
    [
        lambda: ProviderUnavailable("reset"),
        lambda: RateLimited("slow down", retry_after=2.0),
        lambda: InvalidResponse("html"),
        lambda: QuotaExhausted("quota"),
        lambda: NotFound("a replica"),
    ],
)
def test_an_error_of_a_look_loses_nothing(error: Callable[[], ProviderError]) -> None:
    async def work() -> None:
        provider = FakeProvider(faults=failing(3, error))
        reported = await waiting(Poller(provider), provider.start(31))
        assert reported.status is Status.COMPLETED

    run(work)


@in_virtual_time
async def test_a_key_that_is_refused_ends_the_wait() -> None:
    provider = FakeProvider(faults=failing(1, lambda: AuthenticationFailed("wrong key")))
    with pytest.raises(AuthenticationFailed):
        await waiting(Poller(provider), provider.start(31))


@in_virtual_time
async def test_a_generation_that_is_denied_again_and_again_is_lost() -> None:
    provider = FakeProvider()
    known = provider.start(200)
    poller = Poller(provider, lost_after=5)
    other = waiting(poller, known, CompletionEstimate(100, 200, 300))
    reported = await waiting(poller, "gen-unknown")
    assert reported.status is Status.LOST
    assert [name for _, name in provider.looks].count("gen-unknown") == 5
    assert now() > 31 + 60
    assert (await other).status is Status.COMPLETED


@in_virtual_time
async def test_denials_that_are_not_in_a_row_lose_nothing() -> None:
    requested = [0]

    def every_other(operation: str, generation_id: str) -> None:
        requested[0] += 1
        if requested[0] % 2:
            raise NotFound("a replica")

    provider = FakeProvider(can_list=False, faults=every_other)
    assert (await waiting(Poller(provider, lost_after=2), provider.start(100), VAGUE)).status is Status.COMPLETED


@pytest.mark.parametrize("seconds", [19, 20, 21, 22])
def test_a_generation_that_was_denied_is_not_forgotten_when_a_list_has_it(seconds: int) -> None:
    async def work() -> None:
        denials = [2]

        def fault(operation: str, generation_id: str) -> None:
            if generation_id == denied.id and denials[0]:
                denials[0] -= 1
                raise NotFound("a replica")

        provider = FakeProvider(faults=fault)
        poller = Poller(provider)
        denied = provider.start(20)
        reported = waiting(poller, denied, CompletionEstimate(18, 20, 21))
        others = [waiting(poller, provider.start(40), CompletionEstimate(seconds, 30, 40)) for _ in range(8)]
        async with asyncio.timeout(60):
            assert (await reported).status is Status.COMPLETED
            assert {generation.status for generation in await asyncio.gather(*others)} == {Status.COMPLETED}

    run(work)


@in_virtual_time
async def test_a_provider_in_trouble_is_asked_ever_less() -> None:
    provider = FakeProvider(can_list=False, faults=failing(10**6, lambda: ProviderUnavailable("down")))
    poller = Poller(provider)
    waiters = [waiting(poller, provider.start(10)) for _ in range(200)]
    await asyncio.sleep(33)
    first = provider.requests.total()
    await asyncio.sleep(600)
    assert provider.requests.total() - first < 30
    provider.faults = None
    await asyncio.gather(*waiters)
    assert now() < 33 + 600 + 70


@in_virtual_time
async def test_retry_after_holds_everybody() -> None:
    provider = FakeProvider(can_list=False, faults=failing(1, lambda: RateLimited("slow down", retry_after=20.0)))
    poller = Poller(provider)
    reported = [
        waiting(poller, provider.start(31)),
        waiting(poller, provider.start(40), CompletionEstimate(38, 40, 44)),
    ]
    await asyncio.gather(*reported)
    moments = sorted(at for at, _ in provider.looks)
    assert moments[1] - moments[0] >= 20


@in_virtual_time
async def test_while_a_breaker_is_open_looks_are_rare() -> None:
    provider = FakeProvider()
    left = [300.0]
    poller = Poller(provider, pause=lambda: left[0])
    waiters = [waiting(poller, provider.start(1000)) for _ in range(20)]
    await asyncio.sleep(600)
    assert 5 <= provider.requests.total() <= 12
    left[0] = 0.0
    await asyncio.gather(*waiters)


@in_virtual_time
async def test_a_hanging_request_does_not_hold_up_the_others() -> None:
    provider = FakeProvider(can_list=False)
    stuck, well = provider.start(31), provider.start(31)
    retrieve = provider.retrieve

    async def hang(generation_id: str) -> Generation:
        if generation_id == stuck.id:
            await asyncio.sleep(500)
        return await retrieve(generation_id)

    provider.retrieve = hang  # type: ignore[method-assign]
    poller = Poller(provider)
    late = waiting(poller, stuck)
    await waiting(poller, well)
    assert now() < 33
    assert (await late).status is Status.COMPLETED


@in_virtual_time
async def test_a_relaxed_wait_looks_as_a_fallback_only_until_a_waiter_is_in_a_hurry() -> None:
    provider = FakeProvider()
    poller = Poller(provider)
    job = provider.start(31)
    relaxed = waiting(poller, job, relaxed=True)
    await asyncio.sleep(45)
    assert provider.requests.total() == 0
    assert (await relaxed).status is Status.COMPLETED
    other = provider.start(31)
    relaxed = waiting(poller, other, relaxed=True)
    await asyncio.sleep(1)
    await waiting(poller, other, submitted_at=datetime.now(UTC))
    assert now() - other.ends < 2
    await relaxed


@in_virtual_time
async def test_closing_ends_every_wait() -> None:
    provider = FakeProvider()
    poller = Poller(provider)
    waiters = [waiting(poller, provider.start(31)) for _ in range(5)]
    await asyncio.sleep(30.6)
    await poller.aclose()
    await asyncio.wait(waiters)
    assert all(task.cancelled() for task in waiters)


@in_virtual_time
async def test_two_thousand_wait_with_one_task_and_no_requests() -> None:
    provider = FakeProvider()
    poller = Poller(provider)
    before = len(asyncio.all_tasks())
    waiters = [waiting(poller, provider.start(3600), CompletionEstimate(3500, 3600, 3700)) for _ in range(2000)]
    await asyncio.sleep(3000)
    assert len(asyncio.all_tasks()) - before == 2000 + 1
    assert provider.requests.total() == 0
    await asyncio.gather(*waiters)
    assert provider.requests.total() <= 2000 * 2.5
