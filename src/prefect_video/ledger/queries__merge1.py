"""Finding the rows of many fingerprints at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, or_
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.ledger.part import chunks
from prefect_video.ledger.records import UNFINISHED, Entry, Intent, State
from prefect_video.ledger.tables import ENTRIES, entry_of, generations

Key = tuple[str, str]
"""Environment and fingerprint: of what there may be only one under way."""

_ENDED = (State.FAILED, State.CANCELLED, State.EXPIRED, State.LOST)


def key_of(item: Intent | Entry) -> Key:
    """What must be single."""
    return item.environment, item.fingerprint


async def read_unfinished(connection: AsyncConnection, keys: Iterable[Key]) -> dict[Key, Entry]:
    """The row under way for each key that has one."""
    found = await _read(connection, keys, generations.c.state.in_(UNFINISHED))
    return {key_of(entry): entry for entry in found}


async def read_finished(connection: AsyncConnection, intents: Collection[Intent]) -> dict[Key, list[Entry]]:
    """What exists for each intent; newest first.

    That is: stored rows, what ended without a video in its own flow run, and what did so and waits for a human.
    """
    runs = {intent.flow_run_id for intent in intents if intent.flow_run_id is not None}
    matters = or_(generations.c.flow_run_id.in_(runs), generations.c.attention.is_not(None))
    ended = and_(generations.c.state.in_(_ENDED), matters)
    wanted = or_(generations.c.state == State.STORED, ended)
    finished: dict[Key, list[Entry]] = {}
    for entry in await _read(connection, (key_of(intent) for intent in intents), wanted):
        finished.setdefault(key_of(entry), []).append(entry)
    for entries in finished.values():
        entries.sort(key=lambda entry: entry.stored_at or entry.created_at, reverse=True)
    return finished


async def read_stored(connection: AsyncConnection, keys: Iterable[Key], since: datetime | None) -> dict[Key, Entry]:
    """The newest stored row for each key that has one."""
    wanted = generations.c.state == State.STORED
    if since is not None:
        wanted = and_(wanted, generations.c.stored_at >= since)
    found = await _read(connection, keys, wanted)
    found.sort(key=lambda entry: entry.stored_at or entry.created_at)
    return {key_of(entry): entry for entry in found}


async def read_existing(connection: AsyncConnection, intents: Iterable[Intent]) -> dict[Key, list[Entry]]:
    """What stands in the way of buying each intent, newest first: stored, under way, or waiting for a human."""
    standing = or_(generations.c.state.in_((*UNFINISHED, State.STORED)), generations.c.attention.is_not(None))
    existing: dict[Key, list[Entry]] = {}
    for entry in await _read(connection, map(key_of, intents), standing):
        existing.setdefault(key_of(entry), []).append(entry)
    for entries in existing.values():
        entries.sort(key=lambda entry: entry.stored_at or entry.created_at, reverse=True)
    return existing


def answer(entries: Sequence[Entry], intent: Intent, now: datetime) -> Entry | None:
    """The row that a claim of an intent would be answered with, were it claimed now; None when it would be bought."""
    under_way = (entry for entry in entries if entry.state in UNFINISHED)
    return next(under_way, None) or usable(entries, intent, now) or held(entries)


def usable(entries: Iterable[Entry], intent: Intent, now: datetime) -> Entry | None:
    """The newest stored row that answers an intent; what its own flow run stored always does."""
    oldest = None if intent.ttl_seconds is None else now - timedelta(seconds=intent.ttl_seconds)
    for entry in entries:
        if entry.state is not State.STORED or entry.stored_at is None:
            continue
        of_this_run = intent.flow_run_id is not None and entry.flow_run_id == intent.flow_run_id
        if of_this_run or (not intent.refresh and (oldest is None or entry.stored_at >= oldest)):
            return entry
    return None


def held(entries: Iterable[Entry]) -> Entry | None:
    """The newest row that ended without a video and waits for a human; until then nothing is bought in its place."""
    waiting = (entry for entry in entries if entry.state in _ENDED and entry.attention is not None)
    return max(waiting, key=lambda entry: entry.created_at, default=None)


def failures(entries: Iterable[Entry], intent: Intent) -> list[Entry]:
    """The attempts of the intent's own flow run that ended without a video, newest first."""
    return [
        entry
        for entry in entries
        # A row that was stored and whose file is gone was no failed attempt.
        if entry.state in _ENDED and entry.stored_at is None and entry.flow_run_id == intent.flow_run_id
    ]


async def _read(connection: AsyncConnection, keys: Iterable[Key], wanted: ColumnElement[bool]) -> list[Entry]:
    by_environment: dict[str, list[str]] = {}
    for environment, fingerprint in keys:
        by_environment.setdefault(environment, []).append(fingerprint)
    entries: list[Entry] = []
    for environment, fingerprints in by_environment.items():
        for some in chunks(fingerprints):
            found = await connection.execute(
                ENTRIES.where(generations.c.environment == environment, generations.c.fingerprint.in_(some), wanted)
            )
            entries.extend(entry_of(row) for row in found)
    return entries
