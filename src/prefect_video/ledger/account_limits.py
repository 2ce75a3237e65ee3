"""Accounts: a true limit on unfinished generations across all processes, and the circuit breaker they share.

A slot is an unfinished row: it outlives the worker that took it, as the remote job does. A row that finds no slot free
queues by priority, then by time (see `queue_rank`); rows of dead owners are passed over.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Select, and_, bindparam, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video._counted import counted
from prefect_video._shield import shielded
from prefect_video.ledger.account_keys import AccountKeys, KeyUse
from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.database import Database
from prefect_video.ledger.jobs import Jobs
from prefect_video.ledger.leases import Lease
from prefect_video.ledger.records import OCCUPYING, AccountStatus, Job, State
from prefect_video.ledger.row_guards import drop_none
from prefect_video.ledger.tables import accounts, jobs_table

logger = logging.getLogger(__name__)

AGEING_SECONDS: Final = 600.0
"""A wait longer by this much makes up for one step of priority."""


def queue_rank(priority: int, since: float) -> float:
    """Return a position in the queue: the lower, the sooner.

    Args:
        priority: Steps above normal, or below.
        since: When the wait began, in seconds by the queue's clock.
    """
    return since - priority * AGEING_SECONDS


SLOT_RECOVERY_SECONDS: Final = 30.0
"""Seconds after a 429 until one more slot is tried."""
_ONE_429_SECONDS: Final = 5.0
"""429s that come within this time tell of one and the same limit."""
_PROBE_SECONDS: Final = 120.0

# Built once: each submit runs them, and building one takes longer than running it.
_jobs = jobs_table.c
_ACCOUNT: Final = select(accounts).where(accounts.c.id == bindparam("account"))
_UNFINISHED: Final = and_(_jobs.account == bindparam("account"), _jobs.state.in_(sorted(OCCUPYING)))
_WORKING: Final = select(func.count()).where(
    _UNFINISHED,
    or_(_jobs.deadline_at > bindparam("now"), and_(_jobs.deadline_at.is_(None), _jobs.hold_reason.is_(None))),
)
# What a query does not require here is looked at in its rows: SQLite would search a larger index for it.
_IS_OVERDUE: Final = and_(_UNFINISHED, _jobs.deadline_at <= bindparam("now"), _jobs.hold_reason.is_(None))
_OVERDUE: Final = select(_jobs.sent_at, _jobs.deadline_at).where(_IS_OVERDUE)
_WAITS: Final = and_(_jobs.account == bindparam("account"), _jobs.waiting_since.is_not(None))
_WAITING: Final = select(_jobs.id, _jobs.state, _jobs.owner, _jobs.priority, _jobs.waiting_since).where(_WAITS)
# One statement for what nearly every submit finds: nothing is overdue, and no other process waits.
_STANDING: Final = select(
    accounts,
    _WORKING.scalar_subquery().label("working"),
    select(_jobs.id).where(_IS_OVERDUE).exists().label("some_are_overdue"),
    select(_jobs.id).where(_WAITS, _jobs.owner != bindparam("owner")).exists().label("others_wait"),
).where(accounts.c.id == bindparam("account"))


class AccountLimits(LedgerBase):
    """Slots, quotas and circuit breakers of accounts, shared by all processes."""

    def __init__(
        self, database: Database, owner: Lease, command_option: str | None, *, jobs: Jobs, keys: AccountKeys
    ) -> None:
        super().__init__(database, owner, command_option)
        self._jobs = jobs
        self._keys = keys

    async def acquire_slot(
        self,
        job_id: str,
        *,
        slots: int | None,
        task_run_id: str | None = None,
        deadline_at: datetime | None = None,
        key_fingerprint: str | None = None,
        admit: Callable[[AccountStatus], None] | None = None,
    ) -> Job | None:
        """Begin a submit if the account has a slot for it, in one transaction; otherwise queue the row.

        Args:
            job_id: A reserved row of this process.
            slots: How many generations of the account may be unfinished at once; None for no limit but the one that
                a 429 has left.
            task_run_id: The task run that sends it.
            deadline_at: Until when it is waited for.
            key_fingerprint: That of the key that it is sent with.
            admit: Called with the account's breaker and quota, in the transaction; an error refuses the submit.

        Returns:
            The row, submitting; None when no slot is free: ask again soon.

        Raises:
            Exception: Whatever `admit` raises; nothing has changed.
            InvalidTransition: The row is not reserved, or belongs to another process.
            InvalidInput: The key was used under another name of the account, since the row was claimed.
        """
        sending = drop_none(task_run_id=task_run_id, deadline_at=deadline_at, key_fingerprint=key_fingerprint)
        begun: list[Job] = []
        uses: list[KeyUse] = []

        async def acquire(connection: AsyncConnection) -> Job | None:
            job = await self._locked(connection, job_id)
            if job.state is State.RESERVED:
                await self._one_at_a_time(connection, job.account)
                now = datetime.now(UTC)
                # Nothing is counted where there is no limit: thousands may be unfinished.
                standing = None if slots is None else await self._standing(connection, job.account, now)
                row = standing or await self._account(connection, job.account)
                allowed = _allowed(row.slots, row.slots_at, slots, now)
                if admit is not None:
                    admit(_status(row, slots=allowed, now=now))
                if allowed is not None and not await self._is_free(connection, job, allowed, standing, now):
                    return None
            begun.append(await self._jobs.begin(connection, job, sending))
            if key_fingerprint is not None and not self._keys.is_noted(job.account, key_fingerprint):
                # One account at a time: two names that use one key for the first time would not see one another.
                await self._one_at_a_time(connection, key_fingerprint)
                uses.append(await self._keys.note_use(connection, job, key_fingerprint))
            return begun[0]

        try:
            taken = await self._database.write(acquire)
        except asyncio.CancelledError:
            if begun:
                # It may be committed all the same, and would count as sent, although its caller never sends it.
                await shielded(self._jobs.take_back_begin(begun[0]))
            raise
        for use in uses:
            self._keys.remember_use(use)
        return taken

    async def leave_slot_queue(self, job_id: str) -> None:
        """Take a row out of the queue for slots."""
        async with self._database.writing() as connection:
            await connection.execute(update(jobs_table).where(jobs_table.c.id == job_id).values(waiting_since=None))

    async def reduce_slots(self, account: str, *, slots: int | None = None) -> int:
        """Halve an account's slots after a 429; they recover one by one.

        Args:
            account: Its id.
            slots: What its plan allows; None for no limit: then what is occupied is halved.

        Returns:
            The slots that are left.
        """
        now = datetime.now(UTC)
        async with self._database.writing() as connection:
            await self._one_at_a_time(connection, account)
            row = await self._account(connection, account)
            if row.slots_at is not None and now - row.slots_at < timedelta(seconds=_ONE_429_SECONDS):
                return int(row.slots)
            occupied = await self._occupied(connection, account)
            # Of a known limit, not of what is occupied: few are when a run begins, and one 429 would cost it minutes.
            allowed = _allowed(row.slots, row.slots_at, slots or occupied, now) or occupied
            left = max(1, allowed // 2)
            await self._set(connection, account, slots=left, slots_at=now)
        logger.warning("account %s: 429, down to %d at once", account, left)
        return left

    async def record_failure(self, account: str, *, threshold: int, open_seconds: float) -> AccountStatus:
        """Count a failure of the provider; open the breaker after `threshold` in a row.

        Returns:
            How the account stands; `just_opened` for one caller of all.
        """
        now = datetime.now(UTC)
        async with self._database.writing() as connection:
            await self._one_at_a_time(connection, account)
            row = await self._account(connection, account)
            failures = row.failures + 1
            values: dict[str, Any] = {"failures": failures}
            was_open = row.open_until is not None and row.open_until > now
            opens = failures >= threshold and not was_open
            if opens:
                values |= {"open_until": now + timedelta(seconds=open_seconds), "probing_until": None}
                seen = counted(failures, "failure")
                logger.error("account %s: breaker open for %.0f s after %s", account, open_seconds, seen)
            await self._set(connection, account, **values)
        return (await self.status(account)).model_copy(update={"just_opened": opens})

    async def record_success(self, account: str, *, closes: bool = True) -> bool:
        """Record that the provider answers again, which closes the breaker; return whether it had been open.

        Args:
            account: Its id.
            closes: Whether that is reason enough to close an open breaker; otherwise only a closed one counts anew.
        """
        async with self._database.writing() as connection:
            await self._one_at_a_time(connection, account)
            row = await self._account(connection, account)
            if row.open_until is not None:
                if not closes:
                    return False
                logger.warning("account %s: breaker closed", account)
            await self._set(connection, account, failures=0, open_until=None, probing_until=None)
        return row.open_until is not None

    async def record_quota(self, account: str, until: datetime) -> None:
        """Record until when an account's quota is used up."""
        async with self._database.writing() as connection:
            await self._account(connection, account)
            await self._set(connection, account, quota_until=until)

    async def try_half_open(self, account: str) -> bool:
        """Tell whether a submit may pass: always when closed, for one process at a time when half open."""
        now = datetime.now(UTC)
        if (await self.status(account)).breaker == "closed":
            return True
        half_open = and_(
            accounts.c.id == account,
            accounts.c.open_until <= now,
            or_(accounts.c.probing_until.is_(None), accounts.c.probing_until < now),
        )
        async with self._database.writing() as connection:
            taken = await connection.execute(
                update(accounts).where(half_open).values(probing_until=now + timedelta(seconds=_PROBE_SECONDS))
            )
        return taken.rowcount == 1

    async def end_half_open(self, account: str) -> None:
        """Let another submit try in place of one that was admitted and then not sent."""
        async with self._database.writing() as connection:
            await self._set(connection, account, probing_until=None)

    async def status(self, account: str, *, slots: int | None = None) -> AccountStatus:
        """Return the slots, breaker and quota of an account as they are now.

        Args:
            account: Its id.
            slots: What its plan allows; a 429 may have left fewer.
        """
        now = datetime.now(UTC)
        async with self._database.reading() as connection:
            row = (await connection.execute(_ACCOUNT, {"account": account})).one_or_none()
            occupied = await self._occupied(connection, account)
        if row is None:
            return AccountStatus(account=account, slots=slots, occupied=occupied)
        allowed = _allowed(row.slots, row.slots_at, slots, now)
        return _status(row, slots=allowed, now=now).model_copy(update={"occupied": occupied})

    async def _is_free(self, connection: AsyncConnection, job: Job, slots: int, standing: Any, now: datetime) -> bool:
        """Tell whether a row has a slot, and place it in the queue where it has none.

        Args:
            connection: Of the transaction.
            job: The row.
            slots: Those of its account.
            standing: What occupies them; None where that was not read.
            now: The moment by which that is decided: a row whose deadline passes meanwhile must not count twice.
        """
        standing = standing or await self._standing(connection, job.account, now)
        late = await self._count_late(connection, job.account, now) if standing.some_are_overdue else 0
        left = slots - standing.working - late
        if left > 0 and (not standing.others_wait or left > await self._ahead(connection, job)):
            return True
        await connection.execute(
            update(jobs_table)
            .where(jobs_table.c.id == job.id, jobs_table.c.waiting_since.is_(None))
            .values(waiting_since=datetime.now(UTC))
        )
        return False

    async def _ahead(self, connection: AsyncConnection, job: Job) -> int:
        """Count the waiting rows of other live owners that come before all of this process.

        A process decides itself which of its rows asks: the order in which it was refused is not always the one that
        they wait in there, and a row that it does not ask for must not hold up the one that it does.
        """
        found = await connection.execute(_WAITING, {"account": job.account})
        places = [
            (queue_rank(row.priority, row.waiting_since.timestamp()), row.id, row.owner)
            for row in found
            if row.state is State.RESERVED
        ]
        # A row that does not wait yet comes after all of its priority that do.
        new = (queue_rank(job.priority, datetime.now(UTC).timestamp()), job.id)
        first = min([new, *((place, row_id) for place, row_id, owner in places if owner == job.owner)])
        ahead = Counter(owner for place, row_id, owner in places if owner and (place, row_id) < first)
        alive = await self._owner.alive(connection, ahead) if ahead else set()
        return sum(count for owner, count in ahead.items() if owner in alive)

    async def _occupied(self, connection: AsyncConnection, account: str) -> int:
        """Count the rows that the provider may be working on."""
        now = datetime.now(UTC)
        working = int((await connection.execute(_WORKING, {"account": account, "now": now})).scalar_one())
        return working + await self._count_late(connection, account, now)

    async def _count_late(self, connection: AsyncConnection, account: str, now: datetime) -> int:
        """Count the rows behind their deadline that go on at the provider.

        For as long again: those that never end would hold their slot indefinitely.
        """
        overdue = (await connection.execute(_OVERDUE, {"account": account, "now": now})).all()
        return sum(
            1 for sent_at, deadline_at in overdue if sent_at is not None and now - deadline_at < deadline_at - sent_at
        )

    async def _standing(self, connection: AsyncConnection, account: str, now: datetime) -> Any:
        """Read the account's row, and what occupies its slots."""
        return await self._read(connection, _STANDING, account=account, now=now, owner=self._owner.id)

    async def _account(self, connection: AsyncConnection, account: str) -> Any:
        """Read the account's row."""
        return await self._read(connection, _ACCOUNT, account=account)

    async def _read(self, connection: AsyncConnection, query: Select[Any], **sought: Any) -> Any:
        """Read the one row of a query about an account; create the account's if it is new."""
        if (row := (await connection.execute(query, sought)).one_or_none()) is not None:
            return row
        await connection.execute(self._database.insert_missing(accounts).values(id=sought["account"]))
        return (await connection.execute(query, sought)).one()

    async def _set(self, connection: AsyncConnection, account: str, **values: Any) -> None:
        await connection.execute(update(accounts).where(accounts.c.id == account).values(**values))

    async def _one_at_a_time(self, connection: AsyncConnection, subject: str) -> None:
        """Let one process at a time decide about an account or a key; SQLite has one writer anyway."""
        if not self._database.is_sqlite:
            await connection.execute(
                text("SELECT pg_advisory_xact_lock(hashtextextended(:subject, 0))"), {"subject": subject}
            )


def _status(row: Any, *, slots: int | None, now: datetime) -> AccountStatus:
    """Build the status of an account from its row, without the number of occupied slots."""
    opened = row.open_until is not None
    return AccountStatus(
        account=row.id,
        slots=slots,
        failures=row.failures,
        breaker=("open" if row.open_until > now else "half_open") if opened else "closed",
        open_until=row.open_until,
        quota_until=row.quota_until if row.quota_until and row.quota_until > now else None,
    )


def _allowed(left: int | None, since: datetime | None, planned: int | None, now: datetime) -> int | None:
    """Return the slots after a 429, one more for each recovery period that has passed, up to the plan's."""
    if left is None or since is None:
        return planned
    grown = left + int((now - since).total_seconds() / SLOT_RECOVERY_SECONDS)
    return grown if planned is None else min(planned, grown)
