"""What sidecars prove, and what those that lie, are cut or are of others do not."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from prefect_video.errors import LedgerBehindStore
from prefect_video.ledger import State
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.ledger_recovery import recover_ledger
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.pipeline.steps.accept import accept_rejected
from prefect_video.pipeline.verification import verify_store
from prefect_video.session import Session
from prefect_video.storage import open_store
from prefect_video.storage.marker import STORE_MARKER
from tests.recovery.test_old_ledgers import back_up, recover, restore
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenHarness
from tests.support.s3_server import S3Server, serve_s3


def elsewhere(harness: RecoveryHarness, name: str = "other.db") -> RecoveryHarness:
    """The same account and store with a ledger of its own."""
    return RecoveryHarness(harness.emulator, harness.folder, f"sqlite:///{harness.folder / name}")


def sidecar(harness: RecoveryHarness) -> Path:
    return harness.videos[0].with_suffix(".json")


def sidecar_of_only(harness: RecoveryHarness) -> Path:
    (found,) = (harness.folder / "store" / "film").glob("*.json")
    return found


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


async def test_a_sidecar_names_the_ledger_and_its_row(harness: RecoveryHarness) -> None:
    await harness.run(a_shot())
    job = await harness.row()
    async with harness.ledger() as ledger:
        named = json.loads(sidecar(harness).read_text())["ledger"]
        assert (named["id"], named["job"], named["environment"]) == (ledger.identity, job.id, "production")
    assert harness.emulator.key not in sidecar(harness).read_text()


async def test_a_warm_run_reads_nothing_of_the_store_and_a_cold_one_lists_once(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.run(film(a_shot(1), a_shot(2)))
    async with harness.session() as session:
        calls: list[str] = []
        for name in ("files", "read_bytes"):
            monkeypatch.setattr(session.store, name, counted(name, getattr(session.store, name), calls))
        await run_project(session, film(a_shot(1), a_shot(2)))
        assert calls == []
        await run_project(session, film(a_shot(1), a_shot(2), a_shot(3)))
        assert calls == ["files"], "the sidecars of known rows are not read"


def counted(name: str, method: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        calls.append(name)
        return method(*arguments)

    return call


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_video_that_is_cut_or_missing_is_fetched_again_before_it_is_bought(
    harness: RecoveryHarness, forgotten: bool
) -> None:
    await harness.run(film(a_shot(1), a_shot(2)))
    whole = [video.read_bytes() for video in harness.videos]
    cut, missing = harness.videos
    cut.write_bytes(whole[0][:1000])
    missing.unlink()
    if forgotten:
        for job in await harness.rows():
            match = {"generation_id": job.generation_id}
            harness.emulator.add_fault(operation="retrieve", kind="not_found", times=None, match=match)
    other = elsewhere(harness)
    report = await other.run(film(a_shot(1), a_shot(2)))
    assert statuses(report) == ["stored", "stored"]
    outcome = "made anew" if forgotten else "fetched again from emulator, free"
    assert [outcome in str(shot.repair) for shot in report.shots] == [True, True]
    assert harness.paid == ((4, 4) if forgotten else (2, 2))
    if not forgotten:
        assert [video.read_bytes() for video in harness.videos] == whole
        assert (report.cost_usd, [job.actual_usd for job in await other.rows()]) == (0, [0, 0])
        assert [shot.cached for shot in (await harness.run(film(a_shot(1), a_shot(2)))).shots] == [True, True]
    assert [shot.cached for shot in (await other.run(film(a_shot(1), a_shot(2)))).shots] == [True, True]
    assert harness.paid == ((4, 4) if forgotten else (2, 2))


async def test_a_video_of_another_account_that_is_missing_is_not_asked_for(harness: RecoveryHarness) -> None:
    await harness.run(a_shot())
    harness.videos[0].unlink()
    # Another account has another key: of the same key it would be this one under a former name.
    others = {"account": "emulator:another", "key_fingerprint": "0" * 16}
    change(sidecar_of_only(harness), lambda content: content["ledger"].update(others))
    report = await elsewhere(harness).run(a_shot())
    assert (report.shots[0].repair, report.shots[0].cached) == (None, False)
    assert harness.paid == (2, 2)


async def test_an_unreadable_sidecar_beside_a_video_is_no_licence_to_buy(harness: RecoveryHarness) -> None:
    await harness.run(a_shot())
    sidecar(harness).write_text('{"uri": ')
    with pytest.raises(LedgerBehindStore, match=r"bears the shot's fingerprint.*cannot be read.*--refresh"):
        await elsewhere(harness).run(a_shot())
    assert harness.paid == (1, 1)
    assert (await harness.run(a_shot())).shots[0].cached, "the ledger that knows it needs no sidecar"
    assert "cannot be read" in (await recover(elsewhere(harness))).left[0].reason
    assert statuses(await elsewhere(harness).run(a_shot(2))) == ["stored"], "another shot is another matter"


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda content: content.update(fingerprint="v1:" + "0" * 64), id="fingerprint"),
        pytest.param(lambda content: content.update(ledger={"id": 7}), id="ledger"),
        pytest.param(lambda content: content.update(ledger=[]), id="list"),
    ],
)
async def test_a_sidecar_that_belies_its_name_is_not_believed(
    harness: RecoveryHarness, edit: Callable[[dict[str, Any]], object]
) -> None:
    await harness.run(a_shot())
    change(sidecar(harness), edit)
    with pytest.raises(LedgerBehindStore):
        await elsewhere(harness).run(a_shot())
    assert harness.paid == (1, 1)


async def test_a_cost_that_no_video_has_is_not_booked(harness: RecoveryHarness) -> None:
    await harness.run(a_shot())
    change(sidecar(harness), lambda content: content.update(cost_usd="-5000000") or content.pop("ledger"))
    other = elsewhere(harness)
    assert (await other.run(a_shot())).shots[0].cached
    assert (await other.row()).actual_usd is None


async def test_a_sidecar_with_anothers_job_does_not_move_its_row(harness: RecoveryHarness) -> None:
    other = elsewhere(harness)
    await other.interrupt(a_shot(2), "claimed")
    reserved = await other.row()
    await harness.run(a_shot(1))
    change(sidecar(harness), lambda content: content["ledger"].update(job=reserved.id))
    assert statuses(await other.run(film(a_shot(1)))) == ["stored"]
    async with other.ledger() as ledger:
        assert (await ledger.jobs.get(reserved.id)).state is State.RESERVED


async def test_a_video_of_another_environment_is_not_adopted(harness: RecoveryHarness) -> None:
    await harness.run(a_shot(), environment="staging")
    assert not (await elsewhere(harness).run(a_shot())).shots[0].cached
    assert harness.paid == (2, 2)


async def test_a_refresh_buys_although_the_store_has_it(harness: RecoveryHarness) -> None:
    await harness.run(a_shot())
    async with elsewhere(harness).session() as session:
        report = await run_project(session, film(a_shot()), refresh=True)
    assert not report.shots[0].cached
    assert harness.paid == (2, 2)


async def test_a_sidecar_without_its_video_still_proves_the_payment(harness: RecoveryHarness) -> None:
    path = Path(harness.ledger_url.removeprefix("sqlite:///"))
    async with harness.ledger():
        pass
    back_up(path, path.with_name("backup.db"))
    await harness.run(a_shot())
    harness.videos[0].unlink()
    restore(path.with_name("backup.db"), path)
    with pytest.raises(LedgerBehindStore):
        await harness.run(a_shot())
    assert [job.outcome for job in (await recover(harness)).jobs] == ["submitted"]
    await harness.collect(wait=True)
    assert (await harness.run(a_shot())).shots[0].cached
    assert harness.paid == (1, 1)


async def test_two_ledgers_share_a_store_and_each_keeps_its_own_spending(harness: RecoveryHarness) -> None:
    other = elsewhere(harness)
    await harness.run(film(a_shot(1)))
    await other.run(film(a_shot(2)))
    for owner in (harness, other):
        report = await owner.run(film(a_shot(1), a_shot(2)))
        assert [shot.cached for shot in report.shots] == [True, True]
        async with owner.ledger() as ledger:
            (line,) = await ledger.spend.report(by="month")
            assert (line.stored, line.spent_usd > 0) == (2, True)
        assert sorted(job.actual_usd == 0 for job in await owner.rows()) == [False, True]
    assert harness.paid == (2, 2)


async def test_a_new_ledger_takes_over_from_one_that_is_lost_for_good(harness: RecoveryHarness) -> None:
    await harness.run(film(a_shot(1), a_shot(2)))
    async with harness.ledger() as ledger:
        lost, (line,) = ledger.identity, await ledger.spend.report(by="month")
    other = elsewhere(harness)
    report = await recover(other)
    assert {job.outcome for job in report.jobs} == {"left"}
    assert f"--lost-ledger {lost}" in report.jobs[0].reason
    assert await other.rows() == []
    report = await recover(other, lost_ledgers=[lost])
    assert [job.outcome for job in report.jobs] == ["stored", "stored"]
    async with other.ledger() as ledger:
        assert [month.spent_usd for month in await ledger.spend.report(by="month")] == [line.spent_usd]
    assert [shot.cached for shot in (await other.run(film(a_shot(1), a_shot(2)))).shots] == [True, True]
    assert harness.paid == (2, 2)


async def test_a_store_that_was_moved_is_adopted_where_it_lies(harness: RecoveryHarness, tmp_path: Path) -> None:
    await harness.run(a_shot())
    moved = RecoveryHarness(harness.emulator, tmp_path / "moved", f"sqlite:///{tmp_path / 'moved.db'}")
    shutil.move(harness.folder / "store", moved.folder / "store")
    report = await moved.run(a_shot())
    assert report.shots[0].cached
    assert str(report.shots[0].uri) == moved.videos[0].as_uri()
    assert harness.paid == (1, 1)


async def test_what_older_versions_have_stored_is_adopted_and_its_cost_counted(harness: RecoveryHarness) -> None:
    await harness.run(a_shot())
    paid = (await harness.row()).actual_usd
    change(sidecar(harness), lambda content: content.pop("ledger"))
    other = elsewhere(harness)
    assert [job.outcome for job in (await recover(other)).jobs] == ["stored"]
    assert (await other.row()).actual_usd == paid
    assert (await other.run(a_shot())).shots[0].cached
    assert harness.paid == (1, 1)


async def test_copies_are_of_the_row_that_they_were_copied_from(harness: RecoveryHarness) -> None:
    path = Path(harness.ledger_url.removeprefix("sqlite:///"))
    async with harness.ledger():
        pass
    back_up(path, path.with_name("backup.db"))
    await harness.run(film(a_shot(1), name="first"))
    await harness.run(film(a_shot(1, id="same"), name="second"))
    before = await harness.row()
    restore(path.with_name("backup.db"), path)
    with pytest.raises(LedgerBehindStore):
        await harness.run(film(a_shot(1, id="same"), name="second"))
    await recover(harness)
    after = await harness.row()
    assert (after.id, after.project, after.asset) == (before.id, "first", before.asset)
    assert (await harness.run(film(a_shot(1, id="same"), name="second"))).shots[0].cached
    assert harness.paid == (1, 1)


@pytest.mark.parametrize("echo_metadata", [True, False], ids=["echo", "no echo"])
async def test_generations_of_others_are_not_taken(open_harness: OpenHarness, echo_metadata: bool) -> None:
    harness = open_harness(echo_metadata=echo_metadata)
    await harness.run(a_shot())
    shutil.rmtree(harness.folder / "store")
    other = elsewhere(harness)
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
async def on_s3(harness: RecoveryHarness, s3: S3Server, url: str) -> AsyncIterator[Session]:
    async with harness.session() as session:
        session.store_name, session.store = url, open_store(url, options=s3.options)
        yield session


async def test_on_s3_an_old_backup_is_noticed_and_recovered(harness: RecoveryHarness, s3: S3Server) -> None:
    url = f"{s3.make_bucket('films')}/ads"
    path = Path(harness.ledger_url.removeprefix("sqlite:///"))

    async def run(owner: RecoveryHarness) -> ProjectReport:
        async with on_s3(owner, s3, url) as session:
            return await run_project(session, film(a_shot(1), a_shot(2)))

    async with harness.ledger():
        pass
    back_up(path, path.with_name("backup.db"))
    assert statuses(await run(harness)) == ["stored", "stored"]
    restore(path.with_name("backup.db"), path)
    with pytest.raises(LedgerBehindStore):
        await run(harness)
    async with on_s3(harness, s3, url) as session:
        assert [job.outcome for job in (await recover_ledger(session)).jobs] == ["stored", "stored"]
        assert (await recover_ledger(session)).jobs == ()
    assert [shot.cached for shot in (await run(harness)).shots] == [True, True]
    assert [shot.cached for shot in (await run(elsewhere(harness))).shots] == [True, True]
    assert sum((row.actual_usd or Decimal(0) for row in await harness.rows()), Decimal(0)) > 0
    assert harness.paid == (2, 2)


@pytest.mark.parametrize("marked", [True, False])
async def test_on_s3_a_prefix_that_moved_keeps_every_video(
    harness: RecoveryHarness, s3: S3Server, *, marked: bool
) -> None:
    bucket = s3.make_bucket("moved" if marked else "unmarked")

    async def run(folder: str) -> ProjectReport:
        async with on_s3(harness, s3, f"{bucket}/{folder}") as session:
            return await run_project(session, film(a_shot(1), a_shot(2)))

    assert statuses(await run("a")) == ["stored", "stored"]
    name = bucket.removeprefix("s3://")
    for key in list(s3.files(name)):
        if marked or not key.endswith(STORE_MARKER):
            s3.client.copy_object(Bucket=name, Key=f"b{key[1:]}", CopySource={"Bucket": name, "Key": key})
        s3.client.delete_object(Bucket=name, Key=key)
    for _ in range(2):
        report = await run("b")
        assert statuses(report) == ["stored", "stored"]
        videos = {f"s3://{name}/{key}" for key in s3.files(name) if key.endswith(".mp4")}
        assert {shot.asset.uri for shot in report.shots if shot.asset} == videos
        assert len(videos) == 2
    assert harness.paid == (2, 2)


async def test_the_way_to_recover_names_every_open_account(harness: RecoveryHarness) -> None:
    path = Path(harness.ledger_url.removeprefix("sqlite:///"))
    async with harness.ledger():
        pass
    back_up(path, path.with_name("backup.db"))
    await harness.run(a_shot())
    restore(path.with_name("backup.db"), path)
    async with harness.session() as session, harness.session() as fallback:
        session.credentials, fallback.credentials = "video-sora/main", "video-sora/spare"
        with pytest.raises(LedgerBehindStore) as raised:
            await run_project(session, film(a_shot()), others=[fallback])
    arguments = shlex.split(str(raised.value).rpartition("Run: ")[2])
    given = [arguments[place + 1] for place, argument in enumerate(arguments) if argument == "--provider"]
    assert {"video-sora/main", "video-sora/spare"} <= set(given)
    assert len(given) == len(set(given))
    assert harness.paid == (1, 1)


async def test_a_rejected_video_of_another_ledger_is_held_and_not_bought_again(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="longer", times=None)
    await harness.run(a_shot())
    other = elsewhere(harness)
    report = await other.run(a_shot())
    assert (statuses(report), harness.paid) == (["held"], (1, 1))
    assert "--accept" in str(report.shots[0].error)
    # It is evidence of its own shot only.
    assert statuses(await other.run(a_shot(2, duration=2))) == ["held"]
    assert harness.paid == (2, 2)
    async with other.session() as session:
        accepted = await accept_rejected(session, (await other.rows())[0])
    assert (accepted.state, accepted.actual_usd) == (State.STORED, 0)
    assert [shot.cached for shot in (await other.run(a_shot())).shots] == [True]
    assert harness.paid == (2, 2)


async def test_a_video_that_is_to_be_bought_again_is_not_held_again(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="longer")
    await harness.run(a_shot())
    other = elsewhere(harness)
    await other.run(a_shot())
    async with other.ledger() as ledger:
        await ledger.jobs.record_ended((await other.row()).id, State.LOST, "bought again", actual_usd=None)
    assert statuses(await other.run(a_shot())) == ["stored"]
    assert harness.paid == (2, 2)


async def test_an_old_backup_is_recognised_by_a_rejected_video(harness: RecoveryHarness) -> None:
    await harness.run(a_shot(2))
    path = Path(harness.ledger_url.removeprefix("sqlite:///"))
    back_up(path, harness.folder / "backup.db")
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="longer")
    await harness.run(a_shot())
    (held,) = [row for row in await harness.rows() if row.hold_reason]
    restore(harness.folder / "backup.db", path)
    with pytest.raises(LedgerBehindStore, match=r"rejected\.mp4.*old backup"):
        await harness.run(a_shot())
    async with harness.session() as session:
        found = await verify_store(session.ledger, session.store)
        assert [uri.endswith(".rejected.mp4") for uri in found.unrecorded] == [True]
    # The provider has nothing to say about it any more.
    harness.emulator.add_fault(operation="list", kind="error_before", times=None)
    assert [job.outcome for job in (await recover(harness)).jobs if job.generation_id] == ["held"]
    assert statuses(await harness.run(a_shot())) == ["held"]
    (recovered,) = [row for row in await harness.rows() if row.hold_reason]
    assert recovered.id == held.id
    assert recovered.cost_usd == held.cost_usd
    assert harness.paid == (2, 2)
