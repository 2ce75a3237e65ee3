"""An address above or inside a store is refused with the right one; nothing is bought, moved or recorded there."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from prefect_video.errors import StoreError, StoreOutage
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.ledger_recovery import recover_ledger
from prefect_video.pipeline.verification import Verification, verify_store
from prefect_video.session import Session
from prefect_video.storage import Store, open_store
from prefect_video.storage.local import LocalStore
from tests.recovery.test_old_ledgers import back_up, restore
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.s3_server import S3Server
from tests.support.storage_fixtures import bucket, s3

__all__ = ["bucket", "s3"]

FILM = film(a_shot(1), a_shot(2))
OpenStore = Callable[[str], Store]


@pytest.fixture(params=["folder", "bucket"])
def open_at(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server, bucket: str) -> OpenStore:
    """Open a store below one root, on disk and on S3."""
    if request.param == "folder":
        return lambda path: open_store(str(tmp_path / "root" / path))
    return lambda path: open_store(f"s3://{bucket}/{path}", options=s3.options)


@asynccontextmanager
async def on(harness: RecoveryHarness, store: Store) -> AsyncIterator[Session]:
    async with harness.session() as session:
        session.store, session.store_name = store, store.url
        yield session


def elsewhere(harness: RecoveryHarness) -> RecoveryHarness:
    """The same account with a ledger of its own, which knows nothing."""
    return RecoveryHarness(harness.emulator, harness.folder, f"sqlite:///{harness.folder / 'other.db'}")


async def verify(session: Session, *, repair: bool = False) -> Verification:
    @asynccontextmanager
    async def open_session(_: object) -> AsyncIterator[Session]:
        yield session

    return await verify_store(session.ledger, session.store, open_session=open_session if repair else None)


@pytest.mark.parametrize("wrong", ["", "films", "films/ads/film", "films/ads/film/deeper"])
async def test_a_wrong_root_is_refused_and_the_right_one_named(
    harness: RecoveryHarness, open_at: OpenStore, wrong: str
) -> None:
    async with on(harness, open_at("films/ads")) as session:
        assert statuses(await run_project(session, FILM)) == ["stored", "stored"]
        right, ledger_id = session.store.url, session.ledger.identity
    for user in (harness, elsewhere(harness)):
        if wrong == "" and user is not harness:
            continue  # Two folders above, only the ledger knows that there is a store.
        async with on(user, open_at(wrong)) as session:
            for attempt in (
                verify(session),
                verify(session, repair=True),
                recover_ledger(session, lost_ledgers=[ledger_id]),
                run_project(session, FILM),
            ):
                with pytest.raises(StoreOutage) as raised:
                    await attempt
                assert f"Use the address {right};" in str(raised.value)
            assert await session.store.read_identity() is None
    async with on(harness, open_at("films/ads")) as session:
        assert (await verify(session)).is_whole
        assert {job.asset.uri.rsplit("/", 2)[0] for job in await harness.rows() if job.asset} == {right}
    assert await elsewhere(harness).rows() == []
    assert harness.paid == (2, 2)


async def test_a_store_inside_another_is_left_to_itself(harness: RecoveryHarness, open_at: OpenStore) -> None:
    async with on(harness, open_at("films/ads")) as session:
        await run_project(session, FILM)
    async with on(harness, open_at("films")) as session:
        assert statuses(await run_project(session, film(a_shot(3)), rebuy_missing=True)) == ["stored"]
        found = await verify(session, repair=True)
        assert (found.is_whole, found.assets, found.unknown_files) == (True, 1, ())
    async with on(harness, open_at("films/ads")) as session:
        found = await verify(session)
        assert (found.is_whole, found.assets, found.unknown_files) == (True, 2, ())
    assert harness.paid == (3, 3)


async def test_what_lies_in_a_subfolder_is_recorded_where_it_lies(harness: RecoveryHarness) -> None:
    await harness.run(FILM)
    async with harness.ledger() as ledger:
        lost = ledger.identity
    archive = harness.folder / "store" / "film" / "archive"
    archive.mkdir()
    for file in archive.parent.iterdir():
        if file.is_file():
            file.rename(archive / file.name)
    adopting, recovering = (
        elsewhere(harness),
        RecoveryHarness(harness.emulator, harness.folder, f"sqlite:///{harness.folder / 'third.db'}"),
    )
    async with recovering.session() as session:
        await recover_ledger(session, lost_ledgers=[lost])
    for user in (adopting, recovering):
        for _ in range(2):
            report = await user.run(FILM)
            assert [shot.cached for shot in report.shots] == [True, True]
            assert {Path(str(shot.uri).removeprefix("file://")).parent for shot in report.shots} == {archive}
        async with user.session() as session:
            assert (await verify(session)).flaws == ()
    # A damaged one is fetched again to its usual place, and no flawed file is left.
    for video in archive.glob("*.mp4"):
        video.write_bytes(b"x" * video.stat().st_size)
    async with adopting.session() as session:
        assert (await verify(session, repair=True)).is_whole
        assert (await verify(session)).unknown_files == ()
    assert list(archive.iterdir()) == []
    assert harness.paid == (2, 2)


async def test_a_damaged_video_stays_until_the_whole_one_can_be_published(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.run(film(a_shot()))
    (video,) = harness.videos
    whole = video.read_bytes()
    damaged = whole[:-1] + bytes([whole[-1] ^ 1])
    video.write_bytes(damaged)

    async def fail(*_: object, **__: object) -> str:
        raise StoreError("the disk is full")

    async with harness.session() as session:
        with monkeypatch.context() as full:
            full.setattr(LocalStore, "publish_all", fail)
            found = await verify(session, repair=True)
        assert [flaw.repaired for flaw in found.flaws] == [False]
        assert video.read_bytes() == damaged
        assert video.with_suffix(".json").exists()
        assert (await verify(session, repair=True)).is_whole
    assert video.read_bytes() == whole
    assert harness.paid == (1, 1)


async def test_verify_notices_an_old_backup(harness: RecoveryHarness) -> None:
    path = Path(harness.ledger_url.removeprefix("sqlite:///"))
    await harness.run(film(a_shot(1)))
    back_up(path, path.with_name("backup.db"))
    await harness.run(film(a_shot(1), a_shot(2), a_shot(3)))
    restore(path.with_name("backup.db"), path)
    async with harness.session() as session:
        found = await verify(session)
        assert (found.is_whole, found.flaws, len(found.unrecorded)) == (False, (), 2)
        assert found.recover_command is not None
        assert "ledger recover --store" in found.recover_command
        assert "--provider emulator" in found.recover_command
        await recover_ledger(session)
        assert (await verify(session)).is_whole
    # The sidecars of another ledger are no sign of that.
    async with elsewhere(harness).session() as session:
        found = await verify(session)
        assert (found.is_whole, len(found.unknown_files)) == (True, 9)


async def test_an_outage_at_a_blocks_address_names_the_block(harness: RecoveryHarness) -> None:
    await harness.run(FILM)
    store = harness.folder / "store"
    store.rename(harness.folder / "volume")
    store.mkdir()
    async with harness.session() as session:
        session.store_name = "video-store/films"
        with pytest.raises(StoreOutage, match=r"the store video-store/films has no marker.*verify video-store/films"):
            await run_project(session, FILM)
        found = await verify_store(session.ledger, session.store, name="video-store/films")
        assert "verify video-store/films --repair" in str(found.outage)
    assert harness.paid == (2, 2)


@pytest.mark.parametrize("labelled", [True, False])
async def test_a_generation_is_recovered_in_its_own_environment(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch, labelled: bool
) -> None:
    if not labelled:
        monkeypatch.setattr("prefect_video.pipeline.steps.labels.ENVIRONMENT_LABEL", "other")
    path = Path(harness.ledger_url.removeprefix("sqlite:///"))
    async with harness.ledger():
        pass
    back_up(path, path.with_name("backup.db"))
    harness.emulator.change_speed(0.01)
    async with harness.session(environment="staging") as session:
        assert statuses(await run_project(session, film(a_shot()), wait=False)) == ["in_flight"]
    restore(path.with_name("backup.db"), path)
    monkeypatch.undo()
    async with harness.session() as session:
        assert [job.outcome for job in (await recover_ledger(session)).jobs] == ["submitted" if labelled else "held"]
    harness.emulator.change_speed(500)
    if labelled:
        assert statuses(await harness.run(film(a_shot()), environment="staging")) == ["stored"]
        with sqlite3.connect(path) as database:
            assert database.execute("SELECT environment, state FROM jobs").fetchall() == [("staging", "stored")]
        database.close()
    assert harness.paid == (1, 1)
