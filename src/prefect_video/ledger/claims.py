"""Claiming: who may buy which video, decided for a whole batch in one transaction."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Update, bindparam, insert, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video._shield import shielded
from prefect_video.errors import LedgerError
from prefect_video.ledger.account_keys import require_former_name
from prefect_video.ledger.base import LedgerBase, chunks
from prefect_video.ledger.budgets import Limits, add_up_sums, beginning_of_month
from prefect_video.ledger.database import Database
from prefect_video.ledger.existing_jobs import (
    Key,
    claim_key,
    count_attempts,
    existing_job,
    held_job,
    read_existing,
    read_finished,
    read_unfinished,
    reusable,
)
from prefect_video.ledger.idempotency_keys import record_answers
from prefect_video.ledger.late_reservations import find_abandoned, free_reservations, suspend_reservations
from prefect_video.ledger.leases import Lease
from prefect_video.ledger.log_lines import log_state
from prefect_video.ledger.records import (
    UNFINISHED,
    Budget,
    BudgetUsage,
    ClaimOutcome,
    ClaimResult,
    Job,
    JobRequest,
    Priority,
    Record,
    State,
)
from prefect_video.ledger.tables import JOBS, job_from_row, job_from_values, jobs_table, rounded


class ClaimBatch(Record):
    """The answer to a claim: one `ClaimResult` for each job request, in order.

    `nearly_used` holds each limit of which this claim leaves four fifths or more committed, `warnings` a sentence for
    each of them.
    """

    claims: tuple[ClaimResult, ...]
    warnings: tuple[str, ...] = ()
    nearly_used: tuple[BudgetUsage, ...] = ()


CLAIM_LOCK: Final = 0x5669_6465_6F02
"""PostgreSQL advisory lock held while claiming, so that claims follow one another as they do on SQLite."""

# Built once: each job runs them, and building one takes longer than running it.
_INSERT: Final = insert(jobs_table)
_RELEASE_OWNERSHIP: Final = (
    update(jobs_table)
    .where(
        jobs_table.c.id.in_(bindparam("ids", expanding=True)),
        # Another process may have taken a row over from this one, when that was paused.
        jobs_table.c.owner == bindparam("releasing"),
        jobs_table.c.state.in_(UNFINISHED),
    )
    .values(owner=None, updated_at=bindparam("now"))
)
# Nothing was done with it since: it may have been released after all, and taken over again by this process.
_RELEASE_LEFT: Final = _RELEASE_OWNERSHIP.where(jobs_table.c.updated_at <= bindparam("given_up_at"))


async def wait_for_turn(database: Database, connection: AsyncConnection) -> None:
    """Wait until no other transaction claims; SQLite has one writer anyway."""
    if not database.is_sqlite:
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({CLAIM_LOCK})"))


class Claims(LedgerBase):
    """Claims of new rows, and the ownership of rows in progress."""

    def __init__(self, database: Database, owner: Lease, command_option: str | None) -> None:
        super().__init__(database, owner, command_option)
        self._left: list[tuple[datetime, Sequence[str]]] = []

    async def claim(
        self,
        job_requests: Sequence[JobRequest],
        budgets: Sequence[Budget] = (),
        partial: bool = False,
        *,
        keys: Collection[str] = (),
    ) -> ClaimBatch:
        """Claim a batch of videos; the results say which exist, which are in progress and which to buy.

        What is to be bought is reserved within every budget. A row of a dead process is taken over, and belongs from
        then on to the flow run that asks; a mere reservation of an earlier month or of another account is made anew,
        as the limits that now apply have not seen it. A request that is twice in a batch is joined to the first. A row
        that waits for a human, unfinished or ended, is joined: the caller sees its `hold_reason`, and nothing is
        bought. Nothing is bought either where an alternative of a request has a job that serves the take: the look-up
        and the reservation are one transaction, so that two runs that prefer different accounts buy one video.

        Args:
            job_requests: What is wanted, in order of preference.
            budgets: The limits that apply.
            partial: Reserve those that fit, in order; otherwise all that are new, or none of them.
            keys: Fingerprints of the keys of the account that the requests are for.

        Raises:
            InvalidInput: Something is to be bought, and a key has made videos under another name of its account;
                nothing was reserved.
            LedgerError: The ledger cannot be used; nothing was reserved.
        """
        if not job_requests:
            return ClaimBatch(claims=())
        # A task of its own: a cancellation may come during the commit, and what was claimed must then be released.
        claiming = asyncio.ensure_future(self._claim(job_requests, budgets, partial, keys))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            await shielded(self._give_back(claiming))
            raise

    async def take_over(self, job_id: str) -> Job | None:
        """Make this process the owner of an unfinished row whose owner is dead, or that has none.

        Returns:
            The row; None when it is finished or its owner is alive. That may be this very process: another task in
            it is at work on the row then.

        Raises:
            LedgerError: There is no such row.
        """
        async with self._database.writing() as connection:
            job = await self._locked(connection, job_id)
            if job.state not in UNFINISHED:
                return None
            if job.owner == self._owner.id:
                return None
            if job.owner and await self._owner.alive(connection, [job.owner]):
                return None
            (taken,) = await self._take(connection, [(job, None)])
            return taken if taken.owner == self._owner.id else None

    async def release_ownership(self, job_ids: Iterable[str]) -> None:
        """Give up unfinished rows that this process owns: any process may take them over.

        It is done even while the caller is being cancelled: a row that keeps a living owner is out of others' reach.

        Raises:
            LedgerError: The ledger cannot be used; it is done by `release_left` once it can.
        """
        await shielded(self._release_ownership(list(job_ids)))

    async def release_left(self) -> None:
        """Give up the rows whose release has failed; this process does it after each heartbeat.

        Raises:
            LedgerError: The ledger cannot be used.
        """
        while self._left:
            given_up_at, job_ids = left = self._left[0]
            await self._give_up(_RELEASE_LEFT, job_ids, given_up_at=given_up_at)
            self._left.remove(left)

    async def is_owner_alive(self, owner_id: str) -> bool:
        """Tell whether the process behind an owner id is alive."""
        async with self._database.reading() as connection:
            return bool(await self._owner.alive(connection, [owner_id]))

    async def _claim(
        self, job_requests: Sequence[JobRequest], budgets: Sequence[Budget], partial: bool, keys: Collection[str]
    ) -> ClaimBatch:
        async def claim(connection: AsyncConnection) -> ClaimBatch:
            return await self._claim_within(connection, job_requests, budgets, partial, keys)

        return await self._database.write(claim)

    async def _claim_within(
        self,
        connection: AsyncConnection,
        job_requests: Sequence[JobRequest],
        budgets: Sequence[Budget],
        partial: bool,
        keys: Collection[str],
    ) -> ClaimBatch:
        await wait_for_turn(self._database, connection)
        if not self._database.is_sqlite:
            await add_up_sums(connection)
        self._database.require_file()
        now = datetime.now(UTC)
        # In this order: a row may become stored between the two queries, never unfinished again.
        in_progress = await read_unfinished(connection, map(claim_key, job_requests))
        taken = await self._take_over_free(connection, in_progress, job_requests)
        # Reversed: of a request that is twice in the batch, the first one counts.
        accounts = {claim_key(job_request): job_request.account for job_request in reversed(job_requests)}
        for job in await self._release_outdated(connection, [in_progress[key] for key in taken], accounts, now):
            del in_progress[claim_key(job)]
            taken.discard(claim_key(job))
        others = [job_request for job_request in job_requests if claim_key(job_request) not in in_progress]
        finished = await read_finished(connection, others)

        claims = _known_results(job_requests, in_progress, taken, finished, now)
        undecided = {number: job_request for number, job_request in enumerate(job_requests) if number not in claims}
        claims |= await _find_elsewhere(connection, undecided, now)
        new: dict[Key, JobRequest] = {}
        for number, job_request in undecided.items():
            if number not in claims:
                new.setdefault(claim_key(job_request), job_request)
        if new and keys:
            await require_former_name(connection, next(iter(new.values())), keys, self._command_option)

        late = await self._free_late(connection, job_requests, budgets, now)
        # After the releases of this transaction, whose money is free again.
        limits = await Limits.read(connection, budgets, new.values(), now)
        refusals = _refuse(new, limits, partial)
        bought = await self._reserve(connection, new, refusals, finished, now, late)
        for number, job_request in enumerate(job_requests):
            if number not in claims:
                key = claim_key(job_request)
                claims[number] = _new_result(job_request, refusals.get(key), bought.get(key), new[key] is job_request)
        await record_answers(connection, claims.values())
        return ClaimBatch(
            claims=tuple(claims[number] for number in range(len(job_requests))),
            warnings=limits.warnings(),
            nearly_used=limits.nearly_used(),
        )

    async def _take_over_free(
        self, connection: AsyncConnection, in_progress: dict[Key, Job], job_requests: Sequence[JobRequest]
    ) -> set[Key]:
        """Take the rows without a live owner, update `in_progress` and return the keys of those taken."""
        owners = {job.owner for job in in_progress.values() if job.owner}
        # This process too: another task of it is at work on the row.
        alive = await self._owner.alive(connection, owners) | {self._owner.id} if owners else set()
        free = [job for job in in_progress.values() if job.hold_reason is None and job.owner not in alive]
        runs = {claim_key(job_request): job_request.flow_run_id for job_request in reversed(job_requests)}
        taken = await self._take(connection, [(job, runs[claim_key(job)]) for job in free])
        in_progress.update((claim_key(job), job) for job in taken)
        return {claim_key(job) for job in taken if job.owner == self._owner.id}

    async def _release_outdated(
        self, connection: AsyncConnection, taken: Sequence[Job], accounts: Mapping[Key, str], now: datetime
    ) -> list[Job]:
        """Release reservations that the limits of this month and account do not count; return them.

        Args:
            connection: Of the claim's transaction.
            taken: The rows that were taken over.
            accounts: Which account each is asked from.
            now: The time of the claim.
        """
        outdated = [
            job
            for job in taken
            if job.state is State.RESERVED
            and (job.created_at < beginning_of_month(now) or job.account != accounts[claim_key(job)])
        ]
        reason = "its reservation was of an earlier month or of another account"
        for chunk in chunks(job.id for job in outdated):
            await connection.execute(
                update(jobs_table)
                .where(jobs_table.c.id.in_(chunk))
                .values(state=State.RELEASED, owner=None, error_message=reason, updated_at=now)
            )
        await self._append_history(connection, ((job.id, State.RESERVED, State.RELEASED) for job in outdated), reason)
        return outdated

    async def _free_late(
        self, connection: AsyncConnection, job_requests: Sequence[JobRequest], budgets: Sequence[Budget], now: datetime
    ) -> Mapping[Key, Job]:
        """Free the late reservations that the requests use up, and those of dead runs, before the limits are read."""
        late = await suspend_reservations(connection, job_requests, now)
        if budgets and (abandoned := await find_abandoned(connection, self._owner)):
            await free_reservations(connection, abandoned, now)
            lines = ((job_id, State.RESERVED, State.RELEASED) for job_id in abandoned)
            await self._append_history(connection, lines, "its run has died")
        return late

    async def _reserve(
        self,
        connection: AsyncConnection,
        new: Mapping[Key, JobRequest],
        refusals: Mapping[Key, str],
        finished: Mapping[Key, Sequence[Job]],
        now: datetime,
        late: Mapping[Key, Job],
    ) -> dict[Key, Job]:
        rows: list[dict[str, Any]] = []
        unused = dict(late)
        for key, job_request in new.items():
            if key not in refusals:
                attempt = 1 + count_attempts(finished.get(key, ()), job_request)
                # A microsecond apart, so that rows of one batch keep their order.
                at = now + timedelta(microseconds=len(rows))
                row = row_from_request(job_request, State.RESERVED, attempt, self._owner.id, at)
                if reserved := unused.pop((job_request.environment, job_request.reservation or ""), None):
                    row["id"] = reserved.id
                rows.append(row)
        await self._write_reserved(connection, rows, {job.id for job in late.values()})
        lines = ((job.id, State.RESERVED, State.RELEASED) for job in unused.values())
        await self._append_history(connection, lines, "its shot needs no reservation any more")
        jobs = [job_from_values(row) for row in rows]
        for job in jobs:
            log_state(job)
        return {claim_key(job): job for job in jobs}

    async def _write_reserved(
        self, connection: AsyncConnection, rows: Sequence[dict[str, Any]], existing: Collection[str]
    ) -> None:
        """Insert rows; one that was reserved late becomes that of its shot."""
        fresh = [row for row in rows if row["id"] not in existing]
        if fresh:
            await connection.execute(_INSERT, fresh)
            await self._append_history(connection, ((row["id"], None, State.RESERVED) for row in fresh), None)
        used = [row for row in rows if row["id"] in existing]
        for row in used:
            await connection.execute(update(jobs_table).where(jobs_table.c.id == row["id"]).values(**row))
        lines = ((row["id"], State.RESERVED, State.RESERVED) for row in used)
        await self._append_history(connection, lines, "claimed: what it continues is stored")

    async def _release_ownership(self, job_ids: Sequence[str]) -> None:
        given_up_at = datetime.now(UTC)
        try:
            await self._give_up(_RELEASE_OWNERSHIP, job_ids)
        except LedgerError:
            # No one works on them any more, and as long as this process lives no other one may.
            self._left.append((given_up_at, job_ids))
            raise

    async def _give_up(self, change: Update, job_ids: Sequence[str], **values: datetime) -> None:
        async def release(connection: AsyncConnection) -> None:
            for chunk in chunks(job_ids):
                own = {"ids": list(chunk), "releasing": self._owner.id, "now": datetime.now(UTC)}
                await connection.execute(change, {**own, **values})

        await self._database.write(release)

    async def _take(self, connection: AsyncConnection, free: Sequence[tuple[Job, str | None]]) -> list[Job]:
        """Take `(row, flow run that resumes it)` unless another owner was faster; return the rows as they are now."""
        groups: dict[tuple[str | None, str | None], list[str]] = {}
        for job, flow_run_id in free:
            groups.setdefault((job.owner, flow_run_id), []).append(job.id)
        for (owner, flow_run_id), ids in groups.items():
            # The place in the queue for slots was that of a process that asked.
            taking = {"owner": self._owner.id, "waiting_since": None, "updated_at": datetime.now(UTC)}
            change = update(jobs_table).values(taking)
            if flow_run_id is not None:
                change = change.values(flow_run_id=flow_run_id)
            for chunk in chunks(ids):
                await connection.execute(
                    change.where(
                        jobs_table.c.id.in_(chunk),
                        # Only from the owner that was found dead: `take_over` does not wait for the turn of claims.
                        jobs_table.c.owner.is_(None) if owner is None else jobs_table.c.owner == owner,
                        jobs_table.c.state.in_(UNFINISHED),
                    )
                )
        fresh: list[Job] = []
        for chunk in chunks(job.id for job, _ in free):
            found = await connection.execute(JOBS.where(jobs_table.c.id.in_(chunk)))
            fresh.extend(job_from_row(row) for row in found)
        taken = [job for job in fresh if job.owner == self._owner.id]
        await self._append_history(connection, ((job.id, job.state, job.state) for job in taken), "taken over")
        for job in taken:
            log_state(job, f"taken over as {job.state}")
        return fresh

    async def _give_back(self, claiming: asyncio.Future[ClaimBatch]) -> None:
        """Release what was claimed for a caller that was cancelled."""
        # It cannot be stopped halfway: only its result says what there is to release.
        await asyncio.wait([claiming])
        if claiming.cancelled() or claiming.exception() is not None:
            return
        acquired = [claim.job for claim in claiming.result().claims if claim.kind is ClaimOutcome.ACQUIRED]
        await self.release_ownership(job.id for job in acquired if job is not None)


PRIORITIES: Final[Mapping[Priority, int]] = {"high": 1, "normal": 0, "low": -1}


def row_from_request(
    job_request: JobRequest, state: State, attempt: int, owner: str | None, now: datetime
) -> dict[str, Any]:
    """Build the columns of a new row."""
    return {
        **dict.fromkeys(jobs_table.c.keys()),
        "id": str(uuid.uuid4()),
        "state": state,
        "fingerprint": job_request.fingerprint,
        "shot": job_request.shot,
        "model": job_request.shot.model,
        "take": job_request.take,
        "project": job_request.project,
        "provider": job_request.provider,
        "account": job_request.account,
        "environment": job_request.environment,
        "credentials": job_request.credentials,
        "store": job_request.store,
        "attempt": attempt,
        "owner": owner,
        "reserved_usd": None if job_request.estimate_usd is None else rounded(job_request.estimate_usd),
        "flow_run_id": job_request.flow_run_id,
        "created_at": now,
        "updated_at": now,
        "priority": PRIORITIES[job_request.priority],
        "on_mismatch": job_request.on_mismatch,
        "requester": job_request.requester.name if job_request.requester else None,
        "traceparent": job_request.traceparent,
        "degraded": job_request.degraded,
        "left_count": 0,
        "max_attempts": job_request.max_attempts,
        "quality_policy": job_request.quality_policy,
    }


def _settled_result(job_request: JobRequest, finished: Sequence[Job], now: datetime) -> ClaimResult | None:
    """Return the result where nothing needs to be bought, or nothing may be; otherwise None."""
    if stored := reusable(finished, job_request, now):
        return ClaimResult(kind=ClaimOutcome.STORED, request=job_request, job=stored)
    if waiting := held_job(finished):
        return ClaimResult(kind=ClaimOutcome.JOINED, request=job_request, job=waiting)
    # Attempts count within a run, but for what was made, paid and rejected.
    if count_attempts(finished, job_request) >= job_request.max_attempts:
        last = next(job for job in finished if job.state is not State.STORED)
        return ClaimResult(kind=ClaimOutcome.EXHAUSTED, request=job_request, job=last)
    return None


def _known_results(
    job_requests: Sequence[JobRequest],
    in_progress: Mapping[Key, Job],
    taken: set[Key],
    finished: Mapping[Key, Sequence[Job]],
    now: datetime,
) -> dict[int, ClaimResult]:
    """Return the results of the requests that existing jobs decide, by their numbers; use up the keys taken over."""
    results: dict[int, ClaimResult] = {}
    for number, job_request in enumerate(job_requests):
        key = claim_key(job_request)
        if key in in_progress:
            kind = ClaimOutcome.ACQUIRED if key in taken else ClaimOutcome.JOINED
            # Of two equal requests only the first acquires the row; the second joins it.
            taken.discard(key)
            results[number] = ClaimResult(kind=kind, request=job_request, job=in_progress[key])
        elif settled := _settled_result(job_request, finished.get(key, ()), now):
            results[number] = settled
    return results


async def _find_elsewhere(
    connection: AsyncConnection, undecided: Mapping[int, JobRequest], now: datetime
) -> dict[int, ClaimResult]:
    """Return the results of the requests whose take an alternative's job serves, by their numbers."""
    alternatives = [other for job_request in undecided.values() for other in job_request.alternatives]
    existing = await read_existing(connection, alternatives) if alternatives else {}
    found: dict[int, ClaimResult] = {}
    for number, job_request in undecided.items():
        for other in job_request.alternatives:
            job = existing_job(existing.get(claim_key(other), ()), other, now)
            if job is not None and other.is_served_by(job):
                found.setdefault(number, ClaimResult(kind=ClaimOutcome.ELSEWHERE, request=other, job=job))
    return found


def _refuse(new: Mapping[Key, JobRequest], limits: Limits, partial: bool) -> dict[Key, str]:
    """Return the requests that do not fit, and why; count the others against the limits."""
    if not partial and (refusal := limits.check_together(list(new.values()))):
        return dict.fromkeys(new, refusal)
    refusals: dict[Key, str] = {}
    for key, job_request in new.items():
        if partial and (refusal := limits.refuse(job_request)):
            refusals[key] = refusal
        else:
            limits.add(job_request)
    return refusals


def _new_result(job_request: JobRequest, refusal: str | None, job: Job | None, first: bool) -> ClaimResult:
    if refusal is not None:
        return ClaimResult(kind=ClaimOutcome.OVER_BUDGET, request=job_request, refusal=refusal)
    return ClaimResult(kind=ClaimOutcome.ACQUIRED if first else ClaimOutcome.JOINED, request=job_request, job=job)
