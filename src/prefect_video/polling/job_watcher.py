"""Job watcher: waits for jobs that another owner moves, with one query a poll however many jobs there are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from prefect_video.errors import LedgerUnavailable
from prefect_video.ledger import Job, Ledger, State

logger = logging.getLogger(__name__)

_SAFETY_SECONDS: Final = 15.0
"""A poll of all jobs after this long without a reported change: a notification may have been lost."""

_Waiters = dict[str, list[asyncio.Future[Job]]]


class JobWatcher:
    """A watcher of jobs that other owners work on; the ledger's change feed says when a poll is worth it.

    Args:
        ledger: The ledger that holds the jobs.
        interval_seconds: Seconds between two checks of the owners' liveness, and the longest delay of a change.
    """

    def __init__(self, ledger: Ledger, *, interval_seconds: float = 0.5) -> None:
        self._ledger = ledger
        self._interval = interval_seconds
        self._changes = ledger.changes()
        self._joined: _Waiters = {}
        self._submitted: _Waiters = {}
        self._unseen: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def wait_for_owner_or_end(self, job_id: str) -> Job:
        """Wait until a job has ended, is held for a human, or has no live owner; return it."""
        return await self._wait(self._joined, job_id)

    async def wait_for_change(self, job_id: str) -> Job:
        """Wait until a job has left `submitted`, because another process recorded its generation's end; return it."""
        self._unseen.add(job_id)
        return await self._wait(self._submitted, job_id)

    async def aclose(self) -> None:
        """Stop polling and cancel all waiters."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for futures in (*self._joined.values(), *self._submitted.values()):
            for future in futures:
                future.cancel()
        await self._changes.aclose()

    async def _wait(self, waiters: _Waiters, job_id: str) -> Job:
        future: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        waiters.setdefault(job_id, []).append(future)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll_until_idle(), name="watch jobs")
        try:
            return await future
        finally:
            waiters[job_id].remove(future)
            if not waiters[job_id]:
                del waiters[job_id]

    async def _poll_until_idle(self) -> None:
        clock = asyncio.get_running_loop().time
        changed: frozenset[str] | None = None
        polled_at = clock()
        while self._joined or self._submitted:
            if clock() - polled_at > _SAFETY_SECONDS:
                changed = None
            if changed is None:
                polled_at = clock()
            try:
                await self._poll_once(changed)
                changed = await self._changes.wait(self._interval)
            except LedgerUnavailable as error:
                logger.warning("the ledger did not answer, polling it again: %s", error)
                changed = None
                await asyncio.sleep(self._interval)
            except Exception as error:  # noqa: BLE001  handed to every waiter, which would wait indefinitely otherwise
                self._fail(error)
                return

    async def _poll_once(self, changed: frozenset[str] | None) -> None:
        """Resolve the waiters of jobs that have moved.

        Args:
            changed: Ids of jobs that changed since the last poll; None where the feed cannot tell, so that every job is
                read.
        """
        if self._joined:
            owners = await self._ledger.jobs.owners_of(list(self._joined))
            dead = await self._find_dead_owners(set(owners.values()))
            due = [job_id for job_id in self._joined if owners.get(job_id) in dead]
            if due:
                _resolve(self._joined, await self._ledger.jobs.get_many(due))
        # A job that is waited for since the last poll may have moved before its waiter came: no change reports it.
        due_submitted = set(self._submitted) if changed is None else (changed | self._unseen) & self._submitted.keys()
        self._unseen.clear()
        if due_submitted:
            _resolve(self._submitted, await self._ledger.jobs.left_state(due_submitted, out_of=State.SUBMITTED))

    async def _find_dead_owners(self, owners: Collection[str | None]) -> set[str | None]:
        dead: set[str | None] = {
            owner for owner in owners if owner and not await self._ledger.claims.is_owner_alive(owner)
        }
        # A job without an owner counts as one whose owner is dead.
        return dead | {None}

    def _fail(self, error: Exception) -> None:
        for futures in (*self._joined.values(), *self._submitted.values()):
            for future in futures:
                if not future.done():
                    future.set_exception(error)


def _resolve(waiters: Mapping[str, list[asyncio.Future[Job]]], jobs: Iterable[Job]) -> None:
    for job in jobs:
        for future in waiters.get(job.id, ()):
            if not future.done():
                future.set_result(job)
