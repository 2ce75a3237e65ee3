"""When looks are taken: properties of forecasts and of the schedule, whatever is expected."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_video.polling.completion import CompletionEstimate, CompletionForecast
from prefect_video.polling.latency import LatencyForecast, LatencyHistory
from prefect_video.polling.poll_queue import PollTarget
from prefect_video.polling.poller import Poller
from prefect_video.polling.request_budget import RequestBudget
from prefect_video.polling.schedule import PollSchedule
from tests.support.fake_provider import FakeProvider
from tests.support.virtual_time import now, run

SCHEDULE = PollSchedule()
DAY = 86_400.0

seconds = st.floats(min_value=0.01, max_value=10_000)
random_numbers = st.floats(min_value=0, max_value=1, exclude_max=True)


@st.composite
def estimates(draw: st.DrawFn) -> CompletionEstimate:
    earliest, likely, latest = sorted((draw(seconds), draw(seconds), draw(seconds)))
    return CompletionEstimate(earliest, likely, draw(st.sampled_from([latest, None])))


@st.composite
def forecasts(draw: st.DrawFn) -> CompletionForecast:
    known = draw(st.lists(estimates(), max_size=3))
    return CompletionForecast([(0.95 / len(known), estimate) for estimate in known])


def looks(forecast: CompletionForecast, until: float, sharing: float = 1.0) -> list[float]:
    """The moments of all looks until a time."""
    moments = [0.0]
    while moments[-1] < until:
        moments.append(SCHEDULE.next_poll(moments[-1], forecast, sharing=sharing, rng=lambda: 0.5))
    return moments[1:]


@given(estimates(), st.lists(seconds, min_size=2, max_size=2))
def test_chances_grow_with_time(estimate: CompletionEstimate, moments: list[float]) -> None:
    sooner, later = sorted(moments)
    assert 0 <= estimate.ended_by(sooner) <= estimate.ended_by(later) <= 1


@settings(max_examples=30)
@given(estimates(), seconds)
def test_the_area_is_the_integral_of_the_chance(estimate: CompletionEstimate, elapsed: float) -> None:
    steps = [elapsed * (number + 0.5) / 2000 for number in range(2000)]
    integral = sum(map(estimate.ended_by, steps)) * elapsed / 2000
    assert estimate.area(elapsed) == pytest.approx(integral, rel=0.02, abs=elapsed / 1000)


def test_an_estimate_means_what_it_says() -> None:
    expected = CompletionEstimate(20, 30, 60)
    assert [expected.ended_by(at) for at in (20, 30, 60)] == pytest.approx([0.02, 0.5, 0.98], abs=0.001)


def test_a_kind_that_was_never_seen_is_looked_at_early() -> None:
    assert looks(CompletionForecast(), 16) == pytest.approx([2, 4.4, 7.6, 11.6, 16.4], abs=0.5)


@given(forecasts(), st.sampled_from([1.0, 20.0]))
@settings(max_examples=50)
def test_no_belief_is_a_gate(forecast: CompletionForecast, sharing: float) -> None:
    # Whatever is believed, an end is noticed in the order of magnitude in which it comes.
    moments = [0.0, *looks(forecast, 3600.0, sharing)]
    assert all(after <= 5 * before + 60 for before, after in pairwise(moments[1:]))


@settings(max_examples=50)
@given(forecasts(), seconds, random_numbers, st.sampled_from([1.0, 20.0]))
def test_a_look_is_worth_its_price(forecast: CompletionForecast, since: float, thrown: float, sharing: float) -> None:
    at = SCHEDULE.next_poll(since, forecast, sharing=sharing, rng=lambda: thrown)
    assert at - since >= 0.999 * SCHEDULE.shortest_seconds
    widest = max(SCHEDULE.max_lateness_seconds, SCHEDULE.share * since)
    if at - since > 1.01 * widest:
        # Longer than the permitted lateness only where nothing was to be expected.
        assert sharing * forecast.chance_between(since, since + widest) < 0.1


@given(forecasts(), seconds, st.floats(0.01, 60), st.floats(0, 4), st.one_of(st.just(math.inf), st.floats(5, 3600)))
def test_a_delay_is_as_long_as_an_end_goes_unnoticed(
    forecast: CompletionForecast, since: float, price: float, at_least: float, at_most: float
) -> None:
    delay = forecast.seconds_until_unnoticed(since, price, at_least=at_least, at_most=at_most)
    assert at_least * 0.97 <= delay <= max(at_most, 6 * 3600 * 3, at_least, price)
    unnoticed = forecast.unnoticed_seconds(since, since + delay)
    if delay == at_most or delay >= 6 * 3600:
        assert unnoticed <= price * 1.03
    elif delay > max(at_least, price) * 1.01:
        # Within two hundredths of the delay, or of the price.
        shorter = forecast.unnoticed_seconds(since, since + delay * 0.97)
        assert shorter <= price * 1.03
        assert unnoticed >= price * 0.97
    else:
        assert unnoticed >= price * 0.97


@settings(max_examples=30)
@given(forecasts())
def test_looks_are_few_however_long_it_takes(forecast: CompletionForecast) -> None:
    steps = math.log(DAY / SCHEDULE.shortest_seconds) / math.log(1 + SCHEDULE.closest_share)
    assert len(looks(forecast, DAY, 20.0)) <= 2 * steps + DAY / SCHEDULE.longest_seconds


@given(forecasts(), seconds, random_numbers)
def test_a_fallback_waits_until_the_webhook_is_late(forecast: CompletionForecast, since: float, thrown: float) -> None:
    at = SCHEDULE.next_poll(since, forecast, relaxed=True, rng=lambda: thrown)
    assert at >= forecast.late * 1.5
    assert at >= forecast.late + SCHEDULE.grace_seconds
    assert at - since <= 1.01 * max(forecast.late * 1.5, forecast.late + SCHEDULE.grace_seconds, 60.0)


def test_no_minute_has_more_requests_than_the_budget() -> None:
    async def work() -> None:
        budget, sent = RequestBudget(60), list[float]()
        while now() < 300:
            await asyncio.sleep(budget.seconds_until_affordable())
            budget.spend(1)
            sent.append(now())
        for moment in sent:
            assert sum(moment <= other < moment + 60 for other in sent) <= 61
        assert len(sent) > 190

    run(work)


Duration = Callable[[random.Random, int], float]


@dataclass(frozen=True)
class Figures:
    """What waiting for many generations has cost."""

    requests: float
    lateness: Sequence[float]
    share_of_ideal: float

    def late(self, quantile: float) -> float:
        """Lateness, as a multiple of the larger of one second and 5 % of the time."""
        return sorted(self.lateness)[math.ceil(quantile * len(self.lateness)) - 1]


def wait_for_all(
    duration: Duration,
    *,
    history: LatencyHistory | None = None,
    hint: Callable[[float], float] | None = None,
    at_once: int = 20,
    **provider: bool,
) -> Figures:
    """Wait for 60 generations whose times are drawn at random, in virtual time; 20 at a time from an empty ledger."""
    random.seed(7)
    drawn, known = random.Random(7), history or LatencyHistory()

    async def work() -> Figures:
        fake = FakeProvider(**provider)
        poller, slots = Poller(fake, budget=RequestBudget(60)), asyncio.Semaphore(at_once)
        lateness: list[float] = []

        async def make(number: int) -> float:
            async with slots:
                job = fake.start(duration(drawn, number))
                forecast = LatencyForecast(
                    known, hinted_seconds=hint(job.seconds) if hint else None, usual_seconds=(24, 48)
                )
                await poller.wait_for_end(job.id, submitted_at=datetime.now(UTC), expected=forecast)
                lateness.append((now() - job.ends) / max(1.0, 0.05 * job.seconds))
                return job.seconds

        taken = await asyncio.gather(*(make(number) for number in range(60)))
        return Figures(fake.requests.total() / 60, lateness, now() * at_once / sum(taken))

    return run(work)


@pytest.mark.parametrize("priced", [True, False], ids=["sora", "openai"])
@pytest.mark.parametrize("took", [5.0, 15.0, 60.0, 300.0])
def test_ends_are_noticed_when_they_come(took: float, priced: bool) -> None:
    history = LatencyHistory()
    first = wait_for_all(lambda *_: took, history=history, priced=priced)
    again = wait_for_all(lambda *_: took, history=history, priced=priced)
    assert first.late(0.95) <= 1.0
    assert again.late(0.95) <= 0.6
    if took == 15.0:
        assert first.requests <= 2.5
        assert first.share_of_ideal <= 1.05
        assert again.share_of_ideal <= 1.03


DISTRIBUTIONS: dict[str, Duration] = {
    "log-normal": lambda drawn, _: 60 * math.exp(0.4 * drawn.gauss(0, 1)),
    "bimodal": lambda drawn, _: drawn.choice([20, 90]) * math.exp(0.05 * drawn.gauss(0, 1)),
    "faster": lambda drawn, number: (60 if number < 30 else 20) * math.exp(0.05 * drawn.gauss(0, 1)),
    "slower": lambda drawn, number: (20 if number < 30 else 60) * math.exp(0.05 * drawn.gauss(0, 1)),
}


@pytest.mark.parametrize("hinted", [False, True], ids=["no hint", "hint"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_ends_are_noticed_soon_whatever_their_distribution(name: str, hinted: bool) -> None:
    figures = wait_for_all(DISTRIBUTIONS[name], hint=math.ceil if hinted else None)
    assert figures.late(0.9) <= 1.5
    assert figures.late(1.0) <= 4.0
    assert figures.requests <= 4.5


def test_one_at_a_time_learns_too() -> None:
    figures = wait_for_all(DISTRIBUTIONS["bimodal"], at_once=1)
    assert figures.late(0.5) <= 1.0
    assert figures.share_of_ideal <= 1.05


def test_hundreds_that_are_due_are_compared_at_intervals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(7)
    compared = 0
    unnoticed_seconds = PollTarget.unnoticed_seconds

    def count(target: PollTarget, moment: float) -> float:
        nonlocal compared
        compared += 1
        return unnoticed_seconds(target, moment)

    monkeypatch.setattr(PollTarget, "unnoticed_seconds", count)

    async def work() -> None:
        fake = FakeProvider(can_list=False)
        poller, estimate = Poller(fake, budget=RequestBudget(60)), CompletionEstimate(1, 200, 40_000)
        waits = [
            asyncio.create_task(
                poller.wait_for_end(fake.start(DAY).id, submitted_at=datetime.now(UTC), expected=estimate)
            )
            for _ in range(600)
        ]
        await asyncio.sleep(600)
        # One request a second at most, none for one again that others wait for; comparisons for each third of them.
        requests, polled = fake.requests.total(), {generation_id for _, generation_id in fake.looks}
        assert len(polled) >= 0.95 * requests > 300
        assert 600 < compared <= 0.7 * 600 * requests
        await poller.aclose()
        await asyncio.gather(*waits, return_exceptions=True)

    run(work)
