"""Collecting: finishing whatever the ledger shows unfinished and nobody alive is working on.

The recovery after a crash, and the second half of a deferred run. Idempotent, and safe beside live flows: a row is
touched only after it has been taken over from an owner that is gone. Nothing is ever sent anew from here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from prefect_video.errors import DeadlinePassed, GenerationEnded, IllegalTransition, NeedsAttention, VideoError
from prefect_video.ledger import Entry, Ledger, State
from prefect_video.pipeline.steps.deadline import give_up, hold_message_if_stuck, is_overdue
from prefect_video.pipeline.steps.download import download
from prefect_video.pipeline.steps.end import demand_account
from prefect_video.pipeline.steps.poll import poll, record_end
from prefect_video.pipeline.steps.reconcile import reconcile
from prefect_video.pipeline.steps.store import store
from prefect_video.session.refs import OpenStudio, by_studio
from prefect_video.session.session import Studio

logger = logging.getLogger(__name__)


class Collected(BaseModel):
    """The outcome of a sweep for one row.

    Attributes:
        entry: The row as it then stands.
        outcome: What was done, in words.
        error: Why it could not be finished now.
    """

    model_config = ConfigDict(frozen=True)

    entry: Entry
    outcome: str
    error: str | None = None


async def collect(
    ledger: Ledger,
    open_studio: OpenStudio,
    *,
    project: str | None = None,
    flow_run_id: str | None = None,
    wait: bool = False,
) -> list[Collected]:
    """Finishes all unfinished rows that nobody alive is working on.

    Args:
        ledger: The books.
        open_studio: How to open the studio of a row; rows with the same credentials and store share one.
        project: Only this project's rows.
        flow_run_id: Only this run's rows.
        wait: Wait for generations that are still being made, instead of leaving them for the next sweep.

    Returns:
        One line for each unfinished row.
    """
    entries = await ledger.unfinished(project=project, flow_run_id=flow_run_id)
    swept = await asyncio.gather(*(_sweep(open_studio, group, wait) for group in by_studio(entries)))
    return [line for lines in swept for line in lines]


async def _sweep(open_studio: OpenStudio, entries: Sequence[Entry], wait: bool) -> list[Collected]:
    try:
        async with open_studio(entries[0]) as studio:
            await studio.store.sweep()
            return list(await asyncio.gather(*(finish(studio, entry, wait=wait) for entry in entries)))
    except Exception as error:
        # Whatever is wrong with one account or store must not end the sweep of the others.
        unexpected = None if isinstance(error, VideoError) else error
        logger.error("cannot open %s with %s: %s", entries[0].store, entries[0].credentials, error, exc_info=unexpected)
        reason = str(error) or type(error).__name__
        return [Collected(entry=entry, outcome="left", error=reason) for entry in entries]


async def finish(studio: Studio, entry: Entry, *, wait: bool) -> Collected:
    """Finishes one unfinished row, unless somebody alive is working on it.

    One that waits for a human is left alone, but for a generation that was late: it may have ended by now.
    """
    if entry.attention and entry.state is not State.SUBMITTED:
        return Collected(entry=entry, outcome="needs a human", error=entry.attention)
    taken = await studio.ledger.take_over(entry.id)
    if taken is None:
        return Collected(entry=entry, outcome="somebody is working on it")
    try:
        outcome = await _advance(studio, taken, wait)
        return Collected(entry=await studio.ledger.get(entry.id), outcome=outcome)
    except GenerationEnded as error:
        return Collected(entry=await studio.ledger.get(entry.id), outcome="ended without a video", error=str(error))
    except NeedsAttention as error:
        return Collected(entry=await studio.ledger.get(entry.id), outcome="needs a human", error=str(error))
    except IllegalTransition as error:
        return Collected(entry=await studio.ledger.get(entry.id), outcome="moved by somebody else", error=str(error))
    except VideoError as error:
        return await _left(studio, entry.id, error)
    except Exception as error:
        # One row's defect must not end the sweep of the others.
        logger.exception("%s/%s: unexpected error, not collected now", entry.project, entry.shot.id)
        return Collected(entry=entry, outcome="left for later", error=str(error) or type(error).__name__)
    finally:
        await studio.ledger.let_go([entry.id])


async def _advance(studio: Studio, entry: Entry, wait: bool) -> str:
    if entry.state is State.SUBMITTING:
        entry = await studio.ledger.record_unknown(entry.id, "its owner died between sending and recording")
    if entry.state is State.UNKNOWN:
        entry = await reconcile(studio, entry)
    if entry.state is State.RESERVED:
        await studio.ledger.release(entry.id, "nobody was left to send it")
        return "released: it was never sent"
    if entry.state is State.SUBMITTED:
        waits = wait and not is_overdue(entry)
        entry = await (poll(studio, entry) if waits else _look(studio, entry))
    if entry.state is State.SUBMITTED:
        return "still being made"
    if entry.state is State.COMPLETED:
        await store(studio, entry, await download(studio, entry))
    return "stored"


async def _look(studio: Studio, entry: Entry) -> Entry:
    demand_account(studio, entry)
    generation = await studio.watcher.look(entry.generation_id or "")
    if not generation.status.ended:
        if not is_overdue(entry):
            return entry
        passed = DeadlinePassed(
            f"generation {entry.generation_id} had not ended by {entry.deadline_at:%Y-%m-%d %H:%M:%S}Z;"
            " it is left running"
        )
        generation = await give_up(studio, entry, passed)
    return await record_end(studio, entry, generation)


async def _left(studio: Studio, entry_id: str, error: VideoError) -> Collected:
    """Leaves a row to the next sweep; to a human, when no sweep will finish it by itself."""
    entry = await studio.ledger.get(entry_id)
    if entry.attention is None and (message := hold_message_if_stuck(studio, entry, error)):
        entry = await studio.ledger.flag(entry.id, message)
    if entry.attention:
        return Collected(entry=entry, outcome="needs a human", error=entry.attention)
    logger.warning("%s/%s: not collected now: %s", entry.project, entry.shot.id, error)
    return Collected(entry=entry, outcome="left for later", error=str(error))
