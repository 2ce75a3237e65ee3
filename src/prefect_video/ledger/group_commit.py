"""Group commit: write transactions that wait for one another share one transaction, and so one wait for the disk.

What is queued while a transaction is committed goes into the next one, each write within a savepoint of its own: one
that fails is taken back alone. A caller returns only after the commit that makes its write durable. Writes that are
given as statements (`run`) need one visit to the thread of the file together, from the beginning to the commit.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any, Final, TypeVar

from sqlalchemy import CursorResult, Executable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prefect_video._shield import shielded
from prefect_video.ledger.sqlite_driver import Statements, complete, run_directly, run_in_one_visit

MOST_AT_ONCE: Final = 50
"""Writes in one transaction: other processes wait for all of them."""

# Of several savepoints with one name the innermost counts, which is that of the write whose turn it is.
_BEGIN_SAVEPOINT: Final = "SAVEPOINT write"
_END_SAVEPOINT: Final = "RELEASE write"
_ROLL_BACK: Final = "ROLLBACK TO write"

Result = TypeVar("Result")


class GroupCommit:
    """A queue of writes for a database that has one writer at a time; belongs to one event loop.

    Args:
        engine: Opens connections whose transactions are those of writers from the beginning.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting: list[_Write] = []
        self._writing: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Wait for the turn of a write, and at its end until it is durable, or taken back where it failed.

        Raises:
            Exception: The transaction could not begin or be committed; nothing of it is in the database.
        """
        write = _Write()
        async with self._turn(write) as connection:
            assert connection is not None
            if write.is_one_of_several:
                await shielded(write.begin_savepoint(connection))
            yield connection

    async def run(self, statements: Statements[Result]) -> Result:
        """Write as `write` does, with all statements in one visit to the thread of the file.

        A caller that is cancelled in the meantime waits for the end. What it writes is taken back, unless all its
        statements were run by then.

        Raises:
            Exception: The transaction could not begin or be committed; nothing of it is in the database.
        """
        write = _Write()
        results: list[Result] = []

        async def run_all(connection: AsyncConnection) -> None:
            if write.is_one_of_several:
                await write.begin_savepoint(connection)
            results.append(await statements(connection))

        write.statements = run_all
        async with self._turn(write) as connection:
            if connection is None:
                await write.end_of_statements
            else:
                await run_in_one_visit(connection, run_all)
        return results[0]

    @asynccontextmanager
    async def _turn(self, write: _Write) -> AsyncIterator[AsyncConnection | None]:
        """Queue a write; yield the connection for it, None where its statements are being run."""
        self._waiting.append(write)
        if self._writing is None or self._writing.done():
            self._start()
        try:
            yield await write.turn
        except BaseException as cause:
            # Waited for: a caller that tries again must not meet what is still being taken back.
            write.error = cause
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
            if waiting := [write for write in group if not write.turn.done()]:
                if all(write.statements for write in waiting):
                    await self._write_in_one_visit(waiting)
                else:
                    async with self._engine.begin() as connection:
                        await _run_group(connection, waiting)
        except Exception as error:  # noqa: BLE001  raised by each of them; this task must go on
            for write in group:
                write.settle(error)
        except BaseException:
            for write in group:
                # Cancelled itself, this task settles nothing any more: its callers must not wait for it.
                write.turn.cancel()
                write.end_of_statements.cancel()
                write.outcome.cancel()
            raise
        for write in group:
            write.settle()

    async def _write_in_one_visit(self, group: list[_Write]) -> None:
        for write in group:
            write.is_one_of_several = len(group) > 1
            write.turn.set_result(None)
        async with self._engine.connect() as connection:
            errors = await run_in_one_visit(connection, lambda connection: _complete_group(connection, group))
        for write, error in zip(group, errors, strict=True):
            write.settle(error)


class _EndOfStatements(asyncio.Future[None]):
    """End of a write's statements, which run in the thread of the file while its caller waits.

    Attributes:
        is_given_up: The caller was cancelled; the thread sees it at once, and not when the event loop comes to it.
    """

    is_given_up = False

    def cancel(self, msg: Any = None) -> bool:
        """Give the write up."""
        self.is_given_up = True
        return super().cancel(msg)


class _Write:
    """A write in the queue.

    Attributes:
        turn: Resolves to the connection when it is this write's turn, to None where its statements are being run;
            cancelled with its caller.
        outcome: Resolves to None when the write is durable or taken back, else to why it is not in the database.
        is_one_of_several: It shares its transaction, and begins with a savepoint.
        has_savepoint: That was begun; as long as it was not, nothing was written.
        error: Why it has failed; None as long as it has not.
        statements: What it writes, its savepoint included; None where its caller uses the connection.
        end_of_statements: Resolves with the outcome, where the statements are run in the group's visit.
        context: The caller's context, to which belongs what the statements log.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.turn: asyncio.Future[AsyncConnection | None] = loop.create_future()
        self.outcome: asyncio.Future[Exception | None] = loop.create_future()
        self.is_one_of_several = False
        self.has_savepoint = False
        self.error: BaseException | None = None
        self.statements: Statements[None] | None = None
        self.context = copy_context()
        self.end_of_statements = _EndOfStatements(loop=loop)
        self._is_kept: asyncio.Future[bool] = loop.create_future()

    async def begin_savepoint(self, connection: AsyncConnection) -> None:
        """Begin the savepoint to which the write can be taken back alone."""
        await run_directly(connection, _BEGIN_SAVEPOINT)
        self.has_savepoint = True

    async def run(self, connection: AsyncConnection) -> bool:
        """Let the caller use the connection; return whether to keep what it has written."""
        if self.turn.done():
            return False
        self.turn.set_result(connection)
        return await self._is_kept

    def end(self, *, keep: bool) -> None:
        """Record that the caller is done with the connection."""
        if not keep:
            # It may not have come to wait for the end of its statements yet: the thread must not run them then.
            self.end_of_statements.cancel()
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
        if not self.end_of_statements.done():
            self.end_of_statements.set_result(None)


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
        # A write by itself needs no savepoint: the transaction is taken back as a whole.
        write.is_one_of_several = len(group) > 1
        if await write.run(shared):
            await _keep(connection, write)
        else:
            await _take_back(connection, write)
            # Settled at once: it has nothing to wait for in the others' commit.
            write.settle()


async def _complete_group(connection: AsyncConnection, group: list[_Write]) -> list[Exception | None]:
    """Run the statements of all writes of a group in one transaction, in the thread of its file.

    Returns:
        For each write, in order, the error for which it was taken back; None where it is durable.
    """
    transaction = await connection.begin()
    errors: list[Exception | None] = []
    try:
        for write in group:
            errors.append(await _run_statements(connection, write))
        if transaction.is_active:
            await transaction.commit()
    except BaseException:
        await transaction.rollback()
        raise
    return errors


async def _run_statements(connection: AsyncConnection, write: _Write) -> Exception | None:
    """Run the statements of one write; take them back, and return why, where they fail or are given up."""
    assert write.statements is not None
    error: Exception | None = None
    if write.end_of_statements.is_given_up:
        return None
    try:
        write.context.run(complete, write.statements(connection))
    except Exception as failure:  # noqa: BLE001  raised by its caller; the others are not concerned
        write.error = error = failure
    if error is not None or write.end_of_statements.is_given_up:
        await _take_back(connection, write)
    else:
        await _keep(connection, write)
    return error


async def _keep(connection: AsyncConnection, write: _Write) -> None:
    """End the savepoint of a write: within it, SQLite would copy each page again that a later one changes.

    Raises:
        sqlite3.Error: SQLite itself has taken back the whole transaction.
    """
    if write.has_savepoint:
        await run_directly(connection, _END_SAVEPOINT)


async def _take_back(connection: AsyncConnection, write: _Write) -> None:
    """Take back what a write has written, and nothing of the others in its transaction.

    Raises:
        DBAPIError | sqlite3.Error: That is impossible, for this reason: nothing of the transaction is in the database.
    """
    try:
        if not write.is_one_of_several:
            # Alone it has the whole transaction.
            if (transaction := connection.get_transaction()) is not None:
                await transaction.rollback()
        elif write.has_savepoint:
            await run_directly(connection, _ROLL_BACK)
    except (DBAPIError, sqlite3.Error) as failure:
        # After a failure of the disk, SQLite itself takes back the whole transaction: no savepoint is left.
        raise write.error if isinstance(write.error, DBAPIError) else failure from None
