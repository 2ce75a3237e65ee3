"""The breaker's rules, for processes that share one ledger."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_video.errors import (
    AuthenticationFailed,
    CircuitOpen,
    GenerationFailed,
    InvalidInput,
    NotFound,
    PolicyRefused,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    SubmitUnknown,
    VideoError,
)
from prefect_video.ledger import Ledger, Standing
from prefect_video.limits.circuit_breaker import Breaker

ACCOUNT = "sora-1"
OURS = (
    RequestRefused,
    PolicyRefused,
    AuthenticationFailed,
    NotFound,
    RateLimited,
    QuotaExhausted,
    GenerationFailed,
    InvalidInput,
)


def a_breaker(ledger: Ledger, **changes: Any) -> Breaker:
    return Breaker(ledger, "sora", ACCOUNT, **{"threshold": 2, "open_seconds": 60.0, **changes})


async def trouble(breaker: Breaker, *, submit: bool, times: int = 2) -> None:
    for _ in range(times):
        await breaker.note(ProviderUnavailable("no answer"), submit=submit)


async def state(breaker: Breaker) -> str:
    return (await breaker.ledger.standing(ACCOUNT)).breaker


@pytest.mark.parametrize("submit", [True, False], ids=["submit", "read"])
@pytest.mark.parametrize("kind", OURS)
async def test_what_is_ours_never_counts(ledger: Ledger, kind: type[VideoError], submit: bool) -> None:
    breaker = a_breaker(ledger, threshold=1)
    await breaker.note(kind("no"), submit=submit)
    standing = await ledger.standing(ACCOUNT)
    assert (standing.failures, standing.breaker) == (0, "closed")


@pytest.mark.parametrize("kind", [ProviderUnavailable, SubmitUnknown])
async def test_the_providers_trouble_opens_it_for_every_process(
    ledger: Ledger, other: Ledger, kind: type[VideoError]
) -> None:
    told: list[Standing] = []
    breaker = a_breaker(ledger, on_change=told.append)
    await breaker.note(kind("no answer"), submit=True)
    assert await a_breaker(other).admit() is False
    await breaker.note(kind("no answer"), submit=True)
    with pytest.raises(CircuitOpen) as caught:
        await a_breaker(other).admit()
    assert caught.value.retry_after == pytest.approx(60, abs=5)
    assert breaker.pause_seconds() == pytest.approx(60, abs=5)
    assert [standing.breaker for standing in told] == ["open"]


async def test_a_read_that_goes_well_does_not_close_what_submits_opened(ledger: Ledger) -> None:
    breaker = a_breaker(ledger)
    await trouble(breaker, submit=True)
    await breaker.note(ProviderUnavailable("no answer"))
    await breaker.note(None)
    assert await state(breaker) == "open"


async def test_nor_does_a_read_of_another_process(ledger: Ledger, other: Ledger) -> None:
    sender, reader = a_breaker(ledger), a_breaker(other)
    await reader.note(ProviderUnavailable("no answer"))
    await trouble(sender, submit=True)
    await reader.note(None)
    assert await state(reader) == "open"
    assert reader.pause_seconds() > 0


async def test_reads_close_what_reads_opened(ledger: Ledger) -> None:
    breaker = a_breaker(ledger)
    await trouble(breaker, submit=False)
    assert await state(breaker) == "open"
    await breaker.note(None)
    assert await state(breaker) == "closed"
    assert breaker.pause_seconds() == 0


async def test_only_troubles_in_a_row_count(ledger: Ledger) -> None:
    breaker = a_breaker(ledger)
    for _ in range(3):
        await trouble(breaker, submit=False, times=1)
        await breaker.note(None)
    for _ in range(3):
        await trouble(breaker, submit=True, times=1)
        await breaker.note(None, submit=True)
    assert await state(breaker) == "closed"


async def test_half_open_one_tries_and_closes_it_for_all(ledger: Ledger, other: Ledger) -> None:
    first, second = a_breaker(ledger, open_seconds=0.0), a_breaker(other)
    await trouble(first, submit=True)
    assert await first.admit() is True
    with pytest.raises(CircuitOpen):
        await second.admit()
    await first.note(None, submit=True)
    assert await second.admit() is False


async def test_one_that_fails_opens_it_again(ledger: Ledger, other: Ledger) -> None:
    await trouble(a_breaker(ledger, open_seconds=0.0), submit=True)
    trying = a_breaker(other)
    assert await trying.admit() is True
    await trouble(trying, submit=True, times=1)
    assert await state(trying) == "open"


async def test_a_process_that_saw_none_of_the_trouble_closes_it_too(ledger: Ledger, other: Ledger) -> None:
    unlucky, lucky = a_breaker(ledger, open_seconds=0.0), a_breaker(other)
    await lucky.note(None, submit=True)
    await trouble(unlucky, submit=True)
    assert await lucky.admit() is True
    await lucky.note(None, submit=True)
    assert await state(lucky) == "closed"


async def test_one_that_was_not_sent_leaves_the_try_to_another(ledger: Ledger, other: Ledger) -> None:
    first, second = a_breaker(ledger, open_seconds=0.0), a_breaker(other)
    await trouble(first, submit=True)
    assert await first.admit() is True
    await first.withdraw()
    assert await second.admit() is True


async def test_polls_hear_that_another_process_has_closed_it(ledger: Ledger, other: Ledger) -> None:
    poller, sender = a_breaker(ledger), a_breaker(other)
    await trouble(poller, submit=True)
    await sender.ledger.record_health(ACCOUNT)
    assert poller.pause_seconds() > 0
    await poller.note(None)
    assert poller.pause_seconds() == 0


async def test_a_used_up_quota_without_a_date_is_believed_by_this_process(ledger: Ledger, other: Ledger) -> None:
    breaker = a_breaker(ledger)
    await breaker.note(QuotaExhausted("no credits are left"), submit=True)
    with pytest.raises(QuotaExhausted, match="no credits"):
        await breaker.admit()
    # Somebody may have paid since: another run asks the provider.
    assert await a_breaker(other).admit() is False


async def test_a_used_up_quota_without_a_date_is_asked_about_again(ledger: Ledger) -> None:
    breaker = a_breaker(ledger, quota_seconds=0.0)
    await breaker.note(QuotaExhausted("no credits are left"), submit=True)
    assert await breaker.admit() is False


async def test_one_opening_is_told_once(ledger: Ledger, other: Ledger) -> None:
    told: list[Standing] = []
    first, second = a_breaker(ledger, on_change=told.append), a_breaker(other, on_change=told.append)
    await trouble(first, submit=True)
    await trouble(second, submit=True)
    assert [standing.breaker for standing in told] == ["open"]


async def test_whoever_is_held_back_slows_its_polls_down_too(ledger: Ledger, other: Ledger) -> None:
    unlucky, held = a_breaker(ledger), a_breaker(other)
    await trouble(unlucky, submit=True)
    with pytest.raises(CircuitOpen):
        await held.admit()
    assert held.pause_seconds() == pytest.approx(60, abs=5)
