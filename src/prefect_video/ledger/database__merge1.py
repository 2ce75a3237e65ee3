"""What a database's errors mean for whoever runs the ledger: one table for each database."""

from __future__ import annotations

import re
from typing import Final

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from prefect_video.errors import IllegalTransition, LedgerError, LedgerOutdated, LedgerUnavailable
from prefect_video.ledger.locations import Location

_SQLITE_FAULTS: Final = (
    (r"no such (table|column)", LedgerOutdated, "has not this version's tables: run `prefect-video ledger upgrade`"),
    (
        r"locked|busy",
        LedgerUnavailable,
        "is locked by another process: find who holds it (a backup, an open shell), then run again",
    ),
    (
        r"readonly|read-only",
        LedgerUnavailable,
        "is read-only: give this user the right to write the file and its folder",
    ),
    (r"is full", LedgerUnavailable, "cannot grow, the disk is full: free some space, then run again"),
    (
        r"not a database|malformed|encrypted",
        LedgerUnavailable,
        "is not a ledger or is damaged: move it away and restore a backup",
    ),
    (
        r"unable to open",
        LedgerUnavailable,
        "cannot be opened: see that its folder exists and that this user may read and write it",
    ),
    (
        r"disk I/O error",
        LedgerUnavailable,
        "cannot be read or written, the disk reports an error: see the system's log",
    ),
)

_POSTGRESQL_FAULTS: Final = (
    (r"42P01|42703|3F000", LedgerOutdated, "has not this version's tables: run `prefect-video ledger upgrade`"),
    (r"28...", LedgerUnavailable, "refused the login: correct user and password in the ledger URL"),
    (r"3D000", LedgerUnavailable, "does not exist: create the database, then run `prefect-video ledger upgrade`"),
    (r"42501", LedgerUnavailable, "denies this user the right: grant SELECT, INSERT and UPDATE on its tables"),
    (r"25006", LedgerUnavailable, "is read-only (a standby?): point the ledger URL to the primary server"),
    (r"53100", LedgerUnavailable, "cannot grow, the server's disk is full: free some space, then run again"),
    (r"53...", LedgerUnavailable, "has no room for another connection: use fewer workers or allow more connections"),
    (r"55P03|40P01|40001|57014", LedgerUnavailable, "is busy, another process holds the lock: run again"),
    (r"57P..|08...", LedgerUnavailable, "closed the connection: run again once the server is up"),
)


def explain(error: Exception, location: Location) -> LedgerError:
    """Turns a driver's error into one that names the ledger, the cause and the next step."""
    if isinstance(error, PoolTimeout):
        return LedgerUnavailable(f"the ledger {location.name} is too busy: no connection became free in time")
    if isinstance(error, IntegrityError):
        return IllegalTransition(
            f"the ledger {location.name} refused a step that somebody else made first "
            f"({_first_line(error.orig)}): read the row again"
        )
    if location.path is not None:
        return _explain_sqlite(error, location)
    return _explain_postgresql(error, location)


def _explain_sqlite(error: Exception, location: Location) -> LedgerError:
    cause = _first_line(_original(error))
    for pattern, kind, advice in _SQLITE_FAULTS:
        if re.search(pattern, cause):
            return kind(f"the ledger {location.name} {advice} ({cause})")
    if isinstance(error, OSError):
        return LedgerUnavailable(f"the ledger {location.name} cannot be used: {cause}")
    return LedgerError(f"the ledger {location.name} failed: {cause}")


def _explain_postgresql(error: Exception, location: Location) -> LedgerError:
    original = _original(error)
    code = str(getattr(original, "sqlstate", None) or "")
    cause = _first_line(original)
    for pattern, kind, advice in _POSTGRESQL_FAULTS:
        if re.fullmatch(pattern, code):
            return kind(f"the ledger {location.label} {advice} ({cause})")
    if isinstance(original, OSError):
        return LedgerUnavailable(
            f"the ledger {location.label} cannot be reached: see that the server runs and that host and port "
            f"are right ({cause})"
        )
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return LedgerUnavailable(f"the ledger {location.label} closed the connection: run again ({cause})")
    return LedgerError(f"the ledger {location.label} failed: {cause}")


def _original(error: Exception) -> BaseException:
    """The driver's own error: below SQLAlchemy's, and below SQLAlchemy's adapter of an async driver."""
    original: BaseException = (error.orig or error) if isinstance(error, DBAPIError) else error
    if getattr(original, "sqlstate", None) is None and isinstance(original.__cause__, OSError):
        return original.__cause__
    return original


def _first_line(error: BaseException | None) -> str:
    text = str(error).strip() or type(error).__name__
    return re.sub(r"^<class '[^']*'>: ", "", text).splitlines()[0]
