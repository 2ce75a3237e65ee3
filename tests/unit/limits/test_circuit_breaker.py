"""The breaker's rules, for processes that share one ledger."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_video.errors import (
    AuthenticationFailed,
    CircuitOpen,
    ContentPolicyError,
    GenerationFailed,
    InvalidInput,
    NotFound,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    SubmitOutcomeUnknown,
    VideoError,
)
from prefect_video.ledger import AccountStatus, Ledger
from prefect_video.limits.circuit_breaker import CircuitBreaker

ACCOUNT = "sora-1"
OURS = (
    RequestRejected,
    ContentPolicyError,
    AuthenticationFailed,
    NotFound,
    RateLimited,
    QuotaExhausted,
    GenerationFailed,
    InvalidInput,
)


def a_breaker(ledger: Ledger, **changes: Any) -> CircuitBreaker:
    return CircuitBreaker(ledger, "sora", ACCOUNT, **{"threshold": 2, "open_seconds": 60.0, **changes})


async def trouble(breaker: CircuitBreaker, *, submit: bool, times: int = 2) -> None:
    for _ in range(times):
        await breaker.record(ProviderUnavailable("no answer"), submit=submit)


async def state(breaker: CircuitBreaker) -> str:
    return (await breaker.ledger.accounts.status(ACCOUNT)).breaker


@pytest.mark.parametrize("submit", [True, False], ids=["submit", "read"])
@pytest.mark.parametrize("kind", OURS)
async def test_what_is_ours_never_counts(ledger: Ledger, kind: type[VideoError], submit: bool) -> None:
    breaker = a_breaker(ledger, threshold=1)
    await breaker.record(kind("no"), submit=submit)
    status = await ledger.accounts.status(ACCOUNT)
    assert (status.failures, status.breaker) == (0, "closed")


@pytest.mark.parametrize("kind", [ProviderUnavailable, SubmitOutcomeUnknown])
async def test_the_providers_trouble_opens_it_for_every_process(
    ledger: Ledger, other: Ledger, kind: type[VideoError]
) -> None:
    changes: list[AccountStatus] = []
    breaker = a_breaker(ledger, on_change=changes.append)
    await breaker.record(kind("no answer"), submit=True)
    assert await a_breaker(other).before_submit() is False
    await breaker.record(kind("no answer"), submit=True)
    with pytest.raises(CircuitOpen) as caught:
        await a_breaker(other).before_submit()
    assert caught.value.retry_after == pytest.approx(60, abs=5)
    assert breaker.open_for_seconds() == pytest.approx(60, abs=5)
    assert [status.breaker for status in changes] == ["open"]


async def test_a_read_that_goes_well_does_not_close_what_submits_opened(ledger: Ledger) -> None:
    breaker = a_breaker(ledger)
    await trouble(breaker, submit=True)
    await breaker.record(ProviderUnavailable("no answer"))
    await breaker.record(None)
    assert await state(breaker) == "open"


async def test_nor_does_a_read_of_another_process(ledger: Ledger, other: Ledger) -> None:
    sender, reader = a_breaker(ledger), a_breaker(other)
    await reader.record(ProviderUnavailable("no answer"))
    await trouble(sender, submit=True)
    await reader.record(None)
    assert await state(reader) == "open"
    assert reader.open_for_seconds() > 0


async def test_reads_close_what_reads_opened(ledger: Ledger) -> None:
    breaker = a_breaker(ledger)
    await trouble(breaker, submit=False)
    assert await state(breaker) == "open"
    await breaker.record(None)
    assert await state(breaker) == "closed"
    assert breaker.open_for_seconds() == 0


async def test_only_troubles_in_a_row_count(ledger: Ledger) -> None:
    breaker = a_breaker(ledger)
    for _ in range(3):
        await trouble(breaker, submit=False, times=1)
        await breaker.record(None)
    for _ in range(3):
        await trouble(breaker, submit=True, times=1)
        await breaker.record(None, submit=True)
    assert await state(breaker) == "closed"


async def test_half_open_one_tries_and_closes_it_for_all(ledger: Ledger, other: Ledger) -> None:
    first, second = a_breaker(ledger, open_seconds=0.0), a_breaker(other)
    await trouble(first, submit=True)
    assert await first.before_submit() is True
    with pytest.raises(CircuitOpen):
        await second.before_submit()
    await first.record(None, submit=True)
    assert await second.before_submit() is False


async def test_a_try_that_fails_opens_it_again(ledger: Ledger, other: Ledger) -> None:
    await trouble(a_breaker(ledger, open_seconds=0.0), submit=True)
    trying = a_breaker(other)
    assert await trying.before_submit() is True
    await trouble(trying, submit=True, times=1)
    assert await state(trying) == "open"


async def test_a_process_that_saw_none_of_the_trouble_closes_it_too(ledger: Ledger, other: Ledger) -> None:
    unlucky, lucky = a_breaker(ledger, open_seconds=0.0), a_breaker(other)
    await lucky.record(None, submit=True)
    await trouble(unlucky, submit=True)
    assert await lucky.before_submit() is True
    await lucky.record(None, submit=True)
    assert await state(lucky) == "closed"


async def test_a_submit_that_was_not_sent_leaves_the_try_to_another(ledger: Ledger, other: Ledger) -> None:
    first, second = a_breaker(ledger, open_seconds=0.0), a_breaker(other)
    await trouble(first, submit=True)
    assert await first.before_submit() is True
    await first.cancel_trial()
    assert await second.before_submit() is True


async def test_polls_hear_that_another_process_has_closed_it(ledger: Ledger, other: Ledger) -> None:
    poller, sender = a_breaker(ledger), a_breaker(other)
    await trouble(poller, submit=True)
    await sender.ledger.accounts.record_success(ACCOUNT)
    assert poller.open_for_seconds() > 0
    await poller.record(None)
    assert poller.open_for_seconds() == 0


async def test_a_used_up_quota_without_a_date_is_believed_by_this_process(ledger: Ledger, other: Ledger) -> None:
    breaker = a_breaker(ledger)
    await breaker.record(QuotaExhausted("no credits are left"), submit=True)
    with pytest.raises(QuotaExhausted, match="no credits"):
        await breaker.before_submit()
    # Another process may have paid since: another run asks the provider.
    assert await a_breaker(other).before_submit() is False


async def test_a_used_up_quota_without_a_date_is_asked_about_again(ledger: Ledger) -> None:
    breaker = a_breaker(ledger, quota_seconds=0.0)
    await breaker.record(QuotaExhausted("no credits are left"), submit=True)
    assert await breaker.before_submit() is False


async def test_an_opening_is_reported_once(ledger: Ledger, other: Ledger) -> None:
    changes: list[AccountStatus] = []
    first, second = a_breaker(ledger, on_change=changes.append), a_breaker(other, on_change=changes.append)
    await trouble(first, submit=True)
    await trouble(second, submit=True)
    assert [status.breaker for status in changes] == ["open"]


async def test_a_process_that_is_held_back_slows_its_polls_down_too(ledger: Ledger, other: Ledger) -> None:
    unlucky, held = a_breaker(ledger), a_breaker(other)
    await trouble(unlucky, submit=True)
    with pytest.raises(CircuitOpen):
        await held.before_submit()
    assert held.open_for_seconds() == pytest.approx(60, abs=5)
