"""Reading a track: the picture is that at its time, whatever the key frames, and little is decoded for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import pytest

from prefect_video.downloads import video_track
from prefect_video.downloads.media import find_video_stream, open_container
from prefect_video.downloads.video_track import Track, read_track
from tests.support.clips import write_clip

FPS = 12
SECONDS = 5


def read(path: Path, *, picture_at: float | None = 1 / 3, decode_all: bool = False) -> Track:
    with open_container(path) as container:
        stream = find_video_stream(container, path)
        return read_track(container, stream, path, decode_all=decode_all, picture_at=picture_at)


@pytest.mark.parametrize("decode_all", [False, True])
@pytest.mark.parametrize("key_frames", [1, 7, 12, 20, 500])
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_the_picture_is_that_at_its_time(tmp_path: Path, codec: str, key_frames: int, decode_all: bool) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=SECONDS, fps=FPS, codec=codec, key_frames=key_frames)
    track = read(path, decode_all=decode_all)
    assert (track.frames, track.first.time) == (SECONDS * FPS, 0.0)
    # Frames that no other one needs are left out: with those of this encoder, the picture is three later at most.
    assert SECONDS / 3 <= _time_of(track) <= SECONDS / 3 + 4 / FPS
    share = _time_of(track) / SECONDS
    red, green, _ = cast(Any, track.picture.to_image().getpixel((100, 100)))  # type: ignore[no-untyped-call]
    assert (red, green) == pytest.approx((255 * share, 255 - 255 * share), abs=25)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999, 1.0])
def test_any_share_has_a_picture(tmp_path: Path, share: float) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=SECONDS, fps=FPS, codec="libx264", key_frames=12)
    assert _time_of(read(path, picture_at=share)) >= min(share * SECONDS, SECONDS - 5 / FPS)


@pytest.mark.parametrize(("key_frames", "most"), [(1, 2), (10, 12), (500, 22)])
def test_only_the_way_from_the_last_key_frame_is_decoded(tmp_path: Path, key_frames: int, most: int) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=SECONDS, fps=FPS, key_frames=key_frames)
    decoded: list[float] = []
    with open_container(path) as container:
        stream = find_video_stream(container, path)
        counting = SimpleNamespace(demux=lambda _: (_Counting(packet, decoded) for packet in container.demux(stream)))
        track = read_track(cast(Any, counting), stream, path, decode_all=False, picture_at=1 / 3)
    assert track.frames == SECONDS * FPS
    # The first frame is decoded too: it says how the video is displayed.
    assert 2 <= len(decoded) <= most


@pytest.mark.parametrize(("key_frames", "limit_bytes", "is_first"), [(500, 200, True), (5, 20_000, False)])
def test_packets_that_wait_for_the_picture_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key_frames: int, limit_bytes: int, is_first: bool
) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=SECONDS, fps=FPS, key_frames=key_frames)
    monkeypatch.setattr(video_track, "_WAITING_LIMIT_BYTES", limit_bytes)
    track = read(path)
    assert track.frames == SECONDS * FPS
    assert (track.picture is track.first) == is_first


def test_a_damaged_way_to_the_picture_leaves_an_earlier_one(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=SECONDS, fps=FPS)
    with open_container(path) as container:
        stream = find_video_stream(container, path)
        broken = SimpleNamespace(demux=lambda _: (_Broken(packet) for packet in container.demux(stream)))
        track = read_track(cast(Any, broken), stream, path, decode_all=False, picture_at=1 / 3)
    assert track.frames == SECONDS * FPS
    assert _time_of(track) < SECONDS / 3


def _time_of(track: Track) -> float:
    assert track.picture.time is not None
    return track.picture.time


class _Counting:
    """A packet that notes when it is decoded."""

    def __init__(self, packet: Any, decoded: list[float]) -> None:
        self._packet, self._decoded = packet, decoded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._packet, name)

    def decode(self) -> Any:
        self._decoded.append(self._packet.pts)
        return self._packet.decode()


class _Broken(_Counting):
    """A packet that cannot be decoded where it is not of the first half second."""

    def __init__(self, packet: Any) -> None:
        super().__init__(packet, [])

    def decode(self) -> Any:
        if self._packet.pts is None or self._packet.pts * self._packet.time_base > 0.5:
            raise av.InvalidDataError(1, "damaged")
        return super().decode()
