"""Downloading: from a completed generation to a whole, checked file in the spool."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Final

from prefect_video.downloads.media import Media, check_media, probe
from prefect_video.downloads.transfer import Downloaded
from prefect_video.downloads.transfer import download as fetch
from prefect_video.errors import GenerationExpired, NeedsAttention, NotPlayable, StoreError, UnreadableAnswer
from prefect_video.generations import Generation, Status
from prefect_video.ledger import Entry, HoldReason, State, hold_message
from prefect_video.pipeline.steps.end import demand_account, demand_alive, end
from prefect_video.session.session import SessionEvent, Studio

logger = logging.getLogger(__name__)

_TRIES_OF_A_BAD_FILE: Final = 2


async def download(studio: Studio, entry: Entry) -> Downloaded:
    """Fetches the video of a completed row into the spool and checks that it is what was asked for.

    Raises:
        GenerationEnded: The provider no longer has the video, or the row was ended by somebody else.
        DownloadError: It could not be fetched; the row stays completed and can be fetched later.
        NeedsAttention: The provider serves a file that is not the video asked for, or it is another account's.
        StoreError: The spool cannot be written.
    """
    demand_alive(entry)
    demand_account(studio, entry)
    async with studio.download_slots:
        studio.tell(SessionEvent.DOWNLOADING, entry)
        for left in reversed(range(_TRIES_OF_A_BAD_FILE)):
            fetched = await _fetch(studio, entry)
            try:
                media = await _checked(fetched.path, entry)
            except NotPlayable as error:
                fetched.path.unlink(missing_ok=True)
                logger.warning("shot %s: %s%s", entry.shot.id, error, "; fetching it again" if left else "")
                if not left:
                    await _hold(studio, entry, error)
            else:
                studio.tell(SessionEvent.DOWNLOADED, entry)
                return replace(fetched, media=media)
    raise AssertionError("unreachable: the last try returns or raises")


async def _fetch(studio: Studio, entry: Entry) -> Downloaded:
    generation = await studio.fresh_generations.pop(entry.account, entry.generation_id or "")
    if generation is None:
        generation = await _retrieve(studio, entry)
    assert generation.result is not None

    async def refresh() -> str:
        fresh = await _retrieve(studio, entry)
        assert fresh.result is not None
        return fresh.result.video_url

    return await fetch(
        studio.provider.source(generation),
        await _spool_file(studio, entry),
        client=studio.download_client,
        policy=studio.link_policy,
        expected_bytes=generation.result.file_size,
        refresh=refresh,
    )


async def _retrieve(studio: Studio, entry: Entry) -> Generation:
    generation = await studio.watcher.look(entry.generation_id or "")
    if not generation.status.ended:
        # It was completed: a word that is not known counts as processing, and is no verdict.
        raise UnreadableAnswer(
            f"shot {entry.shot.id!r}: generation {generation.id} was completed and is now said to be under way;"
            " run again to look again",
            provider=generation.provider,
            generation_id=generation.id,
        )
    if generation.status is not Status.COMPLETED or generation.result is None:
        error = GenerationExpired(
            f"shot {entry.shot.id!r}: generation {generation.id} was completed and is now {generation.status.value}"
            " without a video.",
            provider=generation.provider,
            generation_id=generation.id,
        )
        if entry.is_reopened:
            # It was stored once and is settled: with the provider's copy gone too, it is for the next claim to buy.
            await studio.ledger.record_missing(entry.id, f"{entry.error_message}. {error}")
        else:
            await end(studio, entry, State.EXPIRED, error, generation=generation)
        raise error
    return generation


async def _checked(path: Path, entry: Entry) -> Media:
    media = await asyncio.to_thread(probe, path)
    check_media(media, entry.shot)
    return media


async def _hold(studio: Studio, entry: Entry, error: NotPlayable) -> None:
    message = hold_message(
        HoldReason.WRONG_VIDEO,
        job=entry.id,
        shot=entry.shot.id,
        ledger=studio.ledger.command_option,
        generation=entry.generation_id,
        cause=str(error),
    )
    await studio.ledger.flag(entry.id, message)
    raise NeedsAttention(message) from error


async def _spool_file(studio: Studio, entry: Entry) -> Path:
    spool = studio.settings.spool
    try:
        await asyncio.to_thread(spool.mkdir, mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot use the spool folder {spool}: {error.strerror}") from error
    return spool / f"{entry.id}.mp4"
