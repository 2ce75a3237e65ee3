"""Prompts that were refused, kept for a human to look at, and those that a human allowed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import delete, insert, or_, select

from prefect_video.errors import GenerationBlocked, PolicyRefused, PromptScreened, VideoError
from prefect_video.ledger.base import LedgerPart, chunks
from prefect_video.ledger.claims import row_of
from prefect_video.ledger.records import Entry, Intent, State
from prefect_video.ledger.tables import (
    ENTRIES,
    allowed_prompts,
    entry_of,
    entry_of_values,
    generations,
)

logger = logging.getLogger(__name__)

_REFUSALS: Final = (PolicyRefused.__name__, PromptScreened.__name__, GenerationBlocked.__name__)
_BLOCKS: Final = (PolicyRefused.__name__, GenerationBlocked.__name__)


class Review(LedgerPart):
    """Refused and allowed prompts."""

    async def review(self) -> list[Entry]:
        """Rows that the provider's policy or the local screen refused, newest first."""
        query = ENTRIES.where(
            generations.c.state.in_([State.RELEASED, State.FAILED]), generations.c.error_type.in_(_REFUSALS)
        ).order_by(generations.c.created_at.desc(), generations.c.id.desc())
        async with self._database.reading() as connection:
            return [entry_of(row) for row in await connection.execute(query)]

    async def record_screened(self, intent: Intent, error: VideoError | str) -> Entry:
        """Keeps a prompt that the local screen refused; nothing is reserved for it."""
        row = row_of(intent, State.RELEASED, 1, None, datetime.now(UTC)) | {
            "reserved_usd": None,
            "error_type": PromptScreened.__name__,
            "error_message": str(error),
        }
        async with self._database.writing() as connection:
            await connection.execute(insert(generations), [row])
            await self._note(connection, [(row["id"], None, State.RELEASED)], str(error))
        logger.info("entry %s (%s): refused by the local screen", row["id"], intent.shot.id)
        return entry_of_values(row)

    async def blocked(self, entry: Entry) -> Entry | None:
        """The newest row with the prompt of `entry` that a provider's content policy stopped.

        It counts for the same account, and for the same fingerprint at any account of the provider; not once a human
        has allowed the fingerprint of `entry` since.
        """
        same = or_(generations.c.account == entry.account, generations.c.fingerprint == entry.fingerprint)
        query = ENTRIES.where(
            generations.c.state.in_([State.RELEASED, State.FAILED]),
            generations.c.error_type.in_(_BLOCKS),
            generations.c.provider == entry.provider,
            generations.c.id != entry.id,
            same,
        ).order_by(generations.c.updated_at.desc())
        allowed = select(allowed_prompts.c.at).where(allowed_prompts.c.fingerprint == entry.fingerprint)
        prompt = _words(entry)
        async with self._database.reading() as connection:
            allowed_at = (await connection.execute(allowed)).scalar()
            rows = [entry_of(row) for row in await connection.execute(query)]
        found = next((row for row in rows if _words(row) == prompt), None)
        return None if found is None or (allowed_at is not None and allowed_at > found.updated_at) else found

    async def allow(self, fingerprint: str, note: str) -> None:
        """Allows a prompt by its fingerprint, whatever the local screen says; replaces an earlier note."""
        async with self._database.writing() as connection:
            await connection.execute(delete(allowed_prompts).where(allowed_prompts.c.fingerprint == fingerprint))
            await connection.execute(
                insert(allowed_prompts).values(fingerprint=fingerprint, note=note, at=datetime.now(UTC))
            )
        logger.info("prompt %s allowed: %s", fingerprint, note)

    async def allowed(self, fingerprints: Iterable[str]) -> set[str]:
        """Those of some fingerprints that were allowed."""
        found: set[str] = set()
        async with self._database.reading() as connection:
            for some in chunks(fingerprints):
                rows = await connection.execute(
                    select(allowed_prompts.c.fingerprint).where(allowed_prompts.c.fingerprint.in_(some))
                )
                found.update(rows.scalars())
        return found


def _words(entry: Entry) -> str:
    """A prompt without the differences that no content policy sees."""
    return " ".join(entry.shot.prompt.split()).casefold()
