"""Connections to a PostgreSQL server: how many are open, and how many all processes of a ledger may open."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select, text

from prefect_video.ledger.database import Database
from prefect_video.ledger.tables import owners

_BESIDE_THE_POOL: Final = 2
"""One for heartbeats, and one where webhooks are waited for."""
_RECENT: Final = timedelta(minutes=2)
"""A process that has given no sign of life for so long has ended, or holds no connection."""
_COUNT: Final = text(
    "SELECT count(*) AS open,"
    " count(*) FILTER (WHERE application_name = 'prefect-video') AS own,"
    " current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS allowed"
    " FROM pg_stat_activity WHERE backend_type = 'client backend'"
)


class ConnectionUsage(BaseModel):
    """Connections of a PostgreSQL server at a moment.

    Attributes:
        open: Those that are open, of every program.
        own: Those of this package among them.
        allowed: Those that the server allows to users without privileges.
        processes: Processes that have this ledger open.
        each: Those that one process may open, by the pool of this one.
    """

    model_config = ConfigDict(frozen=True)

    open: int
    own: int
    allowed: int
    processes: int
    each: int

    @property
    def needed(self) -> int:
        """The connections that all processes need at most, and those of other programs that are open now."""
        return self.processes * self.each + self.open - self.own

    @property
    def fits(self) -> bool:
        """True where the server has a connection for each that may be opened."""
        return self.needed <= self.allowed


async def read_connection_usage(database: Database) -> ConnectionUsage | None:
    """Count the connections of the server; None on SQLite, which has none.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    if database.is_sqlite:
        return None
    async with database.reading() as connection:
        row = (await connection.execute(_COUNT)).one()
        since = await database.now(connection) - _RECENT
        live = select(func.count()).select_from(owners).where(owners.c.heartbeat_at > since)
        processes = (await connection.execute(live)).scalar_one()
    return ConnectionUsage(
        open=row.open,
        own=row.own,
        allowed=row.allowed,
        processes=processes,
        each=database.location.pool.largest + _BESIDE_THE_POOL,
    )
