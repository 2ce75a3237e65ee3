"""The schema's versions, on new, old, newer and foreign databases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, text

from prefect_video.errors import LedgerError, LedgerSchemaMismatch
from prefect_video.ledger import Ledger, migrations, schema
from prefect_video.ledger.claims import row_from_request
from prefect_video.ledger.database import Database
from prefect_video.ledger.latest_schema import STATEMENTS
from prefect_video.ledger.migrations import migration_config
from prefect_video.ledger.migrations.latest import describe_latest, describe_schema
from prefect_video.ledger.records import State
from prefect_video.ledger.tables import VERSION_TABLE, jobs_table, metadata
from prefect_video.ledger.urls import parse_database_url
from tests.support.records import a_request, an_asset, claim_one

pytestmark = pytest.mark.usefixtures("real_migrations")

NEEDS_NO_MIGRATION = schema._needs_no_migration


async def run(url: str, work: Callable[[Database], Awaitable[None]]) -> None:
    database = Database(parse_database_url(url))
    try:
        await work(database)
    finally:
        await database.close()


async def stamp(url: str, revision: str) -> None:
    async def work(database: Database) -> None:
        async with database.writing() as connection:
            await connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{revision}'"))

    await run(url, work)


def test_the_known_revisions_are_those_of_the_scripts() -> None:
    scripts = ScriptDirectory.from_config(migration_config()).walk_revisions()
    assert tuple(script.revision for script in scripts)[::-1] == schema.REVISIONS


def test_a_new_file_has_the_schema_that_the_migrations_make() -> None:
    command = "python -m prefect_video.ledger.migrations.latest"
    assert STATEMENTS.read_text(encoding="utf-8") == describe_latest(), f"write it anew: {command}"


async def test_a_new_file_is_at_the_latest_revision_without_alembic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_needs_no_migration", NEEDS_NO_MIGRATION)
    monkeypatch.setattr(migrations, "run_migrations", None)
    ledgers = [await Ledger.open(str(tmp_path / name)) for name in ("first.db", "second.db")]
    assert len({ledger.identity for ledger in ledgers}) == 2
    for ledger in ledgers:
        async with ledger._database.reading() as connection:
            assert await connection.run_sync(describe_schema) == describe_latest()
        await ledger.upgrade()
        await ledger.check()
        await ledger.aclose()


async def test_the_migrations_make_the_tables_that_the_code_uses(ledger: Ledger) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        return list(compare_metadata(context, metadata))

    async with ledger._database.reading() as connection:
        assert await connection.run_sync(differences) == []


async def test_an_empty_database_is_upgraded_on_request_only(url: str) -> None:
    with pytest.raises(LedgerSchemaMismatch, match=r"has no tables yet.*prefect-video ledger upgrade"):
        await Ledger.open(url, migrate=False)
    await run(url, schema.upgrade)
    async with await Ledger.open(url, migrate=False) as ledger:
        await ledger.check()


async def test_an_upgrade_keeps_the_rows(url: str) -> None:
    async def insert_row(database: Database) -> None:
        await schema.upgrade(database, schema.REVISIONS[0])
        row = row_from_request(a_request(), State.RESERVED, 1, None, an_asset().created_at)
        async with database.writing() as connection:
            await connection.execute(insert(jobs_table), [row])

    await run(url, insert_row)
    async with await Ledger.open(url, migrate=True) as ledger:
        (claim,) = (await ledger.claims.claim([a_request()])).claims
        assert claim.kind == "acquired"
        assert claim.job is not None
        await ledger.jobs.record_copy(claim.job.id, "tea", "shot-1", an_asset())
        await ledger.upgrade()
        await ledger.check()


async def test_an_older_ledger_is_refused_until_it_is_upgraded(
    ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9999"))
    message = r"at schema 0001.*needs 9999.*prefect-video ledger upgrade"
    with pytest.raises(LedgerSchemaMismatch, match=message):
        await Ledger.open(url, migrate=False)
    with pytest.raises(LedgerSchemaMismatch, match=message):
        await ledger.check()


async def test_a_new_sqlite_file_is_made_on_first_use(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "50% off" / "ledger.db"
    async with await Ledger.open(str(path)) as ledger:
        await ledger.check()
    assert path.exists()


async def test_postgresql_is_not_touched_without_permission(postgres_url: str) -> None:
    with pytest.raises(LedgerSchemaMismatch, match=r"has no tables yet.*prefect-video ledger upgrade"):
        await Ledger.open(postgres_url)
    async with await Ledger.open(postgres_url, migrate=True):
        pass
    async with await Ledger.open(postgres_url) as ledger:
        await ledger.check()


async def test_several_upgrades_at_once(url: str) -> None:
    opened = await asyncio.gather(*(Ledger.open(url, migrate=True) for _ in range(4)))
    assert len({ledger.owner_id for ledger in opened}) == 4
    for ledger in opened:
        await ledger.aclose()


async def test_a_newer_ledger_is_refused(ledger: Ledger, url: str) -> None:
    await stamp(url, "9999")
    for migrate in (True, False):
        with pytest.raises(LedgerSchemaMismatch, match=r"schema 9999.*install a newer prefect-video"):
            await Ledger.open(url, migrate=migrate)
    with pytest.raises(LedgerSchemaMismatch, match="9999"):
        await ledger.upgrade()
    with pytest.raises(LedgerSchemaMismatch, match="9999"):
        await ledger.check()


async def test_another_applications_alembic_is_left_alone(url: str) -> None:
    async def make(database: Database) -> None:
        async with database.writing() as connection:
            await connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
            await connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))

    await run(url, make)
    async with await Ledger.open(url, migrate=True) as ledger, ledger._database.reading() as connection:
        assert (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalars().all() == ["theirs"]


@pytest.mark.parametrize("change", ["UPDATE history SET detail = 'x'", "DELETE FROM history"])
async def test_history_cannot_be_changed(ledger: Ledger, change: str) -> None:
    job = await claim_one(ledger)
    with pytest.raises(LedgerError, match="append-only"):
        async with ledger._database.writing() as connection:
            await connection.execute(text(change))
    assert len(await ledger.jobs.history(job.id)) == 1


async def test_the_database_itself_refuses_a_second_row_in_progress(ledger: Ledger) -> None:
    await claim_one(ledger)
    row = row_from_request(a_request(), State.RESERVED, 1, None, an_asset().created_at)
    with pytest.raises(LedgerError, match="another process made first"):
        async with ledger._database.writing() as connection:
            await connection.execute(insert(jobs_table), [row])


async def test_several_new_ledgers_are_made_at_once_in_one_process(tmp_path: Path) -> None:
    opened = await asyncio.gather(*(Ledger.open(str(tmp_path / f"{n}.db")) for n in range(4)))
    for ledger in opened:
        await ledger.check()
        await ledger.aclose()
