"""Idempotency keys: one key stands for one request, in every process and after every restart."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, and_, select, update

from prefect_video.errors import IdempotencyKeyReused
from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.tables import idempotency_keys


@dataclass(frozen=True)
class BoundKey:
    """Idempotency key that is bound to a request.

    Attributes:
        account: The account that it was first used with: the only one that may pay for the request.
        job_id: The row that the request was answered with; None where there is none.
    """

    account: str
    job_id: str | None


class IdempotencyKeys(LedgerBase):
    """The senders' own ids of requests, each bound for good to what it was first used for."""

    async def bind_key(
        self, key: str, request_digest: str, *, account: str, environment: str, requester: str = ""
    ) -> BoundKey:
        """Bind a key to a request and to the account that pays for it, unless it is bound already.

        Args:
            key: The sender's.
            request_digest: What stands for the request's content.
            account: The account to be charged.
            environment: Keys are shared within one environment only.
            requester: The sender; the same key of another one is another key.

        Returns:
            The key as it is bound, to another account perhaps, where two services got it at the same time.

        Raises:
            IdempotencyKeyReused: It is bound to another request.
            LedgerError: The ledger cannot be used; nothing was bound.
        """
        same = _is(key, environment, requester)
        values = {
            "environment": environment,
            "requester": requester,
            "key": key,
            "request_digest": request_digest,
            "account": account,
        }
        async with self._database.writing() as connection:
            statement = self._database.insert_missing(idempotency_keys)
            await connection.execute(statement.values(**values, created_at=datetime.now(UTC)))
            bound = (await connection.execute(select(idempotency_keys).where(same))).one()
        if bound.request_digest != request_digest:
            raise IdempotencyKeyReused(
                f"Idempotency-Key {key!r} was used before for a request with another content, and nothing was sent:"
                " give a new request a key of its own, or repeat the first one unchanged"
            )
        return BoundKey(account=bound.account, job_id=bound.job_id)

    async def answer_key(self, key: str, job_id: str, *, environment: str, requester: str = "") -> None:
        """Record which row a bound key's request was answered with."""
        async with self._database.writing() as connection:
            await connection.execute(
                update(idempotency_keys).where(_is(key, environment, requester)).values(job_id=job_id)
            )


def _is(key: str, environment: str, requester: str) -> ColumnElement[bool]:
    columns = idempotency_keys.c
    return and_(columns.environment == environment, columns.requester == requester, columns.key == key)
