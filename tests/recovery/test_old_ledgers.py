"""A ledger that is old, moved or gone: by the provider's books, what was paid is not paid again."""

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
from prefect_video.ledger import Entry, Ledger, State
from prefect_video.pipeline.ledger_recovery import Recovery, recover_ledger
from prefect_video.pipeline.project_run import run_project
from prefect_video.pipeline.steps import submit
from prefect_video.session.session import SessionEvent
from prefect_video.shots import Project
from tests.support.postgres import PostgresServer
from tests.support.recovery import Workshop, a_shot, film, statuses
from tests.support.recovery_fixtures import SLOW, OpenWorkshop


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
    """A backup of a workshop's ledger, on either database."""

    workshop: Workshop
    server: PostgresServer | None = None

    def take(self) -> None:
        if self.server is None:
            back_up(self.path, self.workshop.folder / "backup.db")
        else:
            self.server.run(f"CREATE DATABASE {self.name}_backup TEMPLATE {self.name}")

    def restore(self) -> None:
        if self.server is None:
            restore(self.workshop.folder / "backup.db", self.path)
        else:
            self.server.run(f"DROP DATABASE {self.name}")
            self.server.run(f"CREATE DATABASE {self.name} TEMPLATE {self.name}_backup")

    @property
    def path(self) -> Path:
        return Path(self.workshop.ledger_url.removeprefix("sqlite:///"))

    @property
    def name(self) -> str:
        return self.workshop.ledger_url.partition("?")[0].rpartition("/")[2]


@pytest.fixture(params=["sqlite", "postgresql"])
async def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A ledger's URL on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    url = str(request.getfixturevalue("postgres_url"))
    async with await Ledger.open(url, migrate=True):
        pass
    return url


def backup_of(workshop: Workshop, request: pytest.FixtureRequest) -> Backup:
    is_sqlite = workshop.ledger_url.startswith("sqlite")
    return Backup(workshop, None if is_sqlite else request.getfixturevalue("postgres_server"))


async def recover(workshop: Workshop, **options: object) -> Recovery:
    async with workshop.studio() as studio:
        return await recover_ledger(studio, **options)  # type: ignore[arg-type]


def five(count: int) -> Project:
    return film(*(a_shot(number) for number in range(1, count + 1)))


async def spent(workshop: Workshop) -> Decimal:
    async with workshop.ledger() as ledger:
        return sum((line.spent_usd for line in await ledger.spend(by="month")), Decimal(0))


async def test_a_restored_backup_refuses_to_spend_until_it_is_recovered(
    open_workshop: OpenWorkshop, ledger_url: str, request: pytest.FixtureRequest
) -> None:
    workshop = open_workshop(ledger_url)
    backup = backup_of(workshop, request)
    await workshop.run(five(1))
    backup.take()
    await workshop.run(five(3))
    before = await spent(workshop)
    backup.restore()

    with pytest.raises(LedgerBehindStore, match=r"old backup.*prefect-video ledger recover --store \S+ --ledger"):
        await workshop.run(five(3))
    with pytest.raises(LedgerBehindStore):
        await workshop.run(film(a_shot(9)))
    assert workshop.paid == (3, 3)

    planned = await recover(workshop, dry_run=True)
    assert [job.outcome for job in planned.jobs] == ["stored", "stored"]
    assert len(await workshop.rows()) == 1
    done = await recover(workshop)
    assert done.jobs == planned.jobs
    assert (await recover(workshop)).jobs == ()
    assert await spent(workshop) == before

    report = await workshop.run(five(4))
    assert [shot.cached for shot in report.shots] == [True, True, True, False]
    assert workshop.paid == (4, 4)


async def test_what_is_at_the_provider_is_recovered_by_its_key(
    open_workshop: OpenWorkshop, ledger_url: str, request: pytest.FixtureRequest
) -> None:
    workshop = open_workshop(ledger_url, **SLOW)
    backup = backup_of(workshop, request)
    async with workshop.ledger():
        pass
    backup.take()
    async with workshop.studio() as studio:
        report = await run_project(studio, film(a_shot(1, takes=2), a_shot(2)), wait=False)
    assert statuses(report) == ["in_flight"] * 3
    backup.restore()

    done = await recover(workshop)
    assert [job.outcome for job in done.jobs] == ["submitted"] * 3
    assert (await recover(workshop)).jobs == ()
    workshop.emulator.change_speed(500)
    await workshop.collect(wait=True)
    report = await workshop.run(film(a_shot(1, takes=2), a_shot(2)))
    assert [(shot.status, shot.cached) for shot in report.shots] == [("stored", True)] * 3
    assert workshop.paid == (3, 3)


async def test_a_row_that_was_only_reserved_in_the_backup_is_recovered(
    open_workshop: OpenWorkshop, ledger_url: str, request: pytest.FixtureRequest
) -> None:
    workshop = open_workshop(ledger_url)
    backup = backup_of(workshop, request)
    await workshop.interrupt(a_shot(1), "claimed")
    assert (await workshop.row()).state is State.RESERVED
    backup.take()
    assert statuses(await workshop.run(a_shot(1))) == ["stored"]
    backup.restore()
    with pytest.raises(LedgerBehindStore):
        await workshop.run(a_shot(1))
    async with workshop.studio() as studio:
        # As the job API's service does with what it finds when it starts.
        taken = await studio.ledger.take_over((await workshop.row()).id)
        assert taken is not None
        with pytest.raises(LedgerBehindStore, match="shows that it was paid"):
            await submit(studio, taken)
    assert [job.outcome for job in (await recover(workshop)).jobs] == ["stored"]
    assert (await workshop.row()).state is State.STORED
    assert (await workshop.run(a_shot(1))).shots[0].cached
    assert workshop.paid == (1, 1)


async def test_a_ledger_deleted_under_a_running_process_buys_nothing_more(open_workshop: OpenWorkshop) -> None:
    """The first process has sent one of two; another one then works with the new file."""
    workshop = open_workshop(**SLOW)
    path = Path(workshop.ledger_url.removeprefix("sqlite:///"))
    sent = asyncio.Event()

    def observer(event: SessionEvent, entry: Entry) -> None:
        if event is SessionEvent.SUBMITTED:
            sent.set()

    first = asyncio.create_task(workshop.run(five(2), observer=observer, max_in_flight=1))
    await sent.wait()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    workshop.emulator.change_speed(500)
    report = await first
    assert statuses(report) == ["failed", "failed"]
    errors = [str(shot.error) for shot in report.shots]
    assert all("was deleted or moved away" in error and "prefect-video ledger recover" in error for error in errors)
    assert workshop.paid == (1, 1)

    report = await workshop.run(five(2))
    assert [shot.cached for shot in report.shots] == [True, False]
    assert workshop.paid == (2, 2)


async def test_a_ledger_that_is_moved_away_and_back_goes_on(workshop: Workshop) -> None:
    path = Path(workshop.ledger_url.removeprefix("sqlite:///"))
    async with workshop.studio() as studio:
        await run_project(studio, five(1))
        path.rename(path.with_name("moved.db"))
        with pytest.raises(LedgerFileUnsafe, match="deleted or moved"):
            await run_project(studio, five(2))
        assert not path.exists()
        path.with_name("other.db").touch()
        path.with_name("other.db").rename(path)
        with pytest.raises(LedgerFileUnsafe, match="replaced by another file"):
            await run_project(studio, five(2))
        path.with_name("moved.db").rename(path)
        assert statuses(await run_project(studio, five(2))) == ["stored", "stored"]
    assert workshop.paid == (2, 2)


async def test_a_ledger_with_two_names_is_not_opened(workshop: Workshop) -> None:
    path = Path(workshop.ledger_url.removeprefix("sqlite:///"))
    await workshop.run(five(1))
    os.link(path, path.with_name("second.db"))
    for url in (workshop.ledger_url, f"sqlite:///{path.with_name('second.db')}"):
        with pytest.raises(LedgerFileUnsafe, match=r"has 2 names.*hard links"):
            await Ledger.open(url)
    path.with_name("second.db").unlink()
    assert statuses(await workshop.run(five(2))) == ["stored", "stored"]
    assert workshop.paid == (2, 2)


async def test_a_second_name_that_appears_while_running_stops_the_spending(workshop: Workshop) -> None:
    path = Path(workshop.ledger_url.removeprefix("sqlite:///"))

    def observer(event: SessionEvent, entry: Entry) -> None:
        if event is SessionEvent.CLAIMED and not path.with_name("second.db").exists():
            os.link(path, path.with_name("second.db"))

    report = await workshop.run(five(2), observer=observer)
    assert statuses(report) == ["failed", "failed"]
    assert workshop.paid == (0, 0)


async def test_a_symbolic_link_is_followed_and_must_not_be_turned(workshop: Workshop) -> None:
    path = Path(workshop.ledger_url.removeprefix("sqlite:///"))
    link = path.with_name("link.db")
    await workshop.run(five(1))
    link.symlink_to(path)
    linked = Workshop(workshop.emulator, workshop.folder, f"sqlite:///{link}")
    assert (await linked.run(five(1))).shots[0].cached
    async with linked.studio() as studio:
        back_up(path, path.with_name("copy.db"))
        link.unlink()
        link.symlink_to(path.with_name("copy.db"))
        with pytest.raises(LedgerFileUnsafe, match="replaced"):
            await run_project(studio, five(2))
    assert workshop.paid == (1, 1)


async def test_a_deployment_without_its_ledger_buys_nothing_twice(
    open_workshop: OpenWorkshop, ledger_url: str, tmp_path: Path
) -> None:
    workshop = open_workshop(ledger_url)
    elsewhere = Workshop(workshop.emulator, workshop.folder, f"sqlite:///{tmp_path / 'worker.db'}")
    await workshop.run(five(2))
    report = await elsewhere.run(five(2))
    assert [(shot.status, shot.cached) for shot in report.shots] == [("stored", True)] * 2
    assert (await spent(elsewhere), await spent(workshop) > 0) == (0, True)
    assert statuses(await elsewhere.run(five(3))) == ["stored"] * 3
    assert (await workshop.run(five(3))).shots[2].cached
    assert workshop.paid == (3, 3)
