from __future__ import annotations

import contextlib
from io import BytesIO
from pathlib import Path

import av
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from prefect_video.downloads.media import Media, check_media, probe
from prefect_video.errors import InvalidVideo, VideoMismatch
from prefect_video.shots import Shot
from tests.support.clips import write_clip

FASTSTART = {"movflags": "faststart"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def test_a_clip_is_measured(clip: Path) -> None:
    media = probe(clip)
    assert (media.width, media.height, media.frames, media.codec) == (320, 192, 12, "mpeg4")
    assert media.duration_seconds == pytest.approx(1.0)
    assert media.fps == pytest.approx(12.0)


@pytest.mark.parametrize(
    ("name", "codec", "container", "options"),
    [
        ("h264.mp4", "libx264", None, FASTSTART),
        ("h264-last.mp4", "libx264", None, {}),
        ("fragmented.mp4", "mpeg4", None, FRAGMENTED),
        ("quicktime.mov", "mpeg4", None, {}),
        ("matroska.mkv", "mpeg4", None, {}),
        ("web.webm", "libvpx-vp9", None, {}),
        ("stream.ts", "libx264", None, {}),
        ("misnamed.mp4", "mpeg4", "matroska", {}),
    ],
)
def test_containers_of_all_kinds_are_measured(
    tmp_path: Path, name: str, codec: str, container: str | None, options: dict[str, str]
) -> None:
    path = write_clip(tmp_path / name, seconds=2, codec=codec, container=container, options=options)
    media = probe(path)
    assert (media.width, media.height, media.frames) == (320, 192, 24)
    assert media.duration_seconds == pytest.approx(2.0, abs=0.1)
    with open_thumbnail(media) as picture:
        assert (picture.format, picture.size) == ("JPEG", (320, 192))


@pytest.mark.parametrize("missing", [1, 100, 2_000, 5_000])
@pytest.mark.parametrize("options", [FASTSTART, FRAGMENTED], ids=["faststart", "fragmented"])
def test_a_truncated_file_is_not_playable(tmp_path: Path, missing: int, options: dict[str, str]) -> None:
    whole = write_clip(tmp_path / "whole.mp4", options=options).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[:-missing])
    with pytest.raises(InvalidVideo, match=r"cut\.mp4: (cut short|damaged|not a readable)"):
        probe(cut)


JUNK = [b"\r\n", b"\0" * 64, b"<!-- served by a relay -->", b"\0\0\0\x05oops"]


@pytest.mark.parametrize("junk", JUNK)
def test_bytes_behind_the_end_are_counted_where_every_frame_is_there(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "trailing.mp4"
    path.write_bytes(write_clip(tmp_path / "whole.mp4", options=FASTSTART).read_bytes() + junk)
    media = probe(path)
    assert (media.frames, media.trailing_bytes) == (12, len(junk))


def test_bytes_behind_the_end_may_be_the_rest_of_what_is_missing(tmp_path: Path) -> None:
    # A fragmented file declares no number of frames, so that nothing shows that all are there.
    path = tmp_path / "trailing.mp4"
    path.write_bytes(write_clip(tmp_path / "whole.mp4", options=FRAGMENTED).read_bytes() + b"\0\0")
    with pytest.raises(InvalidVideo, match=r"trailing\.mp4: cut short"):
        probe(path)


def test_missing_pictures_are_counted_where_the_boxes_look_whole(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", options=FASTSTART).read_bytes()
    start = whole.index(b"mdat") - 4
    cut = whole[:start] + (2_000).to_bytes(4, "big") + whole[start + 4 : start + 2_000]
    (tmp_path / "cut.mp4").write_bytes(cut)
    with pytest.raises(InvalidVideo, match="of 12 frames are there"):
        probe(tmp_path / "cut.mp4")


@pytest.mark.parametrize("content", [b"", b"<html>no</html>", b"\0\0\0\x18ftypisom" + b"\0" * 40, b"\0" * 5_000])
def test_what_is_no_video_is_not_playable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.mp4"
    path.write_bytes(content)
    with pytest.raises(InvalidVideo, match=r"page\.mp4"):
        probe(path)


def test_sound_alone_is_not_playable(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=44_100, layout="mono")
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate = 44_100
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        output.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(InvalidVideo, match="no video track"):
        probe(path)


def test_a_missing_file_stays_an_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "none.mp4")


@given(position=st.integers(0, 8_000), junk=st.binary(min_size=1, max_size=64))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_measured_or_refused_and_never_crashes(
    clip: Path, tmp_path: Path, position: int, junk: bytes
) -> None:
    content = bytearray(clip.read_bytes())
    content[position : position + len(junk)] = junk
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    with contextlib.suppress(InvalidVideo):
        assert probe(damaged).frames > 0


def measured(**changed: float) -> Media:
    return Media(
        **{"duration_seconds": 10.0, "width": 1280, "height": 720, "frames": 240, "codec": "h264", "fps": 24.0}
        | changed  # type: ignore[arg-type]
    )


SHOT = Shot(id="opening", prompt="Dawn", duration=10, resolution="720p")


@pytest.mark.parametrize("fitting", [{}, {"duration_seconds": 9.51}, {"duration_seconds": 10.5}, {"height": 704}])
def test_a_fitting_video_passes(fitting: dict[str, float]) -> None:
    check_media(measured(**fitting), SHOT)


def test_tolerance_grows_with_length() -> None:
    check_media(measured(duration_seconds=19.05), SHOT.model_copy(update={"duration": 20}))


def test_a_number_of_frames_decides_the_length() -> None:
    exact = SHOT.model_copy(update={"num_frames": 81, "fps": 16})
    check_media(measured(duration_seconds=81 / 16), exact)
    check_media(measured(duration_seconds=81 / 24), exact.model_copy(update={"fps": None}))
    with pytest.raises(InvalidVideo, match=r"requested 5\.0625 s, the video lasts 10\.00 s"):
        check_media(measured(), exact)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"duration_seconds": 5.0}, r"shot 'opening': requested 10 s, the video lasts 5\.00 s"),
        ({"duration_seconds": 10.6}, r"lasts 10\.60 s"),
        ({"width": 720, "height": 1280}, r"requested 1280x720 pixels, the video has 720x1280"),
        ({"height": 680}, "1280x680"),
    ],
)
def test_a_video_that_was_not_asked_for_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidVideo, match=message):
        check_media(measured(**wrong), SHOT)


def test_sound_that_was_requested_is_missed_and_an_adaptive_shape_is_not() -> None:
    loud = SHOT.model_copy(update={"audio": True})
    with pytest.raises(VideoMismatch, match="requested sound"):
        check_media(measured(), loud)
    check_media(measured(has_audio=True), loud)
    check_media(measured(has_audio=True), SHOT.model_copy(update={"audio": False}))
    check_media(measured(width=600, height=900), SHOT.model_copy(update={"aspect_ratio": "adaptive"}))


def test_a_small_picture_is_not_blown_up_and_a_large_one_is_made_smaller(clip: Path, tmp_path: Path) -> None:
    with open_thumbnail(probe(clip)) as picture:
        assert picture.size == (320, 192)
    with open_thumbnail(probe(write_clip(tmp_path / "large.mp4", size=(1280, 720), codec="libx264"))) as picture:
        assert picture.size == (480, 270)


@pytest.mark.parametrize("options", [FASTSTART, FRAGMENTED], ids=["declared", "undeclared"])
def test_one_open_gives_measures_and_thumbnail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=2, codec="libx264", options=options)
    opened: list[str] = []
    open_container = av.open

    def count(file: str, **given: object) -> object:
        opened.append(file)
        return open_container(file, **given)  # type: ignore[call-overload]

    monkeypatch.setattr(av, "open", count)
    media = probe(path)
    assert media.frames == 24
    assert opened == [str(path)]
    with open_thumbnail(media) as picture:
        # A third of the way from green to red.
        red, green, _ = picture.convert("RGB").getpixel((160, 96))  # type: ignore[misc]
        assert (red, green) == pytest.approx((85, 170), abs=25)


def open_thumbnail(media: Media) -> Image.Image:
    assert media.thumbnail is not None
    return Image.open(BytesIO(media.thumbnail))
