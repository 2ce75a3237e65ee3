"""Frames, references and options of shots: checked and pinned before anything is paid, sent as they are, paid once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from prefect_video.errors import InvalidInput, StoreOutage
from prefect_video.ledger import Job, State
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.plan import plan_project
from prefect_video.pipeline.verification import verify_store
from prefect_video.session import SessionEvent
from tests.support.pictures import audio_seconds, decode, draw, psnr
from tests.support.recovery import RecoveryHarness, a_shot, as_project, film, statuses
from tests.support.web_server import Reply, Request, running_web

DAWN, DUSK = draw(30), draw(200)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_a_shot_begins_and_ends_with_its_frames_and_has_sound(harness: RecoveryHarness) -> None:
    for name, content in (("dawn.png", DAWN), ("dusk.png", DUSK)):
        (harness.folder / name).write_bytes(content)
    frames = {"first_frame": str(harness.folder / "dawn.png"), "last_frame": str(harness.folder / "dusk.png")}
    shot = a_shot(**frames, audio=True, watermark=False, options={"camera": {"pan": 0.5}})
    assert statuses(await harness.run(shot)) == ["stored"]
    (video,) = harness.videos
    pictures = decode(video)
    assert psnr(pictures[0], DAWN) > 30
    assert psnr(pictures[-1], DUSK) > 30
    assert psnr(pictures[0], DUSK) < 20
    assert audio_seconds(video) == pytest.approx(shot.duration, abs=0.1)
    (accepted,) = harness.emulator.requests()
    assert accepted["images"] == {"first_frame": [digest(DAWN)], "last_frame": [digest(DUSK)]}
    assert (accepted["audio"], accepted["watermark"]) == (True, False)
    assert accepted["options"] == {"camera": {"pan": 0.5}}
    # By content: the same pictures elsewhere are the same request.
    (harness.folder / "copy.png").write_bytes(DAWN)
    again = a_shot(**{**shot.model_dump(exclude={"id"}), "first_frame": str(harness.folder / "copy.png")})
    assert statuses(await harness.run(again)) == ["stored"]
    assert harness.paid == (1, 1)


async def test_a_silent_video_has_no_sound_track(harness: RecoveryHarness) -> None:
    assert statuses(await harness.run(a_shot(audio=False))) == ["stored"]
    assert audio_seconds(harness.videos[0]) is None


@pytest.mark.parametrize(
    ("field", "content", "reason"),
    [
        ("first_frame", None, "cannot read"),
        ("last_frame", b"GIF89a", "give a PNG, JPEG or WebP"),
        ("references", b"\x89PNG\r\n\x1a\n" + b"\0" * 11 * 2**20, "make it smaller"),
    ],
)
async def test_an_image_that_cannot_be_sent_is_refused_before_anything_is_reserved(
    harness: RecoveryHarness, field: str, content: bytes | None, reason: str
) -> None:
    path = harness.folder / "picture.png"
    if content is not None:
        path.write_bytes(content)
    shots = [a_shot(1), a_shot(2, **{field: (str(path),) if field == "references" else str(path)})]
    with pytest.raises(InvalidInput, match=rf"shot 'shot-2': {field}: .*{reason}"):
        await harness.run(film(*shots))
    assert await harness.rows() == []
    assert harness.emulator.usage()["submitted"] == 0


async def test_a_plan_shows_what_a_shot_is_made_from(harness: RecoveryHarness) -> None:
    (harness.folder / "dawn.png").write_bytes(DAWN)
    path = str(harness.folder / "dawn.png")
    async with harness.session() as session:
        plan = await plan_project(session, film(a_shot(1, first_frame=path, audio=False), a_shot(2)))
    assert [shot.inputs for shot in plan.shots] == [{"first_frame": path, "audio": False}, {}]
    assert harness.emulator.usage()["submitted"] == 0


async def test_a_file_that_changes_after_the_claim_is_not_sent(harness: RecoveryHarness) -> None:
    path = harness.folder / "dawn.png"
    path.write_bytes(DAWN)

    def exchange(event: SessionEvent, job: Job) -> None:
        if event == SessionEvent.CLAIMED:
            path.write_bytes(DUSK)

    report = await harness.run(a_shot(first_frame=str(path)), observer=exchange)
    assert statuses(report) == ["failed"]
    assert "first_frame: a file has changed" in str(report.shots[0].error)
    assert harness.emulator.usage()["submitted"] == 0
    assert (await harness.row()).state is State.RELEASED


async def test_a_url_is_fetched_once_and_its_copy_counts_from_then_on(harness: RecoveryHarness, tmp_path: Path) -> None:
    fetched: list[str] = []
    served = DAWN

    async def handler(request: Request, reply: Reply) -> None:
        fetched.append(request.path)
        await reply.whole(200, {"Content-Type": "text/plain"}, served)

    async with running_web() as web:
        web.handler = handler
        shot = a_shot(first_frame=f"http://127.0.0.1:{web.port}/dawn?signature=secret")
        assert statuses(await harness.run(shot)) == ["stored"]
        served = DUSK
        # Another machine: nothing of the first one's disk but the store and the ledger.
        assert statuses(await harness.run(shot, spool=tmp_path / "elsewhere")) == ["stored"]
        # The copy makes another shot, too.
        assert statuses(await harness.run(a_shot(2, first_frame=shot.first_frame))) == ["stored"]
    assert fetched == ["/dawn?signature=secret"]
    assert harness.paid == (2, 2)
    assert {request["images"]["first_frame"][0] for request in harness.emulator.requests()} == {digest(DAWN)}
    kept = sorted((harness.folder / "store" / "film" / "references").iterdir())
    assert f"{digest(DAWN)}.png" in [path.name for path in kept]
    assert not any(b"secret" in path.read_bytes() for path in kept)
    async with harness.session() as session:
        assert (await verify_store(session.ledger, session.store)).unknown_files == ()


async def test_no_copy_is_written_to_a_store_that_the_ledger_does_not_know(harness: RecoveryHarness) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.whole(200, {}, DAWN)

    assert statuses(await harness.run(a_shot(1))) == ["stored"]
    # As where nothing is mounted at the store's place.
    (harness.folder / "store").rename(harness.folder / "unmounted")
    async with running_web() as web:
        web.handler = handler
        with pytest.raises(StoreOutage):
            await harness.run(a_shot(2, first_frame=web.url("/dawn.png")))
        assert not (harness.folder / "store").exists()
        assert harness.paid == (1, 1)
        # Accepted as the new store, it gets the copy and the video.
        async with harness.session() as session:
            wanted = as_project(a_shot(2, first_frame=web.url("/dawn.png")))
            assert statuses(await run_project(session, wanted, rebuy_missing=True)) == ["stored"]
    assert harness.paid == (2, 2)


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (404, b"", "HTTP 404"),
        (200, b"<html>", "give a PNG, JPEG or WebP"),
        (200, b"\0" * (10 * 2**20 + 1), "over 10,485,760 bytes"),
    ],
)
async def test_a_url_that_is_no_image_is_refused_before_anything_is_reserved(
    harness: RecoveryHarness, status: int, body: bytes, reason: str
) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.whole(status, {}, body)

    async with running_web() as web:
        web.handler = handler
        shot = a_shot(last_frame=f"http://localhost:{web.port}/x")
        with pytest.raises(InvalidInput, match=rf"shot 'shot-1': last_frame: http://localhost.*{reason}"):
            await harness.run(shot)
    assert await harness.rows() == []
    assert not list((harness.folder).glob("store/**/*.url"))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com/a.png", "not https"),
        ("https://169.254.169.254/latest", "refused"),
        ("https://10.0.0.1/a", "refused"),
    ],
)
async def test_a_url_keeps_to_the_link_policy(harness: RecoveryHarness, url: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=rf"references: .*{reason}"):
        await harness.run(a_shot(references=[url]))


@pytest.mark.parametrize("echo", [True, False], ids=["by key", "by similarity"])
async def test_a_lost_answer_to_a_shot_with_a_frame_is_found_again(harness: RecoveryHarness, echo: bool) -> None:
    path = harness.folder / "dawn.png"
    path.write_bytes(DAWN)
    harness.emulator.change_settings(echo_metadata=echo)
    harness.emulator.add_fault(operation="submit", kind="error_after")
    shot = a_shot(first_frame=str(path), options={"loop": True, "cuts": [1.0, {"at": 2}]}, audio=True)
    assert statuses(await harness.run(shot)) == ["stored"]
    assert harness.paid == (1, 1)


async def test_another_frame_is_another_generation(harness: RecoveryHarness) -> None:
    """A lost answer is not taken for the generation of a request that differs in its picture only."""
    (harness.folder / "dawn.png").write_bytes(DAWN)
    (harness.folder / "dusk.png").write_bytes(DUSK)
    harness.emulator.change_settings(echo_metadata=False)
    async with harness.session() as session:
        # Not of this ledger: another client uses the account.
        other = a_shot(first_frame=str(harness.folder / "dusk.png"))
        await session.provider.submit(other, idempotency_key="other", project="other")
        harness.emulator.add_fault(operation="submit", kind="error_before")
        report = await run_project(session, as_project(a_shot(first_frame=str(harness.folder / "dawn.png"))))
    assert statuses(report) == ["held"]
    assert harness.emulator.usage()["accepted"] == 1
