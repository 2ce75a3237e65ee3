"""SQLAlchemy's dialect of SQLite for ledgers, which compiles a statement once in a process.

SQLAlchemy keeps compiled statements by engine, and each session opens a ledger with an engine of its own: every task
of a flow would compile the same statements again, which takes longer than to run them. In the thread of its file a
statement gets a cursor that runs it there and then.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite, SQLiteExecutionContext_aiosqlite
from sqlalchemy.util import LRUCache

from prefect_video.ledger.sqlite_driver import Connection

DRIVER_NAME: Final = "sqlite+ledger"
"""The driver of an engine's URL that selects this dialect."""

COMPILED_STATEMENTS: Final[LRUCache[Any, Any]] = LRUCache(1000)
"""The `compiled_cache` of all engines with this dialect."""


class LedgerExecutionContext(SQLiteExecutionContext_aiosqlite):
    """Execution of one statement."""

    def create_default_cursor(self) -> Any:
        """Return the cursor for the thread that the statement is run in."""
        driver = self._dbapi_connection.driver_connection
        assert isinstance(driver, Connection)
        return driver.direct_cursor() if driver.is_own_thread else super().create_default_cursor()


class LedgerDialect(SQLiteDialect_aiosqlite):
    """Dialect of which all instances are equal: each of them compiles a statement to the same SQL."""

    supports_statement_cache = True
    execution_ctx_cls = LedgerExecutionContext

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


registry.register("sqlite.ledger", __name__, LedgerDialect.__name__)
