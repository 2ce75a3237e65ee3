"""A ledger that is old, moved or gone: by the provider's usage records, what was paid is not paid again."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from prefect_video.errors import LedgerBehindStore, LedgerFileUnsafe
from prefect_video.ledger import Job, Ledger, State
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.ledger_recovery import Recovery, recover_ledger
from prefect_video.pipeline.steps import submit
from prefect_video.projects import Project
from prefect_video.session import SessionEvent
from tests.support.postgres import PostgresServer
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import SLOW, OpenHarness


def back_up(path: Path, copy: Path) -> None:
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()


def restore(copy: Path, path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(copy, path)


@dataclass
class Backup:
    """A backup of a harness's ledger, on either database."""

    harness: RecoveryHarness
    server: PostgresServer | None = None

    def take(self) -> None:
        if self.server is None:
            back_up(self.path, self.harness.folder / "backup.db")
        else:
            self.server.run(f"CREATE DATABASE {self.name}_backup TEMPLATE {self.name}")

    def restore(self) -> None:
        if self.server is None:
            restore(self.harness.folder / "backup.db", self.path)
        else:
            self.server.run(f"DROP DATABASE {self.name}")
            self.server.run(f"CREATE DATABASE {self.name} TEMPLATE {self.name}_backup")

    @property
    def path(self) -> Path:
        return Path(self.harness.ledger_url.removeprefix("sqlite:///"))

    @property
    def name(self) -> str:
        return self.harness.ledger_url.partition("?")[0].rpartition("/")[2]


@pytest.fixture(params=["sqlite", "postgresql"])
async def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A ledger's URL on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    url = str(request.getfixturevalue("postgres_url"))
    async with await Ledger.open(url, migrate=True):
        pass
    return url


def backup_of(harness: RecoveryHarness, request: pytest.FixtureRequest) -> Backup:
    is_sqlite = harness.ledger_url.startswith("sqlite")
    return Backup(harness, None if is_sqlite else request.getfixturevalue("postgres_server"))


async def recover(harness: RecoveryHarness, **options: object) -> Recovery:
    async with harness.session() as session:
        return await recover_ledger(session, **options)  # type: ignore[arg-type]


def five(count: int) -> Project:
    return film(*(a_shot(number) for number in range(1, count + 1)))


async def spent(harness: RecoveryHarness) -> Decimal:
    async with harness.ledger() as ledger:
        return sum((line.spent_usd for line in await ledger.spend.report(by="month")), Decimal(0))


async def test_a_restored_backup_refuses_to_spend_until_it_is_recovered(
    open_harness: OpenHarness, ledger_url: str, request: pytest.FixtureRequest
) -> None:
    harness = open_harness(ledger_url)
    backup = backup_of(harness, request)
    await harness.run(five(1))
    backup.take()
    await harness.run(five(3))
    before = await spent(harness)
    backup.restore()

    with pytest.raises(
        LedgerBehindStore, match=r"old backup.*ledger recover --store \S+ --ledger \S+ --provider emulator"
    ):
        await harness.run(five(3))
    with pytest.raises(LedgerBehindStore):
        await harness.run(film(a_shot(9)))
    assert harness.paid == (3, 3)

    planned = await recover(harness, dry_run=True)
    assert [job.outcome for job in planned.jobs] == ["stored", "stored"]
    assert len(await harness.rows()) == 1
    done = await recover(harness)
    assert done.jobs == planned.jobs
    assert (await recover(harness)).jobs == ()
    assert await spent(harness) == before

    report = await harness.run(five(4))
    assert [shot.cached for shot in report.shots] == [True, True, True, False]
    assert harness.paid == (4, 4)


async def test_what_is_at_the_provider_is_recovered_by_its_key(
    open_harness: OpenHarness, ledger_url: str, request: pytest.FixtureRequest
) -> None:
    harness = open_harness(ledger_url, **SLOW)
    backup = backup_of(harness, request)
    async with harness.ledger():
        pass
    backup.take()
    async with harness.session() as session:
        report = await run_project(session, film(a_shot(1, takes=2), a_shot(2)), wait=False)
    assert statuses(report) == ["in_flight"] * 3
    backup.restore()

    done = await recover(harness)
    assert [job.outcome for job in done.jobs] == ["submitted"] * 3
    assert (await recover(harness)).jobs == ()
    harness.emulator.change_speed(500)
    await harness.collect(wait=True)
    report = await harness.run(film(a_shot(1, takes=2), a_shot(2)))
    assert [(shot.status, shot.cached) for shot in report.shots] == [("stored", True)] * 3
    assert harness.paid == (3, 3)


async def test_a_row_that_was_only_reserved_in_the_backup_is_recovered(
    open_harness: OpenHarness, ledger_url: str, request: pytest.FixtureRequest
) -> None:
    harness = open_harness(ledger_url)
    backup = backup_of(harness, request)
    await harness.interrupt(a_shot(1), "claimed")
    assert (await harness.row()).state is State.RESERVED
    backup.take()
    assert statuses(await harness.run(a_shot(1))) == ["stored"]
    backup.restore()
    with pytest.raises(LedgerBehindStore):
        await harness.run(a_shot(1))
    async with harness.session() as session:
        # As the job API's service does with what it finds when it starts.
        taken = await session.ledger.claims.take_over((await harness.row()).id)
        assert taken is not None
        with pytest.raises(LedgerBehindStore, match="shows that it was paid"):
            await submit(session, taken)
    assert [job.outcome for job in (await recover(harness)).jobs] == ["stored"]
    assert (await harness.row()).state is State.STORED
    assert (await harness.run(a_shot(1))).shots[0].cached
    assert harness.paid == (1, 1)


async def test_a_ledger_deleted_under_a_running_process_buys_nothing_more(open_harness: OpenHarness) -> None:
    """The first process has sent one of two; another one then works with the new file."""
    harness = open_harness(**SLOW)
    path = Path(harness.ledger_url.removeprefix("sqlite:///"))
    sent = asyncio.Event()

    def observer(event: SessionEvent, job: Job) -> None:
        if event is SessionEvent.SUBMITTED:
            sent.set()

    first = asyncio.create_task(harness.run(five(2), observer=observer, max_in_flight=1))
    await sent.wait()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    harness.emulator.change_speed(500)
    report = await first
    assert statuses(report) == ["failed", "failed"]
    errors = [str(shot.error) for shot in report.shots]
    assert all("was deleted or moved away" in error and "prefect-video ledger recover" in error for error in errors)
    assert all("--provider emulator" in error for error in errors)
    assert harness.paid == (1, 1)

    report = await harness.run(five(2))
    assert [shot.cached for shot in report.shots] == [True, False]
    assert harness.paid == (2, 2)


async def test_a_ledger_that_is_moved_away_and_back_goes_on(harness: RecoveryHarness) -> None:
    path = Path(harness.ledger_url.removeprefix("sqlite:///"))
    async with harness.session() as session:
        await run_project(session, five(1))
        path.rename(path.with_name("moved.db"))
        with pytest.raises(LedgerFileUnsafe, match="deleted or moved"):
            await run_project(session, five(2))
        assert not path.exists()
        path.with_name("other.db").touch()
        path.with_name("other.db").rename(path)
        with pytest.raises(LedgerFileUnsafe, match="replaced by another file"):
            await run_project(session, five(2))
        path.with_name("moved.db").rename(path)
        assert statuses(await run_project(session, five(2))) == ["stored", "stored"]
    assert harness.paid == (2, 2)


async def test_a_ledger_with_two_names_is_not_opened(harness: RecoveryHarness) -> None:
    path = Path(harness.ledger_url.removeprefix("sqlite:///"))
    await harness.run(five(1))
    os.link(path, path.with_name("second.db"))
    for url in (harness.ledger_url, f"sqlite:///{path.with_name('second.db')}"):
        with pytest.raises(LedgerFileUnsafe, match=r"has 2 names.*hard links"):
            await Ledger.open(url)
    path.with_name("second.db").unlink()
    assert statuses(await harness.run(five(2))) == ["stored", "stored"]
    assert harness.paid == (2, 2)


async def test_a_second_name_that_appears_while_running_stops_the_spending(harness: RecoveryHarness) -> None:
    path = Path(harness.ledger_url.removeprefix("sqlite:///"))

    def observer(event: SessionEvent, job: Job) -> None:
        if event is SessionEvent.CLAIMED and not path.with_name("second.db").exists():
            os.link(path, path.with_name("second.db"))

    report = await harness.run(five(2), observer=observer)
    assert statuses(report) == ["failed", "failed"]
    assert harness.paid == (0, 0)


async def test_a_symbolic_link_is_followed_and_must_not_be_turned(harness: RecoveryHarness) -> None:
    path = Path(harness.ledger_url.removeprefix("sqlite:///"))
    link = path.with_name("link.db")
    await harness.run(five(1))
    link.symlink_to(path)
    linked = RecoveryHarness(harness.emulator, harness.folder, f"sqlite:///{link}")
    assert (await linked.run(five(1))).shots[0].cached
    async with linked.session() as session:
        back_up(path, path.with_name("copy.db"))
        link.unlink()
        link.symlink_to(path.with_name("copy.db"))
        with pytest.raises(LedgerFileUnsafe, match="replaced"):
            await run_project(session, five(2))
    assert harness.paid == (1, 1)


async def test_a_deployment_without_its_ledger_buys_nothing_twice(
    open_harness: OpenHarness, ledger_url: str, tmp_path: Path
) -> None:
    harness = open_harness(ledger_url)
    elsewhere = RecoveryHarness(harness.emulator, harness.folder, f"sqlite:///{tmp_path / 'worker.db'}")
    await harness.run(five(2))
    report = await elsewhere.run(five(2))
    assert [(shot.status, shot.cached) for shot in report.shots] == [("stored", True)] * 2
    assert (await spent(elsewhere), await spent(harness) > 0) == (0, True)
    assert statuses(await elsewhere.run(five(3))) == ["stored"] * 3
    assert (await harness.run(five(3))).shots[2].cached
    assert harness.paid == (3, 3)
