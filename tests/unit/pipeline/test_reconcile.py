"""Submits whose answer never came: each is paid once, by the provider's usage records."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from prefect_video.errors import NotFound, SubmitOutcomeUnknown
from prefect_video.generations import Generation
from prefect_video.ledger import State
from prefect_video.providers.sora.provider import SoraProvider
from tests.support.recovery import QUICK, RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenHarness

ACCEPTED_AND_UNANSWERED: list[dict[str, Any]] = [
    {"kind": "error_after"},
    {"kind": "reset_after"},
    {"kind": "hang", "seconds": 30},
    {"kind": "truncated"},
    *({"kind": "foreign_answer", "foreign_status": status} for status in (301, 400, 403, 404, 409, 413, 425, 429, 499)),
    {"kind": "foreign_answer", "foreign_status": 401, "foreign": "json"},
    {"kind": "foreign_answer", "foreign_status": 422, "foreign": "problem"},
    {"kind": "inflated", "inflates_to": 100_000_000},
    {"kind": "nested"},
]
NOT_ACCEPTED: list[dict[str, Any]] = [{"kind": "error_before"}, {"kind": "reset_before"}, {"kind": "wrong_content"}]


def kind_of(fault: dict[str, Any]) -> str:
    return f"{fault['kind']} {fault.get('foreign_status', '')}".strip()


@pytest.mark.parametrize("fault", ACCEPTED_AND_UNANSWERED, ids=kind_of)
@pytest.mark.parametrize("echo_metadata", [True, False], ids=["by key", "by similarity"])
async def test_what_was_accepted_is_found_and_not_sent_again(
    open_harness: OpenHarness, fault: dict[str, Any], echo_metadata: bool
) -> None:
    harness = open_harness(echo_metadata=echo_metadata)
    harness.emulator.add_fault(operation="submit", **fault)
    http = replace(QUICK, submit_timeout_seconds=2) if fault["kind"] == "hang" else QUICK
    report = await harness.run(a_shot(), http=http)
    assert statuses(report) == ["stored"]
    assert harness.paid == (1, 1)
    assert harness.emulator.usage()["submitted"] == 1
    job = await harness.row()
    async with harness.ledger() as ledger:
        assert [step.to_state for step in await ledger.jobs.history(job.id)][:4] == [
            State.RESERVED,
            State.SUBMITTING,
            State.UNKNOWN,
            State.SUBMITTED,
        ]


@pytest.mark.parametrize("fault", NOT_ACCEPTED, ids=kind_of)
async def test_what_was_not_accepted_is_proven_absent_and_then_sent_again(
    harness: RecoveryHarness, fault: dict[str, Any]
) -> None:
    harness.emulator.add_fault(operation="submit", **fault)
    report = await harness.run(a_shot())
    assert statuses(report) == ["stored"]
    assert harness.paid == (1, 1)
    assert harness.emulator.usage()["submitted"] == 2
    assert harness.emulator.usage()["requests"]["list"] >= 2


@pytest.mark.parametrize("listing", ["404", "405", "501"])
async def test_where_nothing_can_be_proven_it_is_held_and_never_bought_again(
    open_harness: OpenHarness, listing: str
) -> None:
    harness = open_harness(listing=listing)
    harness.emulator.add_fault(operation="submit", kind="error_after")
    for _ in range(2):
        report = await harness.run(a_shot())
        assert statuses(report) == ["held"]
        assert "prefect-video resolve" in str(report.shots[0].error)
    assert harness.paid == (1, 1)
    assert harness.emulator.usage()["submitted"] == 1
    job = await harness.row()
    assert job.state is State.UNKNOWN
    assert job.hold_reason


async def test_a_human_who_says_that_it_was_not_accepted_lets_it_be_sent(open_harness: OpenHarness) -> None:
    harness = open_harness(listing="404")
    harness.emulator.add_fault(operation="submit", kind="error_before")
    assert statuses(await harness.run(a_shot())) == ["held"]
    job = await harness.row()
    async with harness.ledger() as ledger:
        await ledger.jobs.release_reservation(job.id, "a human has looked")
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)


@pytest.mark.parametrize("wait", [1e12, 1e300, 3e6])
async def test_a_wait_out_of_all_bounds_leaves_no_row_behind(harness: RecoveryHarness, wait: float) -> None:
    harness.emulator.add_fault(operation="submit", kind="rate_limited", retry_after=wait)
    harness.emulator.add_fault(operation="submit", kind="quota_exhausted")
    report = await harness.run(film(a_shot(1), a_shot(2)))
    assert statuses(report) == ["failed", "failed"]
    assert {job.state for job in await harness.rows()} == {State.RELEASED}
    assert harness.paid == (0, 0)


@pytest.mark.parametrize("echo_metadata", [True, False], ids=["by key", "by similarity"])
async def test_twins_that_are_both_unanswered_are_two_payments(open_harness: OpenHarness, echo_metadata: bool) -> None:
    harness = open_harness(echo_metadata=echo_metadata)
    harness.emulator.add_fault(operation="submit", kind="error_after", times=2)
    report = await harness.run(a_shot(takes=2))
    assert statuses(report) == ["stored", "stored"]
    assert harness.paid == (2, 2)
    assert len({job.generation_id for job in await harness.rows()}) == 2
    assert len(harness.videos) == 2


async def test_a_twin_that_takes_the_others_generation_costs_nothing_more(open_harness: OpenHarness) -> None:
    """One is refused with a 500; what it then finds by similarity is the other's, whose answer is still on its way."""
    harness = open_harness(echo_metadata=False)
    harness.emulator.add_fault(operation="submit", kind="error_before")
    harness.emulator.add_fault(operation="submit", kind="delay", seconds=0.4)
    report = await harness.run(a_shot(takes=2))
    assert statuses(report) == ["stored", "stored"]
    assert harness.paid == (2, 2)
    assert len({job.generation_id for job in await harness.rows()}) == 2


@pytest.mark.parametrize(
    ("kind", "times"), [("error_before", 6), ("reset_before", 6), ("wrong_content", 1), ("truncated", 6)]
)
async def test_a_list_that_does_not_answer_is_asked_again(harness: RecoveryHarness, kind: str, times: int) -> None:
    harness.emulator.add_fault(operation="submit", kind="error_after")
    harness.emulator.add_fault(operation="list", kind=kind, times=times)
    assert statuses(await harness.run(a_shot(), settle_seconds=0.1, check_access=False)) == ["stored"]
    assert harness.paid == (1, 1)


async def test_a_list_that_never_answers_leaves_the_row_for_later(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="submit", kind="error_after")
    harness.emulator.add_fault(operation="list", kind="error_before", times=None)
    report = await harness.run(a_shot(), submit_patience_seconds=0.0)
    assert statuses(report) == ["failed"]
    job = await harness.row()
    assert (job.state, job.hold_reason) == (State.UNKNOWN, None)
    harness.emulator.clear_faults()
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)


async def test_absence_is_proven_from_when_the_answer_was_lost_not_from_when_it_was_sent(
    harness: RecoveryHarness,
) -> None:
    """The request is long on its way, and is accepted after its answer has been given up."""
    accepting: list[asyncio.Task[None]] = []

    class Slow(SoraProvider):
        async def submit(self, *shot: Any, **options: Any) -> Generation:
            if accepting:
                return await super().submit(*shot, **options)

            async def accept() -> None:
                await asyncio.sleep(0.2)
                await super(Slow, self).submit(*shot, **options)

            await asyncio.sleep(1.1)
            accepting.append(asyncio.create_task(accept()))
            raise SubmitOutcomeUnknown("its answer was lost", provider=self.name)

    assert statuses(await harness.run(a_shot(), kind=Slow, settle_seconds=1.0)) == ["stored"]
    await asyncio.gather(*accepting)
    assert harness.paid == (1, 1)


async def test_one_empty_look_proves_nothing(harness: RecoveryHarness) -> None:
    """A page may come from a replica that is behind."""
    looks: list[Generation | None] = []

    class Behind(SoraProvider):
        async def find_unclaimed(self, *shot: Any, **options: Any) -> Generation | None:
            looks.append(await super().find_unclaimed(*shot, **options) if looks else None)
            return looks[-1]

    harness.emulator.add_fault(operation="submit", kind="error_after")
    assert statuses(await harness.run(a_shot(), kind=Behind, settle_seconds=0)) == ["stored"]
    assert harness.paid == (1, 1)
    assert [look is not None for look in looks] == [False, True]


@pytest.mark.parametrize("on_unknown", ["hold", "resubmit"])
async def test_a_list_that_is_refused_for_good_cannot_tell(harness: RecoveryHarness, on_unknown: str) -> None:
    class Unlisted(SoraProvider):
        async def find_unclaimed(self, *shot: Any, **options: Any) -> Generation | None:
            raise NotFound("no such page", provider=self.name)

    harness.emulator.add_fault(operation="submit", kind="error_before")
    report = await harness.run(a_shot(), kind=Unlisted, on_unknown=on_unknown)
    job = await harness.row()
    if on_unknown == "hold":
        assert (statuses(report), job.state) == (["held"], State.UNKNOWN)
        assert "prefect-video resolve" in str(job.hold_reason)
    else:
        assert statuses(report) == ["stored"]


async def test_a_run_that_is_stopped_before_the_answer_is_reconciled_by_the_next(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="submit", kind="delay", seconds=0.3)
    await harness.interrupt(film(a_shot()), "before_send")
    assert (await harness.row()).owner is None
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)
