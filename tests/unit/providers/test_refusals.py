"""Only a dialect's own error bodies reject a submit; any other leaves it open, by the emulator's usage."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_video.emulator import Emulator
from prefect_video.errors import AuthenticationFailed, ProviderError, RequestRejected, SubmitOutcomeUnknown
from prefect_video.generations import Generation
from prefect_video.providers.base import Provider
from tests.support.accounts import TestAccount

STATUSES = (301, 303, 307, 308, 400, 401, 402, 403, 404, 409, 413, 422, 425, 429, 451, 499, 502)
OUT_OF_BOUNDS: tuple[dict[str, Any], ...] = (
    {"kind": "inflated", "inflates_to": 200_000_000},
    {"kind": "nested"},
    {"kind": "truncated", "fraction": 0.4},
)


async def submit(provider: Provider, account: TestAccount) -> Generation:
    return await provider.submit(account.a_shot(), idempotency_key="k", project="film")


@pytest.mark.parametrize("foreign", ["html", "json", "problem", "text", "empty"])
async def test_what_a_gateway_says_after_acceptance_is_no_refusal(
    provider: Provider, account: TestAccount, emulator: Emulator, foreign: str
) -> None:
    for status in STATUSES:
        emulator.add_fault(operation="submit", kind="foreign_answer", foreign=foreign, foreign_status=status)
        with pytest.raises(SubmitOutcomeUnknown) as unknown:
            await submit(provider, account)
        assert unknown.value.accepted is None
        emulator.wait_until_idle()
    assert emulator.usage()["accepted"] == emulator.usage()["submitted"] == len(STATUSES)


@pytest.mark.parametrize("fault", OUT_OF_BOUNDS, ids=lambda fault: str(fault["kind"]))
async def test_an_answer_out_of_bounds_leaves_a_submit_open_and_is_no_verdict_on_a_look(
    provider: Provider, account: TestAccount, emulator: Emulator, fault: dict[str, Any]
) -> None:
    emulator.add_fault(operation="submit", **fault)
    with pytest.raises(SubmitOutcomeUnknown):
        await submit(provider, account)
    assert emulator.usage()["accepted"] == 1
    accepted = await submit(provider, account)
    emulator.add_fault(operation="retrieve", **{**fault, "times": None})
    with pytest.raises(ProviderError) as unread:
        await provider.retrieve(accepted.id)
    assert not isinstance(unread.value, RequestRejected)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1", "1e999", "1e12", "9" * 400, '"many"'])
async def test_odd_numbers_do_not_cost_the_id_of_what_was_paid(
    provider: Provider, account: TestAccount, emulator: Emulator, number: str
) -> None:
    emulator.add_fault(operation="submit", kind="odd_number", number=number)
    accepted = await submit(provider, account)
    emulator.add_fault(operation="retrieve", kind="odd_number", number=number)
    assert (await provider.retrieve(accepted.id)).id == accepted.id


@pytest.mark.parametrize("wrapper", ["data", "result", "job"])
async def test_what_a_relay_wraps_is_unwrapped(
    provider: Provider, account: TestAccount, emulator: Emulator, wrapper: str
) -> None:
    emulator.add_fault(operation="submit", kind="wrapped", wrapper=wrapper)
    accepted = await submit(provider, account)
    emulator.add_fault(operation="retrieve", kind="wrapped", wrapper=wrapper)
    assert (await provider.retrieve(accepted.id)).id == accepted.id
    assert emulator.usage()["accepted"] == 1


async def test_a_right_key_has_access_and_a_wrong_one_has_none(
    provider: Provider, account: TestAccount, emulator: Emulator
) -> None:
    await provider.check_access()
    if provider.name == "fal":
        return
    stranger = account.open(emulator, key="sk-not-the-right-one")
    with pytest.raises(AuthenticationFailed):
        await stranger.check_access()
    await stranger.aclose()
    assert emulator.usage()["submitted"] == 0
