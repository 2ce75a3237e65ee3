"""Strays: generations that a provider accepted for a row which then went on without them."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import insert

from prefect_video.ledger.part import LedgerPart
from prefect_video.ledger.records import Entry
from prefect_video.ledger.tables import generations


class Strays(LedgerPart):
    """Rows for what nobody meant to buy, so that the books and whoever reads them know of it."""

    async def record_stray(self, stray: Entry, detail: str) -> None:
        """Adds a finished row for a generation that no row owns.

        Raises:
            IllegalTransition: A row owns it.
        """
        now = datetime.now(UTC)
        values = {name: getattr(stray, name) for name in Entry.model_fields}
        async with self._database.writing() as connection:
            await connection.execute(
                insert(generations).values(
                    **values | {"model": stray.shot.model, "owner": None, "created_at": now, "updated_at": now}
                )
            )
            await self._note(connection, [(stray.id, None, stray.state)], detail)
