"""Where generations and books survive a restart: one SQLite file, written before an answer leaves."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Protocol, TypeVar

from prefect_video._dedicated_thread import DedicatedThread
from prefect_video.emulator.generation import Generation
from prefect_video.emulator.usage import Line

Result = TypeVar("Result")

LOCK_SECONDS = 1.0
"""How long to wait for a file that another emulator is just letting go of."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS generations (
    position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS books (
    scope TEXT NOT NULL, subject TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (scope, subject, name)
);
"""
_SAVE_GENERATION = (
    "INSERT INTO generations (id, body) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
)
_SAVE_LINE = (
    "INSERT INTO books (scope, subject, name, value) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (scope, subject, name) DO UPDATE SET value = excluded.value"
)


class StateStoreError(Exception):
    """The journal cannot be read or written."""


class StateStore(Protocol):
    """Writes down what changed."""

    async def load(self) -> tuple[list[Generation], list[tuple[Line, Decimal]]]:
        """Every generation in order of acceptance, and every counter."""

    async def write(self, generations: Iterable[Generation], lines: Iterable[tuple[Line, Decimal]]) -> None:
        """Make these durable, all or none."""

    async def clear(self) -> None:
        """Forget everything."""

    async def forget_generations(self) -> None:
        """Forget every generation, and keep the counters."""

    async def close(self) -> None:
        """Release what is held."""


class MemoryStateStore:
    """Keeps nothing: the engine's own memory is all there is."""

    async def load(self) -> tuple[list[Generation], list[tuple[Line, Decimal]]]:
        """Nothing was kept."""
        return [], []

    async def write(self, generations: Iterable[Generation], lines: Iterable[tuple[Line, Decimal]]) -> None:
        """Nothing to do."""

    async def clear(self) -> None:
        """Nothing to do."""

    async def forget_generations(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""


class SqliteStateStore:
    """A SQLite file, used from one thread of its own. Survives SIGKILL of the process (not a power cut).

    A write whose request is cancelled is made all the same, before anything that comes after it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = DedicatedThread("emulator-journal")
        self._connection: sqlite3.Connection | None = None

    async def load(self) -> tuple[list[Generation], list[tuple[Line, Decimal]]]:
        """Open the file, creating it where missing, and read all of it.

        Raises:
            StateStoreError: The file cannot be opened, is open elsewhere, or is no database of this kind.
        """
        return await self._in_thread(self._load)

    async def write(self, generations: Iterable[Generation], lines: Iterable[tuple[Line, Decimal]]) -> None:
        """Make these durable in one transaction.

        Raises:
            StateStoreError: The file cannot be written.
        """
        rows = [(generation.id, generation.model_dump_json()) for generation in generations]
        counters = [(*line, str(value)) for line, value in lines]
        await self._in_thread(lambda: self._write(rows, counters))

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
            raise RuntimeError(f"the journal {self._path} is not open; load it first")
        return self._connection

    def _load(self) -> tuple[list[Generation], list[tuple[Line, Decimal]]]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(self._path, timeout=LOCK_SECONDS)
        # Two emulators on one file would both move, and bill, the same generations.
        self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.executescript(_SCHEMA)
        generations = self._connection.execute("SELECT body FROM generations ORDER BY position")
        counters = self._connection.execute("SELECT scope, subject, name, value FROM books")
        return (
            [Generation.model_validate_json(body) for (body,) in generations],
            [(Line(scope, subject, name), Decimal(value)) for scope, subject, name, value in counters],
        )

    def _write(self, rows: list[tuple[str, str]], counters: list[tuple[str, str, str, str]]) -> None:
        with self._open as connection:
            connection.executemany(_SAVE_GENERATION, rows)
            connection.executemany(_SAVE_LINE, counters)

    def _clear(self) -> None:
        with self._open as connection:
            connection.execute("DELETE FROM generations")
            connection.execute("DELETE FROM books")

    def _forget_generations(self) -> None:
        with self._open as connection:
            connection.execute("DELETE FROM generations")

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
