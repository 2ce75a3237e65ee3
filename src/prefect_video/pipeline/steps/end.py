"""End: records that a row ended without a video, with its cost, and raises that to the run that needs the video."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from prefect_video.errors import (
    GenerationBlocked,
    GenerationCancelled,
    GenerationEnded,
    GenerationExpired,
    GenerationFailed,
    GenerationInvalid,
    GenerationLost,
    IllegalTransition,
    NeedsAttention,
)
from prefect_video.generations import Generation
from prefect_video.ledger import Entry, HoldReason, State, hold_message
from prefect_video.ledger.records import UNFINISHED
from prefect_video.session.session import SessionEvent, Studio

ERRORS: Final[Mapping[State, type[GenerationEnded]]] = MappingProxyType(
    {
        State.FAILED: GenerationFailed,
        State.CANCELLED: GenerationCancelled,
        State.EXPIRED: GenerationExpired,
        State.LOST: GenerationLost,
        # Somebody gave the reservation up before it was sent.
        State.RELEASED: GenerationCancelled,
    }
)
"""What a row that ended without a video is raised as."""


async def end(
    studio: Studio, entry: Entry, state: State, error: GenerationEnded, *, generation: Generation | None = None
) -> Entry:
    """Ends a row and settles its cost.

    It costs what the provider says. Where it says nothing, an end that is known to be free costs nothing, unless the
    request was at fault; after any other the reservation counts as spent. One that is lost or expired was made, and is
    held for a human unless policy says otherwise.
    """
    actual_usd = generation.cost_usd if generation else None
    of_request = generation is not None and generation.fault is not None and generation.fault.of_request
    if actual_usd is None and not of_request and state.value in studio.provider.capabilities.free_ends:
        actual_usd = Decimal(0)
    attention = None
    if state in (State.LOST, State.EXPIRED) and studio.settings.on_lost == "hold":
        attention = hold_message(
            HoldReason.VIDEO_GONE,
            job=entry.id,
            shot=entry.shot.id,
            ledger=studio.ledger.command_option,
            cause=str(error),
        )
    try:
        entry = await studio.ledger.record_ended(
            entry.id,
            state,
            error,
            actual_usd=actual_usd,
            attention=attention,
            bound=studio.settings.cost_bound,
        )
    except IllegalTransition:
        # Somebody else saw the same end first, a cancel command for example.
        entry = await studio.ledger.get(entry.id)
        if entry.state in UNFINISHED:
            raise
        return entry
    studio.tell(SessionEvent.ENDED, entry, str(error))
    return entry


def error_of(entry: Entry) -> type[GenerationEnded]:
    """What a row that ended without a video is raised as: for a failure, the very kind that was written down."""
    kinds = {kind.__name__: kind for kind in (GenerationBlocked, GenerationInvalid)}
    if entry.state is State.FAILED and entry.error_type in kinds:
        return kinds[entry.error_type]
    return ERRORS.get(entry.state, GenerationFailed)


def demand_alive(entry: Entry) -> Entry:
    """The row, unless it has ended without a video: by a cancel command, for example, while a step was waiting.

    Raises:
        GenerationEnded: How it ended.
    """
    if entry.state not in ERRORS:
        return entry
    raise error_of(entry)(
        f"shot {entry.shot.id!r}: {entry.error_message or entry.state}",
        provider=entry.provider,
        generation_id=entry.generation_id,
    )


def demand_account(studio: Studio, entry: Entry) -> None:
    """Refuses to ask another account about a row: its "not found" says nothing, and what it lists is not ours.

    Raises:
        NeedsAttention: The studio's key is not the one that the row was sent with; nothing was asked or written.
    """
    account = studio.provider.account.id
    if entry.account == account:
        return
    raise NeedsAttention(
        hold_message(
            HoldReason.OTHER_ACCOUNT,
            job=entry.id,
            shot=entry.shot.id,
            ledger=studio.ledger.command_option,
            generation=entry.generation_id,
            what=f"generation {entry.generation_id}" if entry.generation_id else "an unanswered submit",
            account=entry.account,
            credentials=entry.credentials,
            used_account=account,
            used_credentials=studio.credentials,
        )
    )
