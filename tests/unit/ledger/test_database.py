"""A ledger that cannot be used says so, before money is spent."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from prefect_video.errors import LedgerError, LedgerUnavailable
from prefect_video.ledger import Ledger
from tests.support.postgres import PostgresServer
from tests.support.records import a_request

NOBODY = 65534


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user whom file modes bind; root ignores them."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


async def refusal(url: str) -> str:
    with pytest.raises(LedgerUnavailable) as caught:
        async with await Ledger.open(url):
            pass
    return str(caught.value)


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"once upon a time " * 500)
    message = await refusal(str(path))
    assert str(path) in message
    assert "is not a ledger or is damaged" in message


async def test_a_damaged_database(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with await Ledger.open(str(path)) as ledger:
        await ledger.claims.claim([a_request(number) for number in range(200)])
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    assert "is not a ledger or is damaged" in await refusal(str(path))


async def test_a_locked_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    url = f"sqlite:///{path}?timeout=0.05"
    async with await Ledger.open(url) as ledger:
        with closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            with pytest.raises(LedgerUnavailable, match="is locked by another process") as caught:
                await ledger.claims.claim([a_request()])
            assert str(path) in str(caught.value)
            assert caught.value.retryable
            assert "is locked by another process" in await refusal(url)
            holder.execute("ROLLBACK")
        assert (await ledger.claims.claim([a_request()])).claims[0].kind == "acquired"


async def test_a_file_that_another_process_is_opening(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    lock = schema_lock(path)
    assert lock.acquire()
    assert "is being opened or upgraded by another process" in await refusal(f"sqlite:///{path}?timeout=0.05")
    lock.release()


def schema_lock(path: Path) -> Any:
    from prefect_video.ledger.leases import FileLock

    return FileLock(path.with_name(path.name + ".lock"))


async def test_a_read_only_file(public_folder: Path) -> None:
    path = public_folder / "ledger.db"
    async with await Ledger.open(str(path)):
        pass
    for file in public_folder.iterdir():
        file.chmod(0o444)
    public_folder.chmod(0o777)
    (public_folder / "ledger.db.lock").chmod(0o666)
    with unprivileged():
        assert "is read-only" in await refusal(str(path))


async def test_a_folder_that_may_not_be_written(public_folder: Path) -> None:
    public_folder.chmod(0o555)
    with unprivileged():
        message = await refusal(str(public_folder / "ledger.db"))
    assert "this user may write in it" in message


async def test_a_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = await refusal(str(tmp_path / "file" / "ledger.db"))
    assert "see that its folder exists" in message


async def test_a_full_disk(tmp_path: Path) -> None:
    async with await Ledger.open(str(tmp_path / "ledger.db")) as ledger:
        await ledger._database.engine.dispose()

        @event.listens_for(ledger._database.engine.sync_engine, "connect")
        def allow_no_growth(connection: Any, _job: Any) -> None:
            connection.execute("PRAGMA max_page_count = 1")

        with pytest.raises(LedgerUnavailable, match="the disk is full"):
            await ledger.claims.claim([a_request(number) for number in range(500)])
        assert await ledger.jobs.find() == []


async def test_a_server_that_is_not_there() -> None:
    message = await refusal("postgresql://me:s3cret@127.0.0.1:1/videos")
    assert "postgresql://me:***@127.0.0.1:1/videos cannot be reached" in message
    assert "s3cret" not in message


async def test_a_database_that_does_not_exist(postgres_url: str) -> None:
    path, _, query = postgres_url.partition("?")
    message = await refusal(f"{path}_not?{query}")
    assert "does not exist: create the database" in message


async def test_a_login_that_is_refused(postgres_url: str) -> None:
    url = postgres_url.replace("postgres:@", "stranger:s3cret@")
    message = await refusal(url)
    assert "refused the login" in message
    assert "s3cret" not in message


async def test_a_read_only_server(postgres_url: str) -> None:
    async with await Ledger.open(postgres_url, migrate=True) as ledger, ledger._database.writing() as connection:
        name = (await connection.execute(text("SELECT current_database()"))).scalar_one()
        await connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    assert "is read-only" in await refusal(postgres_url)


async def test_a_connection_that_is_cut(postgres_url: str, postgres_server: PostgresServer) -> None:
    async def cut_while_writing(ledger: Ledger) -> None:
        async with ledger._database.writing() as connection:
            pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            postgres_server.run(f"SELECT pg_terminate_backend({pid}, 5000)")
            await connection.execute(text("SELECT 1"))

    async with await Ledger.open(postgres_url, migrate=True) as ledger:
        with pytest.raises(LedgerUnavailable, match="closed the connection"):
            await cut_while_writing(ledger)
        assert (await ledger.claims.claim([a_request()])).claims[0].kind == "acquired"


async def test_a_ledger_without_its_tables(ledger: Ledger) -> None:
    async with ledger._database.writing() as connection:
        await connection.execute(text("DROP TABLE allowed_prompts"))
    with pytest.raises(LedgerError, match="prefect-video ledger upgrade"):
        await ledger.reviews.allowed(["v1:1"])


async def test_messages_hold_no_prompts(ledger: Ledger) -> None:
    secret = a_request(1, project="p" * 10)
    async with ledger._database.writing() as connection:
        await connection.execute(text("ALTER TABLE jobs RENAME TO gone"))
    with pytest.raises(LedgerError) as caught:
        await ledger.reviews.record_screened(secret, "screened")
    assert secret.shot.prompt not in f"{caught.value}{caught.value.__cause__}"
