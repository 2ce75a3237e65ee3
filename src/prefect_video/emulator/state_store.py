"""State stores: generations and usage survive a restart in one SQLite file, written before an answer leaves."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Protocol, TypeVar

from prefect_video._dedicated_thread import DedicatedThread
from prefect_video.emulator.generation import EmulatedGeneration
from prefect_video.emulator.usage import CounterKey

Result = TypeVar("Result")

LOCK_SECONDS = 1.0
"""Seconds to wait for a file that another emulator is just closing."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS generations (
    position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS usage (
    scope TEXT NOT NULL, subject TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (scope, subject, name)
);
"""
_SAVE_GENERATION = (
    "INSERT INTO generations (id, body) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
)
_SAVE_COUNTER = (
    "INSERT INTO usage (scope, subject, name, value) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (scope, subject, name) DO UPDATE SET value = excluded.value"
)


class StateStoreError(Exception):
    """Failure to read or write the state store."""


class StateStore(Protocol):
    """Durable store of generations and usage counters."""

    async def load(self) -> tuple[list[EmulatedGeneration], list[tuple[CounterKey, Decimal]]]:
        """Return every generation in order of acceptance, and every counter."""

    async def write(
        self, generations: Iterable[EmulatedGeneration], counters: Iterable[tuple[CounterKey, Decimal]]
    ) -> None:
        """Make these durable, all or none of them."""

    async def clear(self) -> None:
        """Delete everything."""

    async def forget_generations(self) -> None:
        """Delete every generation and keep the counters."""

    async def close(self) -> None:
        """Release the resources of the store."""


class MemoryStateStore:
    """State store that keeps nothing; the state lives in the engine only."""

    async def load(self) -> tuple[list[EmulatedGeneration], list[tuple[CounterKey, Decimal]]]:
        """Return no generation and no counter."""
        return [], []

    async def write(
        self, generations: Iterable[EmulatedGeneration], counters: Iterable[tuple[CounterKey, Decimal]]
    ) -> None:
        """Do nothing."""

    async def clear(self) -> None:
        """Do nothing."""

    async def forget_generations(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


class SqliteStateStore:
    """State store in a SQLite file, used from a dedicated thread. Survives SIGKILL (not a power cut).

    A write whose request is cancelled is still executed, before any later one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = DedicatedThread("emulator-state-store")
        self._connection: sqlite3.Connection | None = None

    async def load(self) -> tuple[list[EmulatedGeneration], list[tuple[CounterKey, Decimal]]]:
        """Open the file, creating it where missing, and read all of it.

        Raises:
            StateStoreError: The file cannot be opened, is open in another emulator, or is not such a database.
        """
        return await self._in_thread(self._load)

    async def write(
        self, generations: Iterable[EmulatedGeneration], counters: Iterable[tuple[CounterKey, Decimal]]
    ) -> None:
        """Write these in one transaction.

        Raises:
            StateStoreError: The file cannot be written.
        """
        generation_rows = [(generation.id, generation.model_dump_json()) for generation in generations]
        counter_rows = [(*counter, str(value)) for counter, value in counters]
        await self._in_thread(lambda: self._write(generation_rows, counter_rows))

    async def clear(self) -> None:
        """Empty both tables."""
        await self._in_thread(self._clear)

    async def forget_generations(self) -> None:
        """Empty the table of generations."""
        await self._in_thread(self._forget_generations)

    async def close(self) -> None:
        """Close the file."""
        await self._thread.close(self._close)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        try:
            return await self._thread.run(work)
        except sqlite3.OperationalError as error:
            in_use = "; another emulator has it open" if "locked" in str(error) else ""
            raise StateStoreError(f"Emulator database {self._path}: {error}{in_use}") from error
        except (sqlite3.Error, OSError, ValueError) as error:
            raise StateStoreError(f"Emulator database {self._path}: {error}") from error

    @property
    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise RuntimeError(f"the state store {self._path} is not open; load it first")
        return self._connection

    def _load(self) -> tuple[list[EmulatedGeneration], list[tuple[CounterKey, Decimal]]]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(self._path, timeout=LOCK_SECONDS)
        # Two emulators on one file would both move, and bill, the same generations.
        self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute(
            "PRAGMA synchronous=NORMAL"
        )  # what a killed process wrote, the operating system still has
        self._connection.executescript(_SCHEMA)
        generations = self._connection.execute("SELECT body FROM generations ORDER BY position")
        counters = self._connection.execute("SELECT scope, subject, name, value FROM usage")
        return (
            [EmulatedGeneration.model_validate_json(body) for (body,) in generations],
            [(CounterKey(scope, subject, name), Decimal(value)) for scope, subject, name, value in counters],
        )

    def _write(self, generation_rows: list[tuple[str, str]], counter_rows: list[tuple[str, str, str, str]]) -> None:
        with self._open as connection:
            connection.executemany(_SAVE_GENERATION, generation_rows)
            connection.executemany(_SAVE_COUNTER, counter_rows)

    def _clear(self) -> None:
        with self._open as connection:
            connection.execute("DELETE FROM generations")
            connection.execute("DELETE FROM usage")

    def _forget_generations(self) -> None:
        with self._open as connection:
            connection.execute("DELETE FROM generations")

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
