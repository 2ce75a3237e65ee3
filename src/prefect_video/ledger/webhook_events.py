"""Webhook events: written before they are acknowledged, deduplicated, handled once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from pydantic import AwareDatetime
from sqlalchemy import Row, and_, bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningInsert

from prefect_video.generations import Generation
from prefect_video.ledger.base import LedgerBase, chunks
from prefect_video.ledger.records import Record
from prefect_video.ledger.row_records import UnreadableValue, readable_rows, record_from_row
from prefect_video.ledger.tables import webhook_events


class ReceivedEvent(Record):
    """A verified webhook event, as it was received.

    Attributes:
        account: The account whose secret signed it.
        event_id: The provider's id of the event; repeated deliveries share it.
        generation_id: What it is about.
        type: What has happened, in the provider's word.
        received_at: When it came in.
        handled_at: When nothing was left to do about it; at once, for one that tells of progress only.
    """

    account: str
    event_id: str
    generation_id: str
    type: str
    received_at: AwareDatetime
    handled_at: AwareDatetime | None = None


_COLUMNS = tuple(webhook_events.c[name] for name in ReceivedEvent.model_fields)

# Built once: a service runs it for each delivery, and building it takes longer than running it.
_MARK_HANDLED: Final = (
    update(webhook_events)
    .where(
        webhook_events.c.account == bindparam("at"),
        webhook_events.c.event_id.in_(bindparam("ids", expanding=True)),
        webhook_events.c.handled_at.is_(None),
    )
    .values(handled_at=bindparam("now"))
)


class WebhookEvents(LedgerBase):
    """Webhook events of providers. An event is identified by its account and its own id."""

    async def receive_events(self, events: Sequence[ReceivedEvent]) -> list[bool]:
        """Record verified events in one transaction.

        Returns:
            For each event, in order, whether it is new; a repetition within the same batch is not.

        Raises:
            LedgerError: Nothing was written; the sender must be asked to try again.
        """
        if not events:
            return []
        # In one order everywhere: two receivers that insert the same events must not wait for each other.
        rows = [event.model_dump() for event in sorted(events, key=_key)]

        async def insert(connection: AsyncConnection) -> set[tuple[str, str]]:
            written = await connection.execute(self._insert_missing, rows)
            return {(row.account, row.event_id) for row in written}

        added = await self._database.write(insert)
        fresh: list[bool] = []
        for event in events:
            fresh.append(_key(event) in added)
            added.discard(_key(event))
        return fresh

    @cached_property
    def _insert_missing(self) -> ReturningInsert[Any]:
        identity = (webhook_events.c.account, webhook_events.c.event_id)
        return self._database.insert_missing(webhook_events).returning(*identity)

    async def pending_events(
        self, accounts: Collection[str], *, since: datetime, limit: int = 500
    ) -> list[ReceivedEvent]:
        """Read the events of some accounts that are not handled yet, oldest first."""
        query = (
            select(*_COLUMNS)
            .where(
                webhook_events.c.handled_at.is_(None),
                webhook_events.c.account.in_(sorted(accounts)),
                webhook_events.c.received_at >= since,
            )
            .order_by(webhook_events.c.received_at)
            .limit(limit)
        )
        async with self._database.reading() as connection:
            return list(readable_rows(await connection.execute(query), _from_row))

    async def mark_handled(self, events: Sequence[ReceivedEvent]) -> int:
        """Record that events were handled.

        Returns:
            For how many of them this call was the first; another process was faster with the rest.
        """
        by_account: dict[str, list[str]] = {}
        for event in events:
            by_account.setdefault(event.account, []).append(event.event_id)

        async def mark(connection: AsyncConnection) -> int:
            marked, now = 0, datetime.now(UTC)
            for account, event_ids in by_account.items():
                for chunk in chunks(event_ids):
                    sought = {"at": account, "ids": list(chunk), "now": now}
                    marked += (await connection.execute(_MARK_HANDLED, sought)).rowcount
            return marked

        return await self._database.write(mark)

    async def stash_generation(self, event: ReceivedEvent, generation: Generation) -> None:
        """Keep what the provider reported for the process that fetches the video by `pop_generation`."""
        async with self._database.writing() as connection:
            await connection.execute(
                update(webhook_events).where(_is(event)).values(reported=generation, generation_id=generation.id)
            )

    async def pop_generation(self, account: str, generation_id: str) -> Generation | None:
        """Return and erase what a webhook's handler has kept for the process that fetches the video.

        Its link is a secret for as long as it lives: it must not lie about.
        """
        of_it = and_(webhook_events.c.account == account, webhook_events.c.generation_id == generation_id)
        left = and_(of_it, webhook_events.c.reported.is_not(None))
        async with self._database.reading() as connection:
            found = (
                await connection.execute(select(webhook_events.c.reported).where(left).limit(1))
            ).scalar_one_or_none()
        if found is None:
            return None
        async with self._database.writing() as connection:
            await connection.execute(update(webhook_events).where(left).values(reported=None))
        if isinstance(found, UnreadableValue):
            return None
        reported: Generation = found
        expires_at = reported.result.expires_at if reported.result else None
        return reported if expires_at is None or expires_at > datetime.now(UTC) else None

    async def forget_events(self, *, before: datetime, reported_before: datetime) -> int:
        """Remove handled events received before a time, and links never used; return the number of events."""
        events: Any = webhook_events.c
        async with self._database.writing() as connection:
            await connection.execute(
                update(webhook_events)
                .where(events.reported.is_not(None), events.received_at < reported_before)
                .values(reported=None)
            )
            removed = await connection.execute(
                delete(webhook_events).where(events.handled_at.is_not(None), events.received_at < before)
            )
        return removed.rowcount


def _key(event: ReceivedEvent) -> tuple[str, str]:
    return event.account, event.event_id


def _is(event: ReceivedEvent) -> Any:
    return and_(webhook_events.c.account == event.account, webhook_events.c.event_id == event.event_id)


def _from_row(row: Row[Any]) -> ReceivedEvent:
    return record_from_row(row, ReceivedEvent, webhook_events.name)
