"""Idempotency keys: one key stands for one request, in every process and after every restart."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import and_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from prefect_video.errors import IdempotencyKeyReused
from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.tables import idempotency_keys


class IdempotencyKeys(LedgerBase):
    """The senders' own ids of requests, each bound for good to what it was first used for."""

    async def bind_key(self, key: str, request_digest: str, *, environment: str) -> str | None:
        """Bind a key to a request, unless it is bound already.

        Args:
            key: The sender's.
            request_digest: What stands for the request's content.
            environment: Keys are shared within one environment only.

        Returns:
            The id of the row that the request was answered with before; None where there is none.

        Raises:
            IdempotencyKeyReused: It is bound to another request.
            LedgerError: The ledger cannot be used; nothing was bound.
        """
        insert = sqlite.insert if self._database.is_sqlite else postgresql.insert
        columns = idempotency_keys.c
        same = and_(columns.environment == environment, columns.key == key)
        values = {"environment": environment, "key": key, "request_digest": request_digest}
        async with self._database.writing() as connection:
            await connection.execute(
                insert(idempotency_keys).on_conflict_do_nothing().values(**values, created_at=datetime.now(UTC))
            )
            bound = (await connection.execute(select(columns.request_digest, columns.job_id).where(same))).one()
        if bound.request_digest != request_digest:
            raise IdempotencyKeyReused(
                f"Idempotency-Key {key!r} was used before for a request with another content, and nothing was sent:"
                " give a new request a key of its own, or repeat the first one unchanged"
            )
        job_id: str | None = bound.job_id
        return job_id

    async def answer_key(self, key: str, job_id: str, *, environment: str) -> None:
        """Record which row a bound key's request was answered with."""
        columns = idempotency_keys.c
        async with self._database.writing() as connection:
            await connection.execute(
                update(idempotency_keys)
                .where(columns.environment == environment, columns.key == key)
                .values(job_id=job_id)
            )
