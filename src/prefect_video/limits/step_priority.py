"""Step priority: a freed slot is filled before the process turns to anything else, downloads and stores above all."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from enum import IntEnum
from typing import Final

_LIMIT_SECONDS: Final = 1.0
"""Longest time for which a job is urgent, and for which a step waits for those that are."""


class StepRank(IntEnum):
    """Order in which the steps that waited go on."""

    POLL = 1
    DOWNLOAD = 2
    STORE = 3
    PREPARE = 4


class StepPriority:
    """Precedence of submits and noticed ends over the other steps of a process.

    A job is urgent from the notice of its end until its slot is free, and from the moment it has a slot until its
    request is sent. Meanwhile no poll returns, no download and no store begins, and no other submit is prepared.
    """

    def __init__(self) -> None:
        self._urgent_since: dict[str, float] = {}
        self._waiting: list[tuple[StepRank, int, asyncio.Future[None]]] = []
        self._own_waits: dict[str, asyncio.Future[None]] = {}
        self._order = itertools.count()

    def begin_urgent(self, job_id: str) -> None:
        """Give a job precedence, for a second at most; its own step that waited for others goes on."""
        self._urgent_since[job_id] = _now()
        waiter = self._own_waits.get(job_id)
        if waiter and not waiter.done():
            waiter.set_result(None)

    def end_urgent(self, job_id: str) -> None:
        """Take a job's precedence back; those that waited for the last one go on, by their rank."""
        self._urgent_since.pop(job_id, None)
        if self._seconds_urgent() <= 0:
            while self._waiting:
                waiter = heapq.heappop(self._waiting)[2]
                if not waiter.done():
                    waiter.set_result(None)

    async def yield_to_urgent(self, rank: StepRank, job_id: str | None = None) -> None:
        """Wait until no job is urgent, for a second at most.

        Args:
            rank: That of the step that waits.
            job_id: The job of the step, where it may become urgent itself meanwhile: then the step goes on.
        """
        until = _now() + _LIMIT_SECONDS
        # A shot that waits for a slot of the account is woken up by an end, takes its turn first, and becomes urgent.
        await asyncio.sleep(0)
        while job_id not in self._urgent_since and (left := min(self._seconds_urgent(), until - _now())) > 0:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (rank, next(self._order), waiter))
            if job_id is not None:
                self._own_waits[job_id] = waiter
            try:
                await asyncio.wait([waiter], timeout=left)
            finally:
                waiter.cancel()
                if job_id is not None and self._own_waits.get(job_id) is waiter:
                    del self._own_waits[job_id]

    def _seconds_urgent(self) -> float:
        """Return the seconds for which a job is urgent still; 0 where none is."""
        now = _now()
        self._urgent_since = {
            job_id: since for job_id, since in self._urgent_since.items() if now - since < _LIMIT_SECONDS
        }
        return max((since + _LIMIT_SECONDS - now for since in self._urgent_since.values()), default=0.0)


def _now() -> float:
    return asyncio.get_running_loop().time()
