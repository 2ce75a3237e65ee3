"""Turns to send: what is on record as sent leaves at once, however many shots are to be sent."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from prefect_video.ledger import Job
from prefect_video.pipeline.entry_points import run_project
from prefect_video.providers.base import Provider
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.session import SessionEvent
from tests.support.recovery import a_shot, film, statuses
from tests.support.recovery_fixtures import OpenHarness

AT_ONCE = 32
"""Requests that pay at once; the provider's client has connections for these and for polls."""


def open_wide(**values: Any) -> Provider:
    """Build a provider that waits for slow answers, with a plan of many generations at once."""
    provider = SoraProvider(**{**values, "settings": HttpSettings()})
    provider.capabilities = replace(provider.capabilities, concurrency=100)
    return provider


async def test_no_more_are_on_record_as_sent_than_can_leave(open_harness: OpenHarness) -> None:
    count = AT_ONCE + 18
    harness = open_harness(capacity=count)
    harness.emulator.add_fault(operation="submit", kind="delay", seconds=2, times=None)
    unanswered: set[str] = set()
    most = 0

    def observe(event: SessionEvent, job: Job) -> None:
        nonlocal most
        if event is SessionEvent.BEFORE_SEND:
            unanswered.add(job.id)
            most = max(most, len(unanswered))
        elif event is SessionEvent.ANSWERED:
            unanswered.remove(job.id)

    project = film(*(a_shot(number) for number in range(count)))
    settings = {"kind": open_wide, "max_in_flight": count, "account_slots": count, "lease_seconds": 30.0}
    report = await harness.run(project, observer=observe, **settings)
    assert statuses(report) == ["stored"] * count
    assert harness.paid == (count, count)
    assert 1 < most <= AT_ONCE


async def test_shots_that_wait_for_a_slot_of_the_account_hold_no_turn(open_harness: OpenHarness) -> None:
    count = AT_ONCE + 8
    harness = open_harness(capacity=1)
    free: list[bool] = []

    def observe(event: SessionEvent, job: Job) -> None:
        if event is SessionEvent.COMPLETED:
            free.append(session.submit_turns.is_free)

    async with harness.session(kind=open_wide, max_in_flight=count, account_slots=count, observer=observe) as session:
        # As while other processes hold the rest.
        session.account_slots = 1
        report = await run_project(session, film(*(a_shot(number) for number in range(count))))
    assert statuses(report) == ["stored"] * count
    assert harness.paid == (count, count)
    assert free == [True] * count
    # None was sent that the provider had no room for.
    assert harness.emulator.usage()["submitted"] == count


async def test_submits_that_waited_for_a_turn_are_spaced_too(open_harness: OpenHarness) -> None:
    count = AT_ONCE + 8
    harness = open_harness(capacity=count)
    # All turns are given back at the same moment.
    harness.emulator.add_fault(operation="submit", kind="delay", seconds=4, times=AT_ONCE)
    moments: list[float] = []

    def observe(event: SessionEvent, job: Job) -> None:
        if event is SessionEvent.BEFORE_SEND:
            moments.append(asyncio.get_running_loop().time())

    project = film(*(a_shot(number) for number in range(count)))
    settings = {"kind": open_wide, "max_in_flight": count, "account_slots": count, "lease_seconds": 30.0}
    report = await harness.run(project, observer=observe, submissions_per_minute=600, **settings)
    assert statuses(report) == ["stored"] * count
    # A tenth of a second apart; they may be late by any time, but not all at once.
    assert moments[-1] - moments[AT_ONCE] > 0.1 * (count - AT_ONCE - 2)
