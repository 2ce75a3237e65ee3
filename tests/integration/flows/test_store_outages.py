"""An empty store through the doors of flows and tasks: nothing is paid twice, by the provider's usage records."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prefect import flow

from prefect_video import Asset, Project, Shot
from prefect_video.emulator import Emulator
from prefect_video.errors import StoreError, StoreOutage
from prefect_video.flows import generate_project, generate_shot
from prefect_video.storage import s3_upload
from prefect_video.tasks import agenerate_video, generate_video
from tests.support.s3_faults import no_reading, no_writing, serve_faulty_s3
from tests.support.s3_server import KEY, SECRET, S3Server

SHOTS = tuple(Shot(id=f"s{n}", prompt=f"the sea, {n}", duration=1, resolution="480p") for n in range(3))
FILM = Project(name="film", shots=SHOTS)


@flow
async def embedding(*, rebuy_missing: bool = False) -> list[Asset]:
    return [await agenerate_video(shot, project="film", rebuy_missing=rebuy_missing) for shot in SHOTS]


def unmount(session: Path) -> None:
    (session / "videos").rename(session / "volume")
    (session / "videos").mkdir()


async def test_a_project_is_not_bought_again_for_an_empty_mount_point(session: Path, emulator: Emulator) -> None:
    await generate_project(FILM)
    unmount(session)
    with pytest.raises(StoreOutage, match="has no marker"):
        await generate_project(FILM)
    with pytest.raises(StoreOutage):
        await generate_shot(SHOTS[0], project="film")
    assert (emulator.usage()["accepted"], emulator.usage()["billed"]) == (3, 3)

    report = await generate_project(FILM, rebuy_missing=True)
    assert [shot.repair is not None for shot in report.shots] == [True] * 3
    assert (emulator.usage()["accepted"], emulator.usage()["billed"]) == (3, 3)


async def test_one_call_is_not_bought_again_for_an_empty_mount_point(session: Path, emulator: Emulator) -> None:
    await embedding()
    unmount(session)
    with pytest.raises(StoreOutage, match="has no marker"):
        await embedding()
    assert (emulator.usage()["accepted"], emulator.usage()["billed"]) == (3, 3)
    assert len(await embedding(rebuy_missing=True)) == 3
    assert (emulator.usage()["accepted"], emulator.usage()["billed"]) == (3, 3)


async def test_several_missing_files_are_seen_one_call_at_a_time_too(session: Path, emulator: Emulator) -> None:
    assets = await embedding()
    for asset in assets[:2]:
        Path(asset.uri.removeprefix("file://")).unlink()
    with pytest.raises(StoreOutage, match="2 stored videos"):
        await embedding()
    assert emulator.usage()["billed"] == 3


async def test_a_truncated_file_is_no_answer_of_prefects_cache(session: Path, emulator: Emulator) -> None:
    first = (await embedding())[0]
    path = Path(first.uri.removeprefix("file://"))
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    await embedding()
    assert path.read_bytes() == whole
    assert emulator.usage()["billed"] == 3


async def assert_every_door_refuses(store: str, reason: str) -> None:
    with pytest.raises(StoreError, match=reason):
        await generate_project(FILM, store=store)
    with pytest.raises(StoreError, match=reason):
        await generate_shot(SHOTS[0], store=store)
    with pytest.raises(StoreError, match=reason):
        await agenerate_video(SHOTS[0], store=store)
    with pytest.raises(StoreError, match=reason):
        await asyncio.to_thread(generate_video.fn, SHOTS[0], store=store)


async def test_a_store_that_cannot_be_written_is_found_by_every_door_before_paying(
    session: Path, emulator: Emulator, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (session / "file").write_text("in the way")
    await assert_every_door_refuses(str(session / "file" / "videos"), "a part of the path is a file")
    async with serve_faulty_s3(s3, no_writing) as faulty:
        for name, value in {
            "AWS_ENDPOINT_URL": faulty.options["endpoint_url"],
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }.items():
            monkeypatch.setenv(name, value)
        await assert_every_door_refuses(f"s3://{bucket}/films", "access denied")
        monkeypatch.setattr(s3_upload, "_HEAD_DELAYS_SECONDS", ())
        faulty.refuse = no_reading
        with pytest.raises(StoreError, match=r"cannot write to s3://.*, read it and delete it.*access denied"):
            await agenerate_video(SHOTS[0], store=f"s3://{bucket}/films")
        await assert_every_door_refuses("s3://no-such-bucket/films", "no such bucket")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        await assert_every_door_refuses(f"s3://{bucket}/films", "secret does not match|access denied")
    assert emulator.usage()["submitted"] == 0
