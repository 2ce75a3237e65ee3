"""SQLAlchemy's dialect of SQLite for ledgers, which compiles a statement once in a process.

SQLAlchemy keeps compiled statements by engine, and each session opens a ledger with an engine of its own: every task
of a flow would compile the same statements again, which takes longer than to run them.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.util import LRUCache

DRIVER_NAME: Final = "sqlite+ledger"
"""The driver of an engine's URL that selects this dialect."""

COMPILED_STATEMENTS: Final[LRUCache[Any, Any]] = LRUCache(1000)
"""The `compiled_cache` of all engines with this dialect."""


class LedgerDialect(SQLiteDialect_aiosqlite):
    """Dialect of which all instances are equal: each of them compiles a statement to the same SQL."""

    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


registry.register("sqlite.ledger", __name__, LedgerDialect.__name__)
