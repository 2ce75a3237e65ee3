"""Joining of clips without encoding: their packets as they are, one clip after the other."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
from av.container import OutputContainer

from prefect_video.errors import FilmError
from prefect_video.film.arrangement import ArrangedPart, Arrangement
from prefect_video.film.captions import load_cues
from prefect_video.film.clip_media import find_picture, open_clip
from prefect_video.film.cut import CutClip, Trim
from prefect_video.film.encoder import Progress, add_text_track

_VIDEO: Final = frozenset({"h264", "hevc", "av1"})
_AUDIO: Final = frozenset({"aac", "mp3", "ac3"})
"""Codecs that players expect in an MP4."""


def can_copy(film: Arrangement) -> bool:
    """Return whether a film is its clips, unchanged, and all of them agree in everything that a decoder needs."""
    cut, clips = film.cut, film.clips
    first = clips[0].clip
    assert first is not None
    is_unchanged = (
        len(clips) == len(film.parts)
        and all(part.crossfade == 0 and _is_whole(part) for part in clips)
        and cut.music is None
        and cut.loudness is None
        and cut.encoder is None
        and (cut.captions is None or cut.captions.mode == "soft")
        and (film.form.size, film.form.fps) == (first.stored_size, first.fps)
        # Turned pixels and pixels that are not square are left to few players: such clips are encoded as they are seen.
        and first.rotation == 0
        and first.pixel_aspect == 1
    )
    video, audio = first.key[1], first.key[2]
    fits_container = video[0] in _VIDEO and (audio is None or audio[0] in _AUDIO)
    return (
        is_unchanged and fits_container and all(part.clip is not None and part.clip.key == first.key for part in clips)
    )


def _is_whole(part: ArrangedPart) -> bool:
    return isinstance(part.content, CutClip) and part.content.trim == Trim() and part.first == 0


def copy_film(film: Arrangement, target: Path, progress: Progress) -> None:
    """Write a film by copying the packets of its clips.

    Raises:
        FilmError: A clip cannot be read, or the container refuses its packets.
    """
    try:
        with av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as output:
            joiner: _Joiner | None = None
            for number, part in enumerate(film.clips):
                assert part.clip is not None
                with open_clip(part.clip.path) as source:
                    joiner = joiner or _Joiner(output, source, film)
                    joiner.add(source, part.clip.seconds)
                progress((number + 1) / len(film.clips))
    except av.FFmpegError as error:
        raise FilmError(f"the clips cannot be joined without encoding: {error}") from error


class _Joiner:
    """Writer of packets, which moves those of every clip to the end of the clips before."""

    def __init__(self, output: OutputContainer, first: Any, film: Arrangement) -> None:
        self._output = output
        self._streams = [output.add_stream_from_template(stream) for stream in _streams(first)]
        self._base = Fraction(0)
        self._last: dict[int, int] = {}
        captions = film.cut.captions
        if captions is not None:
            add_text_track(output, load_cues(captions), captions.language, film.seconds)

    def add(self, source: Any, seconds: Fraction) -> None:
        """Copy the packets of a clip."""
        streams = _streams(source)
        targets = {stream.index: target for stream, target in zip(streams, self._streams, strict=True)}
        for packet in source.demux(*streams):
            if packet.dts is None or packet.pts is None:
                continue
            target = targets[packet.stream.index]
            shift = round(self._base / packet.time_base)
            packet.pts += shift
            packet.dts += shift
            # The sound of a clip begins with a packet before its start, which overlaps the one before.
            if packet.dts <= self._last.get(target.index, packet.dts - 1):
                continue
            self._last[target.index] = packet.dts
            packet.stream = target
            self._output.mux(packet)
        self._base += seconds


def _streams(container: Any) -> list[Any]:
    return [find_picture(container), *container.streams.audio[:1]]
