"""URLs of ledgers: as users write them, and as the database driver takes them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from prefect_video.errors import InvalidInput

URL_VARIABLE: Final = "PREFECT_VIDEO_LEDGER_URL"
BUSY_SECONDS: Final = 30.0

_POSTGRESQL: Final = frozenset({"postgres", "postgresql", "postgresql+asyncpg"})
_SQLITE: Final = frozenset({"sqlite", "sqlite+aiosqlite"})

_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_ENCRYPTED: Final = frozenset({"require", "verify-ca", "verify-full"})
_OPTIONS: Final = frozenset({"ssl", "target_session_attrs", "host", "port", "prepared_statement_cache_size"})
"""Options of a URL that asyncpg and SQLAlchemy's dialect take; any other would be a TypeError of theirs."""


def default_ledger_url() -> str:
    """Return `$PREFECT_VIDEO_LEDGER_URL`, else `video-ledger.db` under `$PREFECT_HOME` or `~/.prefect`."""
    return os.environ.get(URL_VARIABLE) or f"sqlite:///{_default_path()}"


def _default_path() -> Path:
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser().absolute()
    return home / "video-ledger.db"


@dataclass(frozen=True)
class PoolLimits:
    """Connections that one process may open for its queries.

    Attributes:
        size: Those that are kept open (`?pool_size=` in the URL).
        overflow: Further ones while all are in use (`?max_overflow=`).
        timeout_seconds: How long a free one is waited for (`?pool_timeout=`).
    """

    size: int = 5
    overflow: int = 0
    timeout_seconds: float = 120.0

    @property
    def largest(self) -> int:
        """The most connections that may be open at once."""
        return self.size + self.overflow


@dataclass(frozen=True)
class DatabaseUrl:
    """A ledger's address.

    Attributes:
        url: For SQLAlchemy's async drivers; holds the password, so it is never shown.
        path: The file, on SQLite.
        busy_seconds: How long a locked SQLite file is waited for (`?timeout=` in the URL).
        pool: The connections of one process.
    """

    url: URL
    path: Path | None
    busy_seconds: float = BUSY_SECONDS
    pool: PoolLimits = PoolLimits()

    @property
    def label(self) -> str:
        """Return the URL without password and options: safe to show and to log."""
        return self.url.set(drivername=self.url.get_backend_name(), query={}).render_as_string()

    @property
    def command_option(self) -> str | None:
        """Return the value of `--ledger`, never with a password; None where a command needs none."""
        if self.path is None:
            # `set` takes None for "as it is".
            url = self.url._replace(drivername=self.url.get_backend_name(), password=None)
            return url.render_as_string()
        # A shell that does not have this process's variable looks in the default place.
        return None if self.path == _default_path() and not os.environ.get(URL_VARIABLE) else str(self.path)

    @property
    def name(self) -> str:
        """Return the name of this ledger in messages."""
        return str(self.path) if self.path else self.label


def parse_database_url(text: str) -> DatabaseUrl:
    """Read `sqlite:///abs/path.db`, a bare path, or `postgresql://user:password@host/database`.

    Raises:
        InvalidInput: It is none of these; the message does not repeat the text, which may hold a password.
    """
    text = text.strip()
    if not text:
        raise InvalidInput("the ledger URL is empty: give a file path or postgresql://user:password@host/database")
    if "://" not in text:
        return _file(Path(text), BUSY_SECONDS)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise InvalidInput("the ledger URL cannot be read: write sqlite:///path or postgresql://…") from None
    if url.drivername in _SQLITE:
        return _sqlite(url)
    if url.drivername in _POSTGRESQL:
        return _postgresql(url)
    raise InvalidInput(
        f"the ledger URL begins with {url.drivername}://, which is not supported: "
        "use sqlite:///path or postgresql://user:password@host/database"
    )


def _sqlite(url: URL) -> DatabaseUrl:
    if not url.database or url.database == ":memory:":
        raise InvalidInput("a ledger in memory would forget what was paid: give a file, sqlite:///path")
    timeout = url.query.get("timeout", str(BUSY_SECONDS))
    try:
        busy_seconds = float(str(timeout))
    except ValueError:
        raise InvalidInput(f"ledger URL: timeout={timeout!r} is not a number of seconds") from None
    if unknown := sorted(url.query.keys() - {"timeout"}):
        raise InvalidInput(f"ledger URL: unknown option {unknown[0]!r}; SQLite takes `timeout` only")
    return _file(Path(url.database), busy_seconds)


def _file(path: Path, busy_seconds: float) -> DatabaseUrl:
    try:
        path = path.expanduser().absolute()
    except RuntimeError as error:
        raise InvalidInput(f"the ledger {path} has no place: {error}; give the folder itself") from error
    return DatabaseUrl(URL.create("sqlite+aiosqlite", database=str(path)), path, busy_seconds)


def _postgresql(url: URL) -> DatabaseUrl:
    query = dict(url.query)
    pool = PoolLimits(
        size=_take_number(query, "pool_size", PoolLimits.size, least=1),
        overflow=_take_number(query, "max_overflow", PoolLimits.overflow),
        timeout_seconds=_take_number(query, "pool_timeout", int(PoolLimits.timeout_seconds), least=1),
    )
    # libpq's name for it, as most hosting services print it; asyncpg calls it `ssl`.
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    if (mode := query.get("ssl", "prefer")) not in _SSL_MODES:
        raise InvalidInput(f"ledger URL: sslmode={mode!r} is not one of {', '.join(_SSL_MODES)}")
    if query.pop("channel_binding", "prefer") == "require" and mode not in _ENCRYPTED:
        # The driver cannot bind; what binding protects from, another process in between, encryption must keep out.
        raise InvalidInput(
            "ledger URL: channel_binding=require cannot be kept on a connection that need not be encrypted:"
            " add sslmode=verify-full (or require)"
        )
    if unknown := sorted(query.keys() - _OPTIONS):
        raise InvalidInput(
            f"ledger URL: unknown option {unknown[0]!r}; PostgreSQL takes sslmode, channel_binding,"
            " target_session_attrs, host, port, pool_size, max_overflow and pool_timeout"
        )
    return DatabaseUrl(url.set(drivername="postgresql+asyncpg", query=query), None, pool=pool)


def _take_number(query: dict[str, str | tuple[str, ...]], name: str, default: int, *, least: int = 0) -> int:
    """Take an option that is a whole number out of a URL's options.

    Raises:
        InvalidInput: It is none, or too small.
    """
    text = str(query.pop(name, default))
    if not text.isdecimal() or int(text) < least:
        raise InvalidInput(f"ledger URL: {name}={text!r} is not a whole number of at least {least}")
    return int(text)
