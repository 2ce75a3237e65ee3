"""Verification on a folder and on a real S3 server: what is flawed, what no one knows, what is repaired, and its price."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from prefect_video.errors import StoreError, StoreOutage
from prefect_video.ledger import Job, State
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.pipeline.verification import Verification, verify_store
from prefect_video.projects import Project
from prefect_video.session import Session
from prefect_video.storage import Store, open_store
from prefect_video.storage.marker import STORE_MARKER
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.s3_server import S3Server
from tests.support.storage_fixtures import bucket, s3

__all__ = ["bucket", "s3"]

FILM = film(a_shot(1), a_shot(2), a_shot(3))


@dataclass
class Library:
    """A harness whose videos lie in a store of any kind, and hands that break them."""

    harness: RecoveryHarness
    open: Callable[[], Store]
    write: Callable[[str, bytes], object]
    delete: Callable[[str], object]

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        async with self.harness.session() as session:
            session.store = self.open()
            session.store_name = session.store.url
            yield session

    async def run(self, project: Project = FILM, *, rebuy_missing: bool = False) -> ProjectReport:
        async with self.session() as session:
            return await run_project(session, project, rebuy_missing=rebuy_missing)

    async def verify(self, *, repair: bool = False) -> Verification:
        @asynccontextmanager
        async def open_session(_: Job) -> AsyncIterator[Session]:
            async with self.session() as session:
                yield session

        async with self.session() as session:
            return await verify_store(session.ledger, session.store, open_session=open_session if repair else None)

    async def uris(self) -> list[str]:
        return [job.asset.uri for job in await self.harness.rows() if job.asset]


@pytest.fixture(params=["folder", "bucket", "prefix"])
def library(request: pytest.FixtureRequest, harness: RecoveryHarness, s3: S3Server, bucket: str) -> Library:
    if request.param == "folder":
        url = (harness.folder / "store").as_uri()

        def path(uri: str) -> Path:
            return Path(uri.removeprefix("file://"))

        def write(uri: str, content: bytes) -> None:
            path(uri).parent.mkdir(exist_ok=True)
            path(uri).write_bytes(content)

        return Library(
            harness,
            lambda: open_store(url),
            write,
            lambda uri: path(uri).unlink(),
        )
    prefix = "/films/2026" if request.param == "prefix" else ""

    def key(uri: str) -> dict[str, str]:
        return {"Bucket": bucket, "Key": uri.removeprefix(f"s3://{bucket}/")}

    return Library(
        harness,
        lambda: open_store(f"s3://{bucket}{prefix}", options=s3.options),
        lambda uri, content: s3.client.put_object(**key(uri), Body=content),
        lambda uri: s3.client.delete_object(**key(uri)),
    )


async def test_a_whole_store_is_whole(library: Library) -> None:
    await library.run()
    found = await library.verify()
    assert (found.is_whole, found.assets, found.flaws, found.unknown_files) == (True, 3, (), ())
    assert found.store_id is not None


async def test_everything_that_is_wrong_is_found_and_repaired_free(library: Library) -> None:
    await library.run(film(*FILM.shots, a_shot(4)))
    missing, cut, changed, alone = await library.uris()
    async with library.session() as session:
        content = await session.store.read_bytes(changed)
    library.delete(missing)
    library.write(cut, b"cut")
    library.write(changed, content[:-1] + bytes([content[-1] ^ 1]))
    library.delete(alone.removesuffix(".mp4") + ".json")
    stranger = f"{library.open().url}/film/stranger.mp4"
    library.write(stranger, b"not ours")
    library.write(f"{library.open().url}/notes/read.me", b"mine")
    library.write(f"{library.open().url}/top.txt", b"mine")

    found = await library.verify()
    assert not found.is_whole
    assert [(flaw.uri, flaw.problem) for flaw in found.flaws] == [
        (missing, "missing"), (cut, "damaged"), (changed, "damaged"), (alone, "sidecar")
    ]  # fmt: skip
    assert "SHA-256" in found.flaws[2].detail
    unknown = {uri.removeprefix(library.open().url) for uri in found.unknown_files}
    assert unknown == {"/film/stranger.mp4", "/notes/read.me", "/top.txt"}

    repaired = await library.verify(repair=True)
    assert repaired.is_whole, repaired.flaws
    assert [flaw.repaired for flaw in repaired.flaws] == [True] * 4
    assert (await library.verify()).flaws == ()
    assert {job.state for job in await library.harness.rows()} == {State.STORED}
    assert stranger in (await library.verify()).unknown_files
    assert library.harness.paid == (4, 4)


async def test_what_the_provider_no_longer_has_stays_as_it_is(library: Library) -> None:
    await library.run()
    gone, _, kept = await library.uris()
    job = (await library.harness.rows())[0]
    library.delete(gone)
    library.delete(kept)
    library.harness.emulator.add_fault(
        operation="retrieve", kind="not_found", times=None, match={"generation_id": job.generation_id}
    )
    found = await library.verify(repair=True)
    assert not found.is_whole
    assert [(flaw.repaired, flaw.error is None) for flaw in found.flaws] == [(False, False), (True, True)]
    assert "no longer has its video" in str(found.flaws[0].error)
    assert {job.state for job in await library.harness.rows()} == {State.STORED}
    assert library.harness.paid == (3, 3)


async def test_a_copy_that_is_damaged_is_copied_again(library: Library) -> None:
    await library.run(film(a_shot(), name="first"))
    report = await library.run(film(a_shot(), name="second"))
    copied = str(report.shots[0].uri)
    library.write(copied, b"cut")
    found = await library.verify()
    assert [(flaw.uri, flaw.project) for flaw in found.flaws] == [(copied, "second")]
    assert (await library.verify(repair=True)).is_whole
    assert (await library.verify()).flaws == ()
    assert library.harness.paid == (1, 1)


async def test_an_emptied_store_is_an_outage_until_it_is_repaired(library: Library) -> None:
    await library.run()
    async with library.session() as session:
        store = session.store
        files = [file.uri for folder in await store.folders() async for file in store.files(folder)]
    for uri in [*files, f"{library.open().url}/{STORE_MARKER}"]:
        library.delete(uri)
    with pytest.raises(StoreOutage, match="has no marker"):
        await library.run()
    found = await library.verify()
    assert found.outage is not None
    assert [flaw.problem for flaw in found.flaws] == ["missing"] * 3
    assert (await library.verify(repair=True)).is_whole
    assert [shot.cached for shot in (await library.run()).shots] == [True] * 3
    assert library.harness.paid == (3, 3)


async def test_a_marker_alone_can_be_restored(library: Library) -> None:
    await library.run()
    library.delete(f"{library.open().url}/{STORE_MARKER}")
    with pytest.raises(StoreOutage):
        await library.run()
    assert not (await library.verify()).is_whole
    assert (await library.verify(repair=True)).is_whole
    first, *_ = await library.uris()
    library.delete(first)
    # The files are known by the new marker: one of them is fetched again as ever.
    assert statuses(await library.run()) == ["stored"] * 3
    assert library.harness.paid == (3, 3)


async def test_one_object_that_is_missing_is_fetched_again_and_several_are_an_outage(library: Library) -> None:
    await library.run()
    first, second, _ = await library.uris()
    library.delete(first)
    assert statuses(await library.run()) == ["stored"] * 3
    library.write(first, b"cut")
    library.delete(second)
    with pytest.raises(StoreOutage, match="2 stored videos"):
        await library.run()
    assert library.harness.paid == (3, 3)


async def test_another_bucket_under_the_same_address_is_an_outage(
    harness: RecoveryHarness, s3: S3Server, bucket: str
) -> None:
    """The endpoint has changed: another server, with a bucket of the same name and a store of its own in it."""
    url = f"s3://{bucket}"
    library = Library(harness, lambda: open_store(url, options=s3.options), lambda *_: None, lambda _: None)
    await library.run()
    async with library.session() as session:
        files = [file.uri for folder in await session.store.folders() async for file in session.store.files(folder)]
        for uri in files:
            await session.store.delete(uri)
        s3.client.delete_object(Bucket=bucket, Key=STORE_MARKER)
        await session.store.create_identity("another-store")
    with pytest.raises(StoreOutage, match="is another one"):
        await library.run()
    assert harness.paid == (3, 3)


async def test_a_bucket_that_is_not_there_is_no_empty_store(harness: RecoveryHarness, s3: S3Server) -> None:
    library = Library(
        harness, lambda: open_store("s3://no-such-bucket", options=s3.options), lambda *_: None, lambda _: None
    )
    with pytest.raises(StoreError, match="no such bucket"):
        await library.run()
    assert harness.paid == (0, 0)


async def test_all_first_videos_of_a_run_lie_in_one_store(library: Library) -> None:
    await library.run(film(*(a_shot(number) for number in range(8))))
    async with library.session() as session:
        assert {job.store_id for job in await library.harness.rows()} == {await session.store.read_identity()}


async def test_a_hundred_writers_agree_on_one_marker(tmp_path: Path) -> None:
    stores = [open_store(tmp_path.as_uri()) for _ in range(100)]
    made = await asyncio.gather(*(store.create_identity(str(number)) for number, store in enumerate(stores)))
    assert len(set(made)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [STORE_MARKER]
