"""Telling Prefect that a generation has ended, so that automations can act on it."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from prefect_video.ledger import Job, ReceivedEvent, State

logger = logging.getLogger(__name__)

Announce = Callable[[Job, ReceivedEvent], None]

_NAMESPACE: Final = uuid.UUID("6f3c2f0e-3f0f-4d1b-9c55-7b0d9f1f2a11")
_ENDS: Final[Mapping[State, str]] = MappingProxyType(
    {State.COMPLETED: "completed", State.STORED: "completed", State.CANCELLED: "cancelled"}
)


def outcome_of(job: Job) -> str:
    """How a generation ended, in the last word of its event: `completed`, `failed` or `cancelled`."""
    return _ENDS.get(job.state, "failed")


async def open_announcer() -> Announce | None:
    """What emits events to the configured Prefect API; None when there is none."""
    return await asyncio.to_thread(_open)


def event_of(job: Job, event: ReceivedEvent) -> dict[str, Any]:
    """The Prefect event of a generation that has ended, as `emit_event` takes it.

    Its id follows from the provider's: told twice, after a crash, it is the same event.
    """
    return {
        "event": f"video.generation.{outcome_of(job)}",
        "id": uuid.uuid5(_NAMESPACE, f"{event.account}\n{event.event_id}"),
        "resource": {
            "prefect.resource.id": f"prefect-video.generation.{job.id}",
            "prefect.resource.name": f"{job.project}/{job.shot.id}",
            "prefect-video.state": job.state.value,
            "prefect-video.shot": job.shot.id,
            "prefect-video.generation-id": event.generation_id,
        },
        "related": [
            {
                "prefect.resource.id": f"prefect-video.project.{job.project}",
                "prefect.resource.role": "project",
                "prefect.resource.name": job.project,
            },
            {
                "prefect.resource.id": f"prefect-video.account.{job.account}",
                "prefect.resource.role": "account",
                "prefect.resource.name": job.provider,
            },
        ],
        "payload": {
            "job_id": job.id,
            "project": job.project,
            "shot": job.shot.id,
            "take": job.take,
            "state": job.state.value,
            "error": job.error_message,
        },
    }


def _open() -> Announce | None:
    from prefect.events import emit_event
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        logger.info("no PREFECT_API_URL: generations that end are not announced as Prefect events")
        return None
    return lambda job, event: _ignore(emit_event(**event_of(job, event)))


def _ignore(_: object) -> None:
    """Events are sent in the background; one that is lost costs time, as the scheduled sweep finds the rest."""
