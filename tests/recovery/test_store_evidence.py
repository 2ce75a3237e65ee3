"""What sidecars prove, and what those that lie, are cut or are of others do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from prefect_video.errors import LedgerBehindStore
from prefect_video.ledger import State
from prefect_video.pipeline.ledger_recovery import recover_ledger
from prefect_video.pipeline.project_run import run_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.session.session import Studio
from prefect_video.storage import open_store
from tests.recovery.test_old_ledgers import back_up, recover, restore
from tests.support.recovery import Workshop, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenWorkshop
from tests.support.s3_server import S3Server, serve_s3


def elsewhere(workshop: Workshop, name: str = "other.db") -> Workshop:
    """The same account and store with a ledger of its own."""
    return Workshop(workshop.emulator, workshop.folder, f"sqlite:///{workshop.folder / name}")


def sidecar(workshop: Workshop) -> Path:
    return workshop.videos[0].with_suffix(".json")


def sidecar_of_only(workshop: Workshop) -> Path:
    (found,) = (workshop.folder / "store" / "film").glob("*.json")
    return found


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


async def test_a_sidecar_names_the_ledger_and_its_row(workshop: Workshop) -> None:
    await workshop.run(a_shot())
    row = await workshop.row()
    async with workshop.ledger() as ledger:
        named = json.loads(sidecar(workshop).read_text())["ledger"]
        assert (named["id"], named["job"], named["environment"]) == (ledger.identity, row.id, "production")
    assert workshop.emulator.key not in sidecar(workshop).read_text()


async def test_a_warm_run_reads_nothing_of_the_store_and_a_cold_one_lists_once(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await workshop.run(film(a_shot(1), a_shot(2)))
    async with workshop.studio() as studio:
        calls: list[str] = []
        for name in ("files", "read_bytes"):
            monkeypatch.setattr(studio.store, name, counted(name, getattr(studio.store, name), calls))
        await run_project(studio, film(a_shot(1), a_shot(2)))
        assert calls == []
        await run_project(studio, film(a_shot(1), a_shot(2), a_shot(3)))
        assert calls == ["files"], "the sidecars of known rows are not read"


def counted(name: str, method: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        calls.append(name)
        return method(*arguments)

    return call


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_video_that_is_cut_or_missing_is_fetched_again_before_it_is_bought(
    workshop: Workshop, forgotten: bool
) -> None:
    await workshop.run(film(a_shot(1), a_shot(2)))
    whole = [video.read_bytes() for video in workshop.videos]
    cut, missing = workshop.videos
    cut.write_bytes(whole[0][:1000])
    missing.unlink()
    if forgotten:
        for row in await workshop.rows():
            match = {"generation_id": row.generation_id}
            workshop.emulator.add_fault(operation="retrieve", kind="not_found", times=None, match=match)
    other = elsewhere(workshop)
    report = await other.run(film(a_shot(1), a_shot(2)))
    assert statuses(report) == ["stored", "stored"]
    outcome = "made anew" if forgotten else "fetched again from emulator, free"
    assert [outcome in str(shot.repair) for shot in report.shots] == [True, True]
    assert workshop.paid == ((4, 4) if forgotten else (2, 2))
    if not forgotten:
        assert [video.read_bytes() for video in workshop.videos] == whole
        assert (report.cost_usd, [row.actual_usd for row in await other.rows()]) == (0, [0, 0])
        assert [shot.cached for shot in (await workshop.run(film(a_shot(1), a_shot(2)))).shots] == [True, True]
    assert [shot.cached for shot in (await other.run(film(a_shot(1), a_shot(2)))).shots] == [True, True]
    assert workshop.paid == ((4, 4) if forgotten else (2, 2))


async def test_a_video_of_another_account_that_is_missing_is_not_asked_for(workshop: Workshop) -> None:
    await workshop.run(a_shot())
    workshop.videos[0].unlink()
    change(sidecar_of_only(workshop), lambda content: content["ledger"].update(account="emulator:another"))
    report = await elsewhere(workshop).run(a_shot())
    assert (report.shots[0].repair, report.shots[0].cached) == (None, False)
    assert workshop.paid == (2, 2)


async def test_an_unreadable_sidecar_beside_a_video_is_no_licence_to_buy(workshop: Workshop) -> None:
    await workshop.run(a_shot())
    sidecar(workshop).write_text('{"uri": ')
    with pytest.raises(LedgerBehindStore, match=r"bears the shot's fingerprint.*cannot be read.*--refresh"):
        await elsewhere(workshop).run(a_shot())
    assert workshop.paid == (1, 1)
    assert (await workshop.run(a_shot())).shots[0].cached, "the ledger that knows it needs no sidecar"
    assert "cannot be read" in (await recover(elsewhere(workshop))).left[0].reason
    assert statuses(await elsewhere(workshop).run(a_shot(2))) == ["stored"], "another shot is another matter"


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda content: content.update(fingerprint="v1:" + "0" * 64), id="fingerprint"),
        pytest.param(lambda content: content.update(ledger={"id": 7}), id="ledger"),
        pytest.param(lambda content: content.update(ledger=[]), id="list"),
    ],
)
async def test_a_sidecar_that_belies_its_name_is_not_believed(
    workshop: Workshop, edit: Callable[[dict[str, Any]], object]
) -> None:
    await workshop.run(a_shot())
    change(sidecar(workshop), edit)
    with pytest.raises(LedgerBehindStore):
        await elsewhere(workshop).run(a_shot())
    assert workshop.paid == (1, 1)


async def test_a_cost_that_no_video_has_is_not_booked(workshop: Workshop) -> None:
    await workshop.run(a_shot())
    change(sidecar(workshop), lambda content: content.update(cost_usd="-5000000") or content.pop("ledger"))
    other = elsewhere(workshop)
    assert (await other.run(a_shot())).shots[0].cached
    assert (await other.row()).actual_usd is None


async def test_a_sidecar_with_anothers_job_does_not_move_its_row(workshop: Workshop) -> None:
    other = elsewhere(workshop)
    await other.interrupt(a_shot(2), "claimed")
    reserved = await other.row()
    await workshop.run(a_shot(1))
    change(sidecar(workshop), lambda content: content["ledger"].update(job=reserved.id))
    assert statuses(await other.run(film(a_shot(1)))) == ["stored"]
    async with other.ledger() as ledger:
        assert (await ledger.get(reserved.id)).state is State.RESERVED


async def test_a_video_of_another_environment_is_not_adopted(workshop: Workshop) -> None:
    await workshop.run(a_shot(), environment="staging")
    assert not (await elsewhere(workshop).run(a_shot())).shots[0].cached
    assert workshop.paid == (2, 2)


async def test_a_refresh_buys_although_the_store_has_it(workshop: Workshop) -> None:
    await workshop.run(a_shot())
    async with elsewhere(workshop).studio() as studio:
        report = await run_project(studio, film(a_shot()), refresh=True)
    assert not report.shots[0].cached
    assert workshop.paid == (2, 2)


async def test_a_sidecar_without_its_video_still_proves_the_payment(workshop: Workshop) -> None:
    path = Path(workshop.ledger_url.removeprefix("sqlite:///"))
    async with workshop.ledger():
        pass
    back_up(path, path.with_name("backup.db"))
    await workshop.run(a_shot())
    workshop.videos[0].unlink()
    restore(path.with_name("backup.db"), path)
    with pytest.raises(LedgerBehindStore):
        await workshop.run(a_shot())
    assert [job.outcome for job in (await recover(workshop)).jobs] == ["submitted"]
    await workshop.collect(wait=True)
    assert (await workshop.run(a_shot())).shots[0].cached
    assert workshop.paid == (1, 1)


async def test_two_ledgers_share_a_store_and_each_keeps_its_own_spending(workshop: Workshop) -> None:
    other = elsewhere(workshop)
    await workshop.run(film(a_shot(1)))
    await other.run(film(a_shot(2)))
    for one in (workshop, other):
        report = await one.run(film(a_shot(1), a_shot(2)))
        assert [shot.cached for shot in report.shots] == [True, True]
        async with one.ledger() as ledger:
            (line,) = await ledger.spend(by="month")
            assert (line.stored, line.spent_usd > 0) == (2, True)
        assert sorted(row.actual_usd == 0 for row in await one.rows()) == [False, True]
    assert workshop.paid == (2, 2)


async def test_a_new_ledger_takes_over_from_one_that_is_lost_for_good(workshop: Workshop) -> None:
    await workshop.run(film(a_shot(1), a_shot(2)))
    async with workshop.ledger() as ledger:
        lost, (line,) = ledger.identity, await ledger.spend(by="month")
    other = elsewhere(workshop)
    report = await recover(other)
    assert {job.outcome for job in report.jobs} == {"left"}
    assert f"--lost-ledger {lost}" in report.jobs[0].reason
    assert await other.rows() == []
    report = await recover(other, lost_ledgers=[lost])
    assert [job.outcome for job in report.jobs] == ["stored", "stored"]
    async with other.ledger() as ledger:
        assert [one.spent_usd for one in await ledger.spend(by="month")] == [line.spent_usd]
    assert [shot.cached for shot in (await other.run(film(a_shot(1), a_shot(2)))).shots] == [True, True]
    assert workshop.paid == (2, 2)


async def test_a_store_that_was_moved_is_adopted_where_it_lies(workshop: Workshop, tmp_path: Path) -> None:
    await workshop.run(a_shot())
    moved = Workshop(workshop.emulator, tmp_path / "moved", f"sqlite:///{tmp_path / 'moved.db'}")
    shutil.move(workshop.folder / "store", moved.folder / "store")
    report = await moved.run(a_shot())
    assert report.shots[0].cached
    assert str(report.shots[0].uri) == moved.videos[0].as_uri()
    assert workshop.paid == (1, 1)


async def test_what_older_versions_have_stored_is_adopted_and_its_cost_counted(workshop: Workshop) -> None:
    await workshop.run(a_shot())
    paid = (await workshop.row()).actual_usd
    change(sidecar(workshop), lambda content: content.pop("ledger"))
    other = elsewhere(workshop)
    assert [job.outcome for job in (await recover(other)).jobs] == ["stored"]
    assert (await other.row()).actual_usd == paid
    assert (await other.run(a_shot())).shots[0].cached
    assert workshop.paid == (1, 1)


async def test_copies_are_of_the_row_that_they_were_copied_from(workshop: Workshop) -> None:
    path = Path(workshop.ledger_url.removeprefix("sqlite:///"))
    async with workshop.ledger():
        pass
    back_up(path, path.with_name("backup.db"))
    await workshop.run(film(a_shot(1), name="first"))
    await workshop.run(film(a_shot(1, id="same"), name="second"))
    before = await workshop.row()
    restore(path.with_name("backup.db"), path)
    with pytest.raises(LedgerBehindStore):
        await workshop.run(film(a_shot(1, id="same"), name="second"))
    await recover(workshop)
    after = await workshop.row()
    assert (after.id, after.project, after.asset) == (before.id, "first", before.asset)
    assert (await workshop.run(film(a_shot(1, id="same"), name="second"))).shots[0].cached
    assert workshop.paid == (1, 1)


@pytest.mark.parametrize("echo_metadata", [True, False], ids=["echo", "no echo"])
async def test_generations_of_others_are_not_taken(open_workshop: OpenWorkshop, echo_metadata: bool) -> None:
    workshop = open_workshop(echo_metadata=echo_metadata)
    await workshop.run(a_shot())
    shutil.rmtree(workshop.folder / "store")
    other = elsewhere(workshop)
    report = await recover(other)
    assert await other.rows() == []
    if echo_metadata:
        assert ["has sent it" in job.reason for job in report.jobs] == [True]
    else:
        assert (report.jobs, list(report.unlabelled.values())) == ((), [1])


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@asynccontextmanager
async def on_s3(workshop: Workshop, s3: S3Server, url: str) -> AsyncIterator[Studio]:
    async with workshop.studio() as studio:
        studio.store_name, studio.store = url, open_store(url, options=s3.options)
        yield studio


async def test_on_s3_an_old_backup_is_noticed_and_recovered(workshop: Workshop, s3: S3Server) -> None:
    url = f"{s3.make_bucket('films')}/ads"
    path = Path(workshop.ledger_url.removeprefix("sqlite:///"))

    async def run(one: Workshop) -> ProjectReport:
        async with on_s3(one, s3, url) as studio:
            return await run_project(studio, film(a_shot(1), a_shot(2)))

    async with workshop.ledger():
        pass
    back_up(path, path.with_name("backup.db"))
    assert statuses(await run(workshop)) == ["stored", "stored"]
    restore(path.with_name("backup.db"), path)
    with pytest.raises(LedgerBehindStore):
        await run(workshop)
    async with on_s3(workshop, s3, url) as studio:
        assert [job.outcome for job in (await recover_ledger(studio)).jobs] == ["stored", "stored"]
        assert (await recover_ledger(studio)).jobs == ()
    assert [shot.cached for shot in (await run(workshop)).shots] == [True, True]
    assert [shot.cached for shot in (await run(elsewhere(workshop))).shots] == [True, True]
    assert sum((row.actual_usd or Decimal(0) for row in await workshop.rows()), Decimal(0)) > 0
    assert workshop.paid == (2, 2)
