"""Claiming: who may buy which video, decided for a whole batch in one transaction."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import insert, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video._shield import to_its_end
from prefect_video.ledger.base import LedgerPart, chunks
from prefect_video.ledger.budgets import Limits, beginning_of_month
from prefect_video.ledger.queries import Key, failures, held, key_of, read_finished, read_unfinished, usable
from prefect_video.ledger.records import (
    UNFINISHED,
    Budget,
    Claim,
    ClaimBatch,
    ClaimOutcome,
    Entry,
    Intent,
    Priority,
    State,
)
from prefect_video.ledger.tables import ENTRIES, entry_of, entry_of_values, generations, rounded

logger = logging.getLogger(__name__)


class Ownership(LedgerPart):
    """Who works on which row."""

    async def take_over(self, entry_id: str) -> Entry | None:
        """Makes this process the owner of an unfinished row whose owner is dead, or that has none.

        Returns:
            The row; None when it is finished or its owner is alive. That may be this very process: somebody else in
            it is at work on the row then.

        Raises:
            LedgerError: There is no such row.
        """
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.state not in UNFINISHED:
                return None
            if entry.owner == self._owner.id:
                return None
            if entry.owner and await self._owner.living(connection, [entry.owner]):
                return None
            (taken,) = await self._take(connection, [(entry, None)])
            return taken if taken.owner == self._owner.id else None

    async def let_go(self, entry_ids: Iterable[str]) -> None:
        """Gives up unfinished rows that this process owns: anybody may carry them on.

        It is done even while the caller is being cancelled: a row that keeps a living owner is out of others' reach.
        """
        await to_its_end(self._let_go(entry_ids))

    async def owner_alive(self, owner_id: str) -> bool:
        """Whether the process behind an owner id still works."""
        async with self._database.reading() as connection:
            return bool(await self._owner.living(connection, [owner_id]))

    async def _let_go(self, entry_ids: Iterable[str]) -> None:
        async with self._database.writing() as connection:
            for some in chunks(entry_ids):
                await connection.execute(
                    update(generations)
                    .where(
                        generations.c.id.in_(some),
                        generations.c.owner == self._owner.id,
                        generations.c.state.in_(UNFINISHED),
                    )
                    .values(owner=None, updated_at=datetime.now(UTC))
                )

    async def _take(self, connection: AsyncConnection, free: Sequence[tuple[Entry, str | None]]) -> list[Entry]:
        """Takes `(row, flow run that carries it on)`, unless somebody else was faster; the rows as they stand now."""
        groups: dict[tuple[str | None, str | None], list[str]] = {}
        for entry, flow_run_id in free:
            groups.setdefault((entry.owner, flow_run_id), []).append(entry.id)
        for (owner, flow_run_id), ids in groups.items():
            change = update(generations).values(owner=self._owner.id, updated_at=datetime.now(UTC))
            if flow_run_id is not None:
                change = change.values(flow_run_id=flow_run_id)
            for some in chunks(ids):
                await connection.execute(
                    change.where(
                        generations.c.id.in_(some),
                        generations.c.owner.is_(None) if owner is None else generations.c.owner == owner,
                        generations.c.state.in_(UNFINISHED),
                    )
                )
        fresh: list[Entry] = []
        for some in chunks(entry.id for entry, _ in free):
            found = await connection.execute(ENTRIES.where(generations.c.id.in_(some)))
            fresh.extend(entry_of(row) for row in found)
        mine = [entry for entry in fresh if entry.owner == self._owner.id]
        await self._note(connection, ((entry.id, entry.state, entry.state) for entry in mine), "taken over")
        for entry in mine:
            logger.info("entry %s (%s) taken over as %s", entry.id, entry.shot.id, entry.state)
        return fresh


CLAIM_LOCK: Final = 0x5669_6465_6F02
"""PostgreSQL advisory lock held while claiming, so that claims follow one another as they do on SQLite."""


class Claims(Ownership):
    """The one way to new rows."""

    async def claim(
        self, intents: Sequence[Intent], budgets: Sequence[Budget] = (), partial: bool = False
    ) -> ClaimBatch:
        """Asks for a batch of videos; the answers say which exist, which are under way and which to buy.

        What is to be bought is reserved within every budget. A row of a dead process is taken over, and belongs from
        then on to the flow run that asks; a mere reservation of an earlier month or of another account is made anew,
        as the limits that now apply have not seen it. An intent that is twice in a batch is joined to the first. A row
        that waits for a human, unfinished or ended, is joined: whoever asks sees its `attention`, and nothing is
        bought.

        Args:
            intents: What is wanted, in order of preference.
            budgets: The limits that apply.
            partial: Reserve those that fit, in order; otherwise all that are new, or none of them.

        Raises:
            LedgerError: The ledger cannot be used; nothing was reserved.
        """
        if not intents:
            return ClaimBatch(claims=())
        claiming = asyncio.ensure_future(self._claim(intents, budgets, partial))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            await to_its_end(self._give_back(claiming))
            raise

    async def _claim(self, intents: Sequence[Intent], budgets: Sequence[Budget], partial: bool) -> ClaimBatch:
        async with self._database.writing() as connection:
            await self._wait_for_turn(connection)
            self._database.require_file()
            now = datetime.now(UTC)
            # In this order: a row may become stored between the two queries, never unfinished again.
            under_way = await read_unfinished(connection, map(key_of, intents))
            taken = await self._take_over_free(connection, under_way, intents)
            accounts = {key_of(intent): intent.account for intent in reversed(intents)}
            for entry in await self._release_outdated(connection, [under_way[key] for key in taken], accounts, now):
                del under_way[key_of(entry)]
                taken.discard(key_of(entry))
            others = [intent for intent in intents if key_of(intent) not in under_way]
            finished = await read_finished(connection, others)

            claims: dict[int, Claim] = {}
            new: dict[Key, Intent] = {}
            for number, intent in enumerate(intents):
                key = key_of(intent)
                if key in under_way:
                    kind = ClaimOutcome.ACQUIRED if key in taken else ClaimOutcome.JOINED
                    taken.discard(key)
                    claims[number] = Claim(kind=kind, intent=intent, entry=under_way[key])
                elif claim := _settled(intent, finished.get(key, ()), now):
                    claims[number] = claim
                else:
                    new.setdefault(key, intent)

            limits = await Limits.read(connection, budgets, new.values(), now)
            refusals = _refuse(new, limits, partial)
            bought = await self._reserve(connection, new, refusals, finished, now)
        for number, intent in enumerate(intents):
            if number not in claims:
                key = key_of(intent)
                claims[number] = _bought(intent, refusals.get(key), bought.get(key), new[key] is intent)
        return ClaimBatch(claims=tuple(claims[number] for number in range(len(intents))), warnings=limits.warnings())

    async def _wait_for_turn(self, connection: AsyncConnection) -> None:
        if not self._database.is_sqlite:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({CLAIM_LOCK})"))

    async def _take_over_free(
        self, connection: AsyncConnection, under_way: dict[Key, Entry], intents: Sequence[Intent]
    ) -> set[Key]:
        """Takes the rows that nobody alive works on; brings `under_way` up to date and tells which are ours now."""
        owners = {entry.owner for entry in under_way.values() if entry.owner}
        alive = await self._owner.living(connection, owners) | {self._owner.id} if owners else set()
        free = [entry for entry in under_way.values() if entry.attention is None and entry.owner not in alive]
        runs = {key_of(intent): intent.flow_run_id for intent in reversed(intents)}
        taken = await self._take(connection, [(entry, runs[key_of(entry)]) for entry in free])
        under_way.update((key_of(entry), entry) for entry in taken)
        return {key_of(entry) for entry in taken if entry.owner == self._owner.id}

    async def _release_outdated(
        self, connection: AsyncConnection, taken: Sequence[Entry], accounts: Mapping[Key, str], now: datetime
    ) -> list[Entry]:
        """Gives up reservations that the limits of this month and of the asking account have not seen; those that were.

        Args:
            connection: Of the claim's transaction.
            taken: The rows that were taken over.
            accounts: Which account each is asked from.
            now: The time of the claim.
        """
        outdated = [
            entry
            for entry in taken
            if entry.state is State.RESERVED
            and (entry.created_at < beginning_of_month(now) or entry.account != accounts[key_of(entry)])
        ]
        reason = "its reservation was of an earlier month or of another account"
        for some in chunks(entry.id for entry in outdated):
            await connection.execute(
                update(generations)
                .where(generations.c.id.in_(some))
                .values(state=State.RELEASED, owner=None, error_message=reason, updated_at=now)
            )
        await self._note(connection, ((entry.id, State.RESERVED, State.RELEASED) for entry in outdated), reason)
        return outdated

    async def _reserve(
        self,
        connection: AsyncConnection,
        new: Mapping[Key, Intent],
        refusals: Mapping[Key, str],
        finished: Mapping[Key, Sequence[Entry]],
        now: datetime,
    ) -> dict[Key, Entry]:
        rows: list[dict[str, Any]] = []
        for key, intent in new.items():
            if key not in refusals:
                attempt = 1 + len(failures(finished.get(key, ()), intent))
                # A microsecond apart, so that rows of one batch keep their order.
                at = now + timedelta(microseconds=len(rows))
                rows.append(row_of(intent, State.RESERVED, attempt, self._owner.id, at))
        if not rows:
            return {}
        await connection.execute(insert(generations), rows)
        await self._note(connection, ((row["id"], None, State.RESERVED) for row in rows), None)
        logger.info("%d generations reserved", len(rows))
        entries = [entry_of_values(row) for row in rows]
        return {key_of(entry): entry for entry in entries}

    async def _give_back(self, claiming: asyncio.Future[ClaimBatch]) -> None:
        """Lets go of what was claimed for a caller that is gone."""
        await asyncio.wait([claiming])
        if claiming.cancelled() or claiming.exception() is not None:
            return
        yours = [claim.entry for claim in claiming.result().claims if claim.kind is ClaimOutcome.ACQUIRED]
        await self.let_go(entry.id for entry in yours if entry is not None)


PRIORITIES: Final[Mapping[Priority, int]] = {"high": 1, "normal": 0, "low": -1}


def row_of(intent: Intent, state: State, attempt: int, owner: str | None, now: datetime) -> dict[str, Any]:
    """The columns of a new row."""
    return {
        **dict.fromkeys(generations.c.keys()),
        "id": str(uuid.uuid4()),
        "state": state,
        "fingerprint": intent.fingerprint,
        "shot": intent.shot,
        "model": intent.shot.model,
        "take": intent.take,
        "project": intent.project,
        "provider": intent.provider,
        "account": intent.account,
        "environment": intent.environment,
        "credentials": intent.credentials,
        "store": intent.store,
        "attempt": attempt,
        "owner": owner,
        "reserved_usd": None if intent.estimate_usd is None else rounded(intent.estimate_usd),
        "flow_run_id": intent.flow_run_id,
        "created_at": now,
        "updated_at": now,
        "priority": PRIORITIES[intent.priority],
    }


def _settled(intent: Intent, finished: Sequence[Entry], now: datetime) -> Claim | None:
    """The answer where nothing need be bought, or nothing may be."""
    if stored := usable(finished, intent, now):
        return Claim(kind=ClaimOutcome.STORED, intent=intent, entry=stored)
    if waiting := held(finished):
        return Claim(kind=ClaimOutcome.JOINED, intent=intent, entry=waiting)
    failed = failures(finished, intent) if intent.flow_run_id is not None else []
    if len(failed) >= intent.max_attempts:
        return Claim(kind=ClaimOutcome.EXHAUSTED, intent=intent, entry=failed[0])
    return None


def _refuse(new: Mapping[Key, Intent], limits: Limits, partial: bool) -> dict[Key, str]:
    """Which intents do not fit, and why; counts the others against the limits."""
    if not partial and (refusal := limits.refuse_together(list(new.values()))):
        return dict.fromkeys(new, refusal)
    refusals: dict[Key, str] = {}
    for key, intent in new.items():
        if partial and (refusal := limits.refuse(intent)):
            refusals[key] = refusal
        else:
            limits.add(intent)
    return refusals


def _bought(intent: Intent, refusal: str | None, entry: Entry | None, first: bool) -> Claim:
    if refusal is not None:
        return Claim(kind=ClaimOutcome.OVER_BUDGET, intent=intent, refusal=refusal)
    return Claim(kind=ClaimOutcome.ACQUIRED if first else ClaimOutcome.JOINED, intent=intent, entry=entry)
