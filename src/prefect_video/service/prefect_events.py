"""Prefect events for generations that have ended, so that automations can act on them."""

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

_EVENT_ID_NAMESPACE: Final = uuid.UUID("6f3c2f0e-3f0f-4d1b-9c55-7b0d9f1f2a11")
_OUTCOMES: Final[Mapping[State, str]] = MappingProxyType(
    {State.COMPLETED: "completed", State.STORED: "completed", State.CANCELLED: "cancelled"}
)


def get_outcome(job: Job) -> str:
    """Return the outcome of a generation as the end of its event's name: `completed`, `failed` or `cancelled`."""
    return _OUTCOMES.get(job.state, "failed")


async def open_announcer() -> Announce | None:
    """Return the function that emits events to the configured Prefect API; None when none is configured."""
    # Importing Prefect takes seconds, during which the service must answer.
    return await asyncio.to_thread(_open)


async def has_prefect_api() -> bool:
    """Tell whether a Prefect API is configured, to which events can go."""
    return await asyncio.to_thread(_has_prefect_api)


def build_event(job: Job, event: ReceivedEvent) -> dict[str, Any]:
    """Build the Prefect event of a generation that has ended, as the arguments of `emit_event`.

    Its id is derived from the provider's event: emitted again after a crash, it is the same event.
    """
    return {
        "event": f"video.generation.{get_outcome(job)}",
        "id": uuid.uuid5(_EVENT_ID_NAMESPACE, f"{event.account}\n{event.event_id}"),
        "resource": {
            "prefect.resource.id": f"prefect-video.generation.{job.id}",
            "prefect.resource.name": f"{job.project}/{job.shot.id}",
            "prefect-video.project": job.project,
            "prefect-video.environment": job.environment,
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
    """Import Prefect and build the function that emits events."""
    from prefect.events import emit_event

    if not _has_prefect_api():
        logger.info("no PREFECT_API_URL: generations that end are not announced as Prefect events")
        return None
    return lambda job, event: _ignore(emit_event(**build_event(job, event)))


def _has_prefect_api() -> bool:
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value())


def _ignore(_: object) -> None:
    """Discard the emitted event: Prefect sends it in the background, and a lost one only delays what it triggers."""
