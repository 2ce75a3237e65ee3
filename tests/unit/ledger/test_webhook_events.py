"""Webhook events in the ledger, on both databases."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect_video.generations import Status
from prefect_video.ledger import Ledger, ReceivedEvent
from tests.support.records import a_generation, a_result

NOW = datetime.now(UTC)


def an_event(number: int = 1, **changes: Any) -> ReceivedEvent:
    values: dict[str, Any] = {
        "account": "sora-1",
        "event_id": f"evt-{number}",
        "generation_id": f"gen-{number}",
        "type": "generation.completed",
        "received_at": NOW + timedelta(seconds=number),
    }
    return ReceivedEvent(**(values | changes))


async def pending(ledger: Ledger, account: str = "sora-1") -> list[str]:
    events = await ledger.events.pending_events([account], since=NOW - timedelta(days=1))
    return [event.event_id for event in events]


async def test_a_repetition_is_recognised(ledger: Ledger) -> None:
    assert await ledger.events.receive_events([]) == []
    batch = [an_event(2), an_event(1), an_event(2), an_event(1, account="sora-2")]
    assert await ledger.events.receive_events(batch) == [True, True, False, True]
    assert await ledger.events.receive_events([an_event(1), an_event(3)]) == [False, True]
    assert await pending(ledger) == ["evt-1", "evt-2", "evt-3"]
    assert await pending(ledger, "sora-2") == ["evt-1"]


async def test_of_many_receivers_one_takes_each_event(ledger: Ledger, other: Ledger) -> None:
    events = [an_event(number) for number in range(600)]
    answers = await asyncio.gather(
        *(owner.events.receive_events(part) for owner in (ledger, other) for part in (events, events[::-1]))
    )
    assert sum(map(sum, answers)) == 600
    assert len(await ledger.events.pending_events(["sora-1"], since=NOW, limit=1000)) == 600


async def test_an_event_is_handled_once(ledger: Ledger, other: Ledger) -> None:
    await ledger.events.receive_events([an_event(1), an_event(2, handled_at=NOW)])
    assert await pending(ledger) == ["evt-1"]
    assert sorted(await asyncio.gather(*(owner.events.mark_handled([an_event(1)]) for owner in (ledger, other)))) == [
        0,
        1,
    ]
    assert await pending(ledger) == []


async def test_what_the_provider_reported_is_taken_once(ledger: Ledger) -> None:
    await ledger.events.receive_events([an_event(1), an_event(2)])
    generation = a_generation("gen-1", status=Status.COMPLETED, result=a_result(NOW + timedelta(hours=1)))
    await ledger.events.stash_generation(an_event(1), generation)
    await ledger.events.stash_generation(
        an_event(2), a_generation("gen-2", result=a_result(NOW - timedelta(seconds=1)))
    )
    assert await ledger.events.pop_generation("sora-2", "gen-1") is None
    assert await ledger.events.pop_generation("sora-1", "gen-1") == generation
    assert await ledger.events.pop_generation("sora-1", "gen-1") is None
    assert await ledger.events.pop_generation("sora-1", "gen-2") is None, "its link is dead"


async def test_old_events_and_links_are_removed(ledger: Ledger) -> None:
    old = {"received_at": NOW - timedelta(days=8)}
    await ledger.events.receive_events(
        [an_event(1, **old, handled_at=NOW), an_event(2, **old), an_event(3, handled_at=NOW)]
    )
    await ledger.events.stash_generation(an_event(2), a_generation("gen-2"))
    await ledger.events.stash_generation(an_event(3), a_generation("gen-3"))
    assert (
        await ledger.events.forget_events(before=NOW - timedelta(days=7), reported_before=NOW - timedelta(hours=1)) == 1
    )
    assert await ledger.events.receive_events([an_event(1), an_event(2), an_event(3)]) == [True, False, False]
    assert await ledger.events.pop_generation("sora-1", "gen-2") is None
    assert await ledger.events.pop_generation("sora-1", "gen-3") is not None
