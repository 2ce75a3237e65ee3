"""Idempotency keys: one key stands for one request, in every process and after every restart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from typing import Final

from sqlalchemy import Insert, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.errors import IdempotencyKeyReused
from prefect_video.ledger.base import BY_ID, LedgerBase
from prefect_video.ledger.records import ClaimResult, Job, State
from prefect_video.ledger.row_records import readable_rows
from prefect_video.ledger.tables import JOBS, idempotency_keys, job_from_row, jobs_table

# Built once: each request runs them, and building one takes longer than running it.
_key = idempotency_keys.c
_SAME: Final = (
    _key.environment == bindparam("of_environment"),
    _key.requester == bindparam("of_requester"),
    _key.key == bindparam("named"),
)
_BOUND: Final = select(idempotency_keys).where(*_SAME)
_ANSWER: Final = update(idempotency_keys).where(*_SAME).values(job_id=bindparam("answer"))
_OF_RUN: Final = JOBS.where(
    jobs_table.c.flow_run_id == bindparam("run"), jobs_table.c.environment == bindparam("of_environment")
).order_by(jobs_table.c.created_at.desc(), jobs_table.c.id.desc())


@dataclass(frozen=True)
class BoundKey:
    """Idempotency key that is bound to a request.

    Attributes:
        account: The account that it was first used with: the only one that may pay for the request.
        job_id: The row that the request was answered with; None where there is none.
        answer: The row that the request is to be answered with again; None where it may be sent.
    """

    account: str
    job_id: str | None
    answer: Job | None = None


class IdempotencyKeys(LedgerBase):
    """The senders' own ids of requests, each bound for good to what it was first used for."""

    async def bind_key(
        self,
        key: str,
        request_digest: str,
        *,
        account: str,
        environment: str,
        requester: str = "",
        flow_run_id: str | None = None,
    ) -> BoundKey:
        """Bind a key to a request and to the account that pays for it, unless it is bound already.

        Args:
            key: The sender's.
            request_digest: What stands for the request's content.
            account: The account to be charged.
            environment: Keys are shared within one environment only.
            requester: The sender; the same key of another one is another key.
            flow_run_id: The run that rows of the request are recorded under; None where it is no request for a job.

        Returns:
            The key as it is bound, to another account perhaps, where two services got it at the same time.

        Raises:
            IdempotencyKeyReused: It is bound to another request.
            LedgerError: The ledger cannot be used; nothing was bound.
        """
        row = {
            "environment": environment,
            "requester": requester,
            "key": key,
            "request_digest": request_digest,
            "account": account,
            "created_at": datetime.now(UTC),
        }
        same = {"of_environment": environment, "of_requester": requester, "named": key}

        async def bind(connection: AsyncConnection) -> tuple[str, BoundKey]:
            await connection.execute(self._insert_missing, [row])
            bound = (await connection.execute(_BOUND, same)).one()
            answer = None
            if flow_run_id is not None:
                answer = await _find_answer(connection, bound.job_id, flow_run_id, environment)
            return bound.request_digest, BoundKey(account=bound.account, job_id=bound.job_id, answer=answer)

        digest, bound = await self._database.write(bind)
        if digest != request_digest:
            raise IdempotencyKeyReused(
                f"Idempotency-Key {key!r} was used before for a request with another content, and nothing was sent:"
                " give a new request a key of its own, or repeat the first one unchanged"
            )
        return bound

    @cached_property
    def _insert_missing(self) -> Insert:
        return self._database.insert_missing(idempotency_keys)


async def record_answers(connection: AsyncConnection, claims: Iterable[ClaimResult]) -> None:
    """Record which rows the bound keys of requests were answered with, in the transaction that claims them."""
    answers = [
        {
            "of_environment": claim.request.environment,
            "of_requester": claim.request.requester.name if claim.request.requester else "",
            "named": claim.request.idempotency_key,
            "answer": claim.job.id,
        }
        for claim in claims
        if claim.request.idempotency_key is not None and claim.job is not None
    ]
    if answers:
        await connection.execute(_ANSWER, answers)


async def _find_answer(
    connection: AsyncConnection, job_id: str | None, flow_run_id: str, environment: str
) -> Job | None:
    """Find the row that a key was answered with before; also that of a process that died before it said so.

    A released row is none: nothing was accepted for it, so that its key may be sent again.
    """
    answered = (await connection.execute(BY_ID, {"sought": job_id})).all() if job_id else []
    claimed = (await connection.execute(_OF_RUN, {"run": flow_run_id, "of_environment": environment})).all()
    jobs = chain(map(job_from_row, answered), readable_rows(claimed, job_from_row))
    return next((job for job in jobs if job.state is not State.RELEASED), None)
