"""Telling Prefect that a generation has ended, so that automations can act on it."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from prefect_video.ledger import Entry, ReceivedEvent, State

logger = logging.getLogger(__name__)

Announce = Callable[[Entry, ReceivedEvent], None]

_NAMESPACE: Final = uuid.UUID("6f3c2f0e-3f0f-4d1b-9c55-7b0d9f1f2a11")
_ENDS: Final[Mapping[State, str]] = MappingProxyType(
    {State.COMPLETED: "completed", State.STORED: "completed", State.CANCELLED: "cancelled"}
)


def outcome_of(entry: Entry) -> str:
    """How a generation ended, in the last word of its event: `completed`, `failed` or `cancelled`."""
    return _ENDS.get(entry.state, "failed")


async def open_announcer() -> Announce | None:
    """What emits events to the configured Prefect API; None when there is none."""
    return await asyncio.to_thread(_open)


def event_of(entry: Entry, event: ReceivedEvent) -> dict[str, Any]:
    """The Prefect event of a generation that has ended, as `emit_event` takes it.

    Its id follows from the provider's: told twice, after a crash, it is the same event.
    """
    return {
        "event": f"video.generation.{outcome_of(entry)}",
        "id": uuid.uuid5(_NAMESPACE, f"{event.account}\n{event.event_id}"),
        "resource": {
            "prefect.resource.id": f"prefect-video.generation.{entry.id}",
            "prefect.resource.name": f"{entry.project}/{entry.shot.id}",
            "prefect-video.state": entry.state.value,
            "prefect-video.shot": entry.shot.id,
            "prefect-video.generation-id": event.generation_id,
        },
        "related": [
            {
                "prefect.resource.id": f"prefect-video.project.{entry.project}",
                "prefect.resource.role": "project",
                "prefect.resource.name": entry.project,
            },
            {
                "prefect.resource.id": f"prefect-video.account.{entry.account}",
                "prefect.resource.role": "account",
                "prefect.resource.name": entry.provider,
            },
        ],
        "payload": {
            "job_id": entry.id,
            "project": entry.project,
            "shot": entry.shot.id,
            "take": entry.take,
            "state": entry.state.value,
            "error": entry.error_message,
        },
    }


def _open() -> Announce | None:
    from prefect.events import emit_event
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        logger.info("no PREFECT_API_URL: generations that end are not announced as Prefect events")
        return None
    return lambda entry, event: _ignore(emit_event(**event_of(entry, event)))


def _ignore(_: object) -> None:
    """Events are sent in the background; one that is lost costs time, as the scheduled sweep finds the rest."""
