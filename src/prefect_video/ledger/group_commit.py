"""Group commit: write transactions that wait for one another share one transaction, and so one wait for the disk.

What is queued while a transaction is committed goes into the next one, each write within a savepoint of its own: one
that fails is taken back alone. A caller returns only after the commit that makes its write durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import CursorResult, Executable
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncTransaction

from prefect_video._shield import shielded
from prefect_video.ledger.sqlite_driver import Statements, run_in_one_visit

MOST_AT_ONCE: Final = 50
"""Writes in one transaction: other processes wait for all of them."""

Result = TypeVar("Result")
Begin = Callable[[], AbstractAsyncContextManager[AsyncConnection]]


class GroupCommit:
    """A queue of writes for a database that has one writer at a time; belongs to one event loop.

    Args:
        begin: Opens a transaction that is committed at the end, or rolled back on any error.
    """

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._waiting: list[_Write] = []
        self._writing: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Wait for the turn of a write, and at its end until it is durable, or taken back where it failed.

        Raises:
            Exception: The transaction could not begin or be committed; nothing of it is in the database.
        """
        async with self._turn() as (write, connection):
            if write.is_one_of_several:
                write.savepoint = await shielded(_begin_savepoint(connection))
            yield connection

    async def run(self, statements: Statements[Result]) -> Result:
        """Write as `write` does, with all statements in one visit to the thread of the file.

        Raises:
            Exception: The transaction could not begin or be committed; nothing of it is in the database.
        """
        async with self._turn() as (write, connection):

            async def run_all(connection: AsyncConnection) -> Result:
                if write.is_one_of_several:
                    write.savepoint = await connection.begin_nested()
                return await statements(connection)

            return await run_in_one_visit(connection, run_all)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[tuple[_Write, AsyncConnection]]:
        write = _Write()
        self._waiting.append(write)
        if self._writing is None or self._writing.done():
            self._start()
        try:
            yield write, await write.turn
        except BaseException:
            # Waited for: a caller that tries again must not meet what is still being taken back.
            write.end(keep=False)
            await shielded(write.outcome)
            raise
        write.end(keep=True)
        if (error := await shielded(write.outcome)) is not None:
            raise error

    async def aclose(self) -> None:
        """Wait for the writes that were begun."""
        if self._writing is not None:
            await shielded(self._writing)

    def _start(self) -> None:
        self._writing = asyncio.create_task(self._write_all(), name="ledger writes")

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
                await self._write_group(group)
        finally:
            if self._waiting:
                # An event loop that is being closed cancels every task, and those write what they leave behind.
                self._start()

    async def _write_group(self, group: list[_Write]) -> None:
        """Let each write of a group have its turn in one transaction, and tell all of them how that has ended."""
        try:
            # Callers that were cancelled while they waited need no transaction.
            if not all(write.turn.done() for write in group):
                async with self._begin() as connection:
                    await _run_group(connection, group)
        except Exception as error:  # noqa: BLE001  raised by each of them; this task must go on
            for write in group:
                write.settle(error)
        except BaseException:
            for write in group:
                # Cancelled itself, this task settles nothing any more: its callers must not wait for it.
                write.turn.cancel()
                write.outcome.cancel()
            raise
        for write in group:
            write.settle()


class _Write:
    """A write in the queue.

    Attributes:
        turn: Resolves to the connection when it is this write's turn; cancelled with its caller.
        outcome: Resolves to None when the write is durable or taken back, else to why it is not in the database.
        is_one_of_several: It shares its transaction, and begins with a savepoint.
        savepoint: That one; None as long as nothing was written.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.turn: asyncio.Future[AsyncConnection] = loop.create_future()
        self.outcome: asyncio.Future[Exception | None] = loop.create_future()
        self.is_one_of_several = False
        self.savepoint: AsyncTransaction | None = None
        self._is_kept: asyncio.Future[bool] = loop.create_future()

    async def run(self, connection: AsyncConnection) -> bool:
        """Let the caller use the connection; return whether to keep what it has written."""
        if self.turn.done():
            return False
        self.turn.set_result(connection)
        return await self._is_kept

    def end(self, *, keep: bool) -> None:
        """Record that the caller is done with the connection."""
        self._is_kept.set_result(keep)
        if self.turn.cancelled() or self.turn.exception() is not None:
            # It had no turn, so that there is nothing to take back.
            self.settle()

    def settle(self, error: Exception | None = None) -> None:
        """Record the outcome, unless there is one."""
        if error is not None and not self.turn.done():
            self.turn.set_exception(error)
        if not self.outcome.done():
            self.outcome.set_result(error)


class _Uninterrupted(AsyncConnection):
    """The connection of a group: a caller that is cancelled waits for its statement, or SQLAlchemy would close it."""

    async def execute(self, statement: Executable, *arguments: Any, **options: Any) -> CursorResult[Any]:
        """Run a statement to its end."""
        return await shielded(super().execute(statement, *arguments, **options))


async def _run_group(connection: AsyncConnection, group: list[_Write]) -> None:
    shared = _Uninterrupted(connection.engine, connection.sync_connection)
    for write in group:
        if write.turn.done():
            # Its caller was cancelled.
            continue
        # A write by itself needs no savepoint: the transaction is taken back as a whole. That of one of several is
        # never released, so that a later one is nested in it: the commit ends them all.
        write.is_one_of_several = len(group) > 1
        if not await write.run(shared):
            written = write.savepoint if write.is_one_of_several else connection.get_transaction()
            if written is not None:
                await written.rollback()
            # Settled at once: it has nothing to wait for in the others' commit.
            write.settle()


async def _begin_savepoint(connection: AsyncConnection) -> AsyncTransaction:
    return await connection.begin_nested()
