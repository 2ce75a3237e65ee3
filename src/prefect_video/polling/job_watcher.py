"""Waiting for ledger rows that somebody else moves: one query a look, however many rows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from prefect_video.errors import LedgerUnavailable
from prefect_video.ledger import Job, Ledger, State

logger = logging.getLogger(__name__)

_SAFETY_SECONDS: Final = 15.0
"""After this long without word of any change the rows are looked at all the same."""

_Waiters = dict[str, list[asyncio.Future[Job]]]


class JobWatcher:
    """Tells waiters when a row has moved; the ledger itself says when a look is worth it.

    Args:
        ledger: Where the rows are.
        interval_seconds: Between two looks at whether owners are alive, and the longest delay of any news.
    """

    def __init__(self, ledger: Ledger, *, interval_seconds: float = 0.5) -> None:
        self._ledger = ledger
        self._interval = interval_seconds
        self._changes = ledger.changes()
        self._joined: _Waiters = {}
        self._submitted: _Waiters = {}
        self._unseen: set[str] = set()
        self._looking: asyncio.Task[None] | None = None

    async def wait_for_owner_or_end(self, job_id: str) -> Job:
        """The row once somebody must act on it: ended, flagged for a human, or without a living owner."""
        return await self._wait(self._joined, job_id)

    async def wait_for_change(self, job_id: str) -> Job:
        """The row once it is no longer `submitted`: somebody has heard of its generation's end."""
        self._unseen.add(job_id)
        return await self._wait(self._submitted, job_id)

    async def aclose(self) -> None:
        """Stops looking; waiters are cancelled."""
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for futures in (*self._joined.values(), *self._submitted.values()):
            for future in futures:
                future.cancel()
        await self._changes.aclose()

    async def _wait(self, waiters: _Waiters, job_id: str) -> Job:
        future: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        waiters.setdefault(job_id, []).append(future)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_on(), name="watch ledger rows")
        try:
            return await future
        finally:
            waiters[job_id].remove(future)
            if not waiters[job_id]:
                del waiters[job_id]

    async def _look_on(self) -> None:
        clock = asyncio.get_running_loop().time
        changed: frozenset[str] | None = None
        looked_at = clock()
        while self._joined or self._submitted:
            if clock() - looked_at > _SAFETY_SECONDS:
                changed = None
            if changed is None:
                looked_at = clock()
            try:
                await self._poll_once(changed)
                changed = await self._changes.wait(self._interval)
            except LedgerUnavailable as error:
                logger.warning("the ledger did not answer, looking again: %s", error)
                changed = None
                await asyncio.sleep(self._interval)
            except Exception as error:  # noqa: BLE001  handed to every waiter, who would wait for ever otherwise
                self._fail(error)
                return

    async def _poll_once(self, changed: frozenset[str] | None) -> None:
        """Answers whoever can be answered; rows that are said to stand as they stood are not asked for."""
        if self._joined:
            owners = await self._ledger.jobs.owners_of(list(self._joined))
            abandoned = await self._abandoned(set(owners.values()))
            due = [job_id for job_id in self._joined if owners.get(job_id) in abandoned]
            if due:
                _answer(self._joined, await self._ledger.jobs.get_many(due))
        worth = set(self._submitted) if changed is None else (changed | self._unseen) & self._submitted.keys()
        self._unseen.clear()
        if worth:
            _answer(self._submitted, await self._ledger.jobs.left_state(worth, out_of=State.SUBMITTED))

    async def _abandoned(self, owners: Collection[str | None]) -> set[str | None]:
        dead: set[str | None] = {
            owner for owner in owners if owner and not await self._ledger.claims.is_owner_alive(owner)
        }
        return dead | {None}

    def _fail(self, error: Exception) -> None:
        for futures in (*self._joined.values(), *self._submitted.values()):
            for future in futures:
                if not future.done():
                    future.set_exception(error)


def _answer(waiters: Mapping[str, list[asyncio.Future[Job]]], jobs: Iterable[Job]) -> None:
    for job in jobs:
        for future in waiters.get(job.id, ()):
            if not future.done():
                future.set_result(job)
