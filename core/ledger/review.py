"""Prompts that were refused, kept for a human to look at, and those that a human allowed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import delete, insert, select

from prefect_video.errors import GenerationBlocked, PolicyRefused, PromptScreened, VideoError
from prefect_video.ledger.claims import row_of
from prefect_video.ledger.part import LedgerPart, chunks
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
