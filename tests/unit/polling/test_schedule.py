"""When looks are taken: properties of the schedule, whatever is expected."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_video.generations import Generation, Status
from prefect_video.ledger.records import LatencyQuantiles
from prefect_video.polling.schedule import CompletionEstimate, PollSchedule, estimate_completion

SCHEDULE = PollSchedule()
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)

seconds = st.floats(min_value=0.01, max_value=10_000)
random_numbers = st.floats(min_value=0, max_value=1, exclude_max=True)


@st.composite
def expectations(draw: st.DrawFn) -> CompletionEstimate:
    earliest, likely, latest = sorted((draw(seconds), draw(seconds), draw(seconds)))
    return CompletionEstimate(earliest, likely, draw(st.sampled_from([latest, None])))


def looks(expected: CompletionEstimate, until: float, schedule: PollSchedule = SCHEDULE) -> list[float]:
    """The moments of all looks until a time."""
    moments = [0.0]
    while moments[-1] < until:
        moments.append(moments[-1] + schedule.next_delay(moments[-1], expected, rng=lambda: 0.5))
    return moments[1:]


def a_generation(estimate: float | None = None, *, created_at: datetime | None = NOW) -> Generation:
    hint = None if estimate is None or created_at is None else created_at + timedelta(seconds=estimate)
    return Generation(
        id="gen-1", provider="fake", status=Status.QUEUED, created_at=created_at, estimated_completion_at=hint
    )


@given(expectations(), seconds, random_numbers)
def test_nothing_while_completion_is_implausible(expected: CompletionEstimate, elapsed: float, thrown: float) -> None:
    delay = SCHEDULE.next_delay(elapsed, expected, rng=lambda: thrown)
    assert delay >= SCHEDULE.shortest_seconds * (1 - SCHEDULE.vary)
    assert elapsed + delay >= expected.earliest


@given(expectations(), seconds, random_numbers)
def test_an_end_around_the_expected_moment_is_noticed_soon(
    expected: CompletionEstimate, elapsed: float, thrown: float
) -> None:
    delay = SCHEDULE.next_delay(elapsed, expected, rng=lambda: thrown)
    if SCHEDULE.first_poll(expected) <= elapsed < expected.late:
        widest = max(SCHEDULE.share * elapsed, SCHEDULE.shortest_seconds)
        assert delay <= widest * (1 + SCHEDULE.vary)


@given(expectations(), st.floats(min_value=1, max_value=100), st.floats(min_value=1, max_value=100))
def test_after_it_ever_less(expected: CompletionEstimate, sooner: float, later: float) -> None:
    sooner, later = sorted((sooner, later))
    late = max(expected.late, SCHEDULE.first_poll(expected))
    delays = [SCHEDULE.next_delay(late * factor, expected, rng=lambda: 0.5) for factor in (sooner, later)]
    assert delays[0] <= delays[1] <= SCHEDULE.longest_seconds


@given(expectations(), seconds, st.floats(min_value=0, max_value=1000), random_numbers)
def test_never_sooner_than_the_provider_asked(
    expected: CompletionEstimate, elapsed: float, requested: float, thrown: float
) -> None:
    assert SCHEDULE.next_delay(elapsed, expected, retry_after=requested, rng=lambda: thrown) >= requested


@settings(deadline=None)
@given(expectations())
def test_looks_are_few_however_long_it_takes(expected: CompletionEstimate) -> None:
    day = 86_400.0
    before = [moment for moment in looks(expected, day) if moment < expected.late]
    # From the earliest to the latest moment in steps of at least a fiftieth, but for the longest step.
    steps = math.log(expected.late / expected.earliest) / math.log(1 + SCHEDULE.closest_share)
    assert len(before) <= 2 + steps + expected.late / SCHEDULE.longest_seconds
    assert len(looks(expected, day)) <= len(before) + 40 + day / SCHEDULE.longest_seconds


@given(expectations(), seconds, random_numbers)
def test_a_fallback_waits_until_it_is_late(expected: CompletionEstimate, elapsed: float, thrown: float) -> None:
    delay = SCHEDULE.next_delay(elapsed, expected, relaxed=True, rng=lambda: thrown)
    assert delay >= expected.late * 1.5 - elapsed


@given(expectations(), st.lists(seconds, min_size=2, max_size=2))
def test_chances_grow_with_time(expected: CompletionEstimate, moments: list[float]) -> None:
    sooner, later = sorted(moments)
    assert 0 <= expected.ended_by(sooner) <= expected.ended_by(later) <= 1


@given(st.floats(min_value=0.01, max_value=0.99))
def test_a_moment_has_the_chance_it_is_for(chance: float) -> None:
    expected = CompletionEstimate(20, 30, 60)
    assert expected.ended_by(expected.moment(chance)) == pytest.approx(chance)
    assert expected.ended_by(20) == pytest.approx(0.02)
    assert expected.ended_by(60) == pytest.approx(0.98)


def test_without_an_estimate_the_guide_says_6_to_12_seconds() -> None:
    expected = estimate_completion(a_generation(), duration_seconds=10, seconds_per_video_second=(6, 12))
    assert expected.ended_by(60) == pytest.approx(0.1)
    assert expected.ended_by(120) == pytest.approx(0.9)


def test_an_estimate_is_believed() -> None:
    expected = estimate_completion(
        a_generation(31), duration_seconds=10, seconds_per_video_second=(6, 12), submitted_at=NOW
    )
    assert (expected.earliest, expected.likely) == (30, 30.5)


def test_a_provider_whose_clock_is_wrong_is_understood() -> None:
    submitted_at = NOW + timedelta(hours=3)
    expected = estimate_completion(
        a_generation(31), duration_seconds=10, seconds_per_video_second=(6, 12), submitted_at=submitted_at
    )
    assert expected.earliest == 30


def test_an_estimate_in_the_past_means_now() -> None:
    expected = estimate_completion(
        a_generation(-5), duration_seconds=10, seconds_per_video_second=(6, 12), submitted_at=NOW
    )
    assert SCHEDULE.next_delay(0, expected) < 1


LEARNED = LatencyQuantiles(count=50, early_seconds=200, median_seconds=210, late_seconds=250)


def test_what_was_learned_is_better_than_the_guide() -> None:
    expected = estimate_completion(
        a_generation(), duration_seconds=10, seconds_per_video_second=(6, 12), learned=LEARNED
    )
    assert 180 < expected.earliest < 200
    assert expected.likely == 210
    assert 250 < expected.late < 300


@pytest.mark.parametrize(("estimate", "believed"), [(205, True), (600, True), (30, False)])
def test_an_estimate_that_is_far_too_hopeful_is_not_believed(estimate: float, believed: bool) -> None:
    expected = estimate_completion(
        a_generation(estimate),
        duration_seconds=10,
        seconds_per_video_second=(6, 12),
        learned=LEARNED,
        submitted_at=NOW,
    )
    assert (expected.earliest == estimate - 1) is believed


@pytest.mark.parametrize("took", [0.0, 5.0])
def test_learned_times_without_any_spread(took: float) -> None:
    same = LatencyQuantiles(count=5, early_seconds=took, median_seconds=took, late_seconds=took)
    expected = estimate_completion(a_generation(), duration_seconds=10, seconds_per_video_second=(6, 12), learned=same)
    assert 1 <= len(looks(expected, took + 1)) <= 10


def test_a_hopeful_estimate_is_worth_one_look() -> None:
    expected = estimate_completion(
        a_generation(100),
        duration_seconds=10,
        seconds_per_video_second=(6, 12),
        learned=LEARNED,
        submitted_at=NOW,
    )
    first, second, *_ = looks(expected, 250)
    assert 100 <= first <= 102
    assert second == pytest.approx(SCHEDULE.first_poll(expected), rel=0.01)
    assert SCHEDULE.next_delay(0, expected, relaxed=True) > expected.late


@given(expectations(), seconds)
def test_the_first_look_is_not_taken_before_the_news_is_late(expected: CompletionEstimate, elapsed: float) -> None:
    at_once = SCHEDULE.is_worth_polling(elapsed, expected, relaxed=True)
    assert at_once is (elapsed >= expected.late * 1.5 and elapsed >= expected.late + SCHEDULE.grace_seconds)
    assert SCHEDULE.is_worth_polling(elapsed, expected, relaxed=False) is (elapsed >= expected.earliest)
