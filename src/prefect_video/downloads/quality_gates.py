"""Quality gates: one decode of a video for black, still and silent stretches and its end, judged by a policy.

`measure_content` is synchronous and reads from disk; call it in a thread. It decodes without the frames that no other
one needs, looks at four pictures a second, each scaled to 64 by 36 grey points, and at the sound as 8 kHz mono.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prefect_video.downloads.media import Media, Mismatch, find_video_stream, open_container
from prefect_video.errors import InvalidVideo
from prefect_video.quality import Finding, FindingKind, Measures, Quality, QualityPolicy, score_quality
from prefect_video.shots import Shot

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.video.frame import VideoFrame

PICTURES_PER_SECOND: Final = 4
_WIDTH: Final = 64
_HEIGHT: Final = 36
_POINTS: Final = _WIDTH * _HEIGHT

_DARK: Final = bytes(range(26))
"""Grey levels of a black picture: up to a tenth of full brightness."""
_LIGHT_POINTS: Final = _POINTS // 50
"""Points of a black picture that may be lighter, such as a watermark's."""
_STILL_LEVELS: Final = 3
"""Difference in grey levels that encoding makes in a still picture."""
_STILL_POINTS: Final = 4
"""Points of a still picture that may differ by more."""
_SHORTEST_STILL_SECONDS: Final = 0.5
_STILL_SHARE: Final = 0.9
"""Share of a video's length that is a still picture from which it counts as frozen, however short it is."""

_SOUND_RATE: Final = 8000
_WINDOW_SECONDS: Final = 0.05
_WINDOW: Final = round(_SOUND_RATE * _WINDOW_SECONDS)
_FULL_SCALE: Final = 32768.0
_LOWEST_DB: Final = -120.0
_FADE_DB: Final = 10.0
"""Fall of the last window below the half second before it that counts as a fade."""
_WINDOWS_BEFORE_END: Final = 10


def measure_content(path: Path, media: Media, policy: QualityPolicy) -> Measures:
    """Decode a video once and measure its picture and sound.

    Args:
        path: The file.
        media: Its properties, from `probe`.
        policy: The gates of its project, which say what is silence and what is an abrupt end.

    Raises:
        InvalidVideo: It cannot be decoded to its end.
        OSError: The file cannot be read.
    """
    import av

    with open_container(path) as container:
        video = find_video_stream(container, path)
        audio = next(iter(container.streams.audio), None)
        picture, sound = _Picture(), _Sound(policy.silence_db)
        # Frames that no other one needs are often every second one; enough are left to look at four a second.
        video.codec_context.skip_frame = "NONREF"
        video.thread_type = "AUTO"
        picture_end = 0.0
        try:
            for packet in container.demux([video, audio] if audio else [video]):
                if packet.stream is video and packet.pts is not None:
                    picture_end = max(picture_end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                for frame in packet.decode():
                    if isinstance(frame, av.VideoFrame):
                        picture.add(frame)
                    elif isinstance(frame, av.AudioFrame):
                        sound.add(frame)
        except (av.FFmpegError, ValueError) as error:
            raise InvalidVideo(f"{path.name}: cannot be decoded to its end ({error})") from error
    picture.finish(media.duration_seconds)
    sound.finish()
    stated_end = max(media.duration_seconds, sound.seconds)
    return Measures(
        black_share=round(picture.black_seconds / media.duration_seconds, 4),
        frozen_seconds=round(max(picture.stills, default=0.0), 3),
        frozen_share=round(sum(picture.stills) / media.duration_seconds, 4),
        silent_share=None if audio is None else round(sound.silent_share, 4),
        abrupt_end=_describe_end(stated_end - picture_end, list(sound.levels), policy),
    )


def assess_quality(
    media: Media,
    measures: Measures | None,
    mismatches: Sequence[Mismatch],
    shot: Shot,
    policy: QualityPolicy,
) -> Quality:
    """Judge a video by the gates of its project.

    Args:
        media: Its properties.
        measures: Its measured content; None where no gate needs it.
        mismatches: Its differences from the request, from `find_mismatches`.
        shot: The request.
        policy: Thresholds and consequences.
    """
    wants_audio = shot.audio is True
    found: list[tuple[FindingKind, str]] = [
        (mismatch.kind, mismatch.reason) for mismatch in mismatches if mismatch.kind != "format"
    ]
    kinds = {kind for kind, _ in found}
    if measures is not None:
        found += _find_faults(media, measures, policy, wants_audio=wants_audio)
    findings = tuple(
        Finding(kind=kind, detail=detail, policy=consequence)
        for kind, detail in found
        if (consequence := policy.policy_of(kind)) not in (None, "accept") and consequence is not None
    )
    length_error = (media.duration_seconds - shot.length_seconds) / shot.length_seconds
    score = score_quality(
        measures or Measures(silent_share=0.0),
        wants_audio=wants_audio,
        length_error=length_error if "length" in kinds else 0.0,
        is_size_right="size" not in kinds,
    )
    return Quality(score=score, findings=findings, measures=measures)


def _find_faults(
    media: Media, measures: Measures, policy: QualityPolicy, *, wants_audio: bool
) -> Iterator[tuple[FindingKind, str]]:
    if measures.black_share >= policy.black_share:
        yield "black", f"the picture is black for {measures.black_share:.0%} of its length"
    if measures.frozen_seconds >= min(policy.frozen_seconds, _STILL_SHARE * media.duration_seconds):
        yield "frozen", f"the picture stands still for {measures.frozen_seconds:.1f} s"
    # A missing sound track is a mismatch.
    if wants_audio and measures.silent_share is not None and measures.silent_share >= policy.silent_share:
        yield "silent", f"its sound is below {policy.silence_db:g} dB for {measures.silent_share:.0%} of its length"
    if measures.abrupt_end:
        yield "abrupt_end", measures.abrupt_end


def _describe_end(missing_seconds: float, levels: list[float], policy: QualityPolicy) -> str | None:
    if missing_seconds > policy.abrupt_end_seconds:
        return f"the picture ends {missing_seconds:.2f} s before the end that the file states"
    if len(levels) <= _WINDOWS_BEFORE_END:
        return None
    last, before = levels[-1], levels[-1 - _WINDOWS_BEFORE_END : -1]
    if last > policy.abrupt_end_db and last > sum(before) / len(before) - _FADE_DB:
        return f"the sound is cut off at {last:.0f} dB"
    return None


class _Picture:
    """Black and still stretches of a picture, from a few small pictures a second.

    Attributes:
        black_seconds: Length of all black stretches.
        stills: Lengths of the still stretches that are not black, of half a second and more.
    """

    def __init__(self) -> None:
        self.black_seconds = 0.0
        self.stills: list[float] = []
        self._begin: float | None = None
        self._time = 0.0
        self._is_black = False
        self._still: bytes | None = None
        self._still_since = 0.0

    def add(self, frame: VideoFrame) -> None:
        """Look at a frame, unless the last one is too near."""
        if frame.time is None:
            return
        if self._begin is None:
            self._begin = frame.time
        # A tenth less, as the times of frames are rounded.
        elif frame.time < self._time + 0.9 / PICTURES_PER_SECOND:
            return
        points = _to_points(frame)
        is_black = len(points.translate(None, _DARK)) <= _LIGHT_POINTS
        if self._is_black:
            self.black_seconds += frame.time - self._time
        if is_black or self._still is None or _differ(self._still, points):
            # The picture stood still up to the last look only.
            self._end_still(self._time)
            self._still, self._still_since = None if is_black else points, frame.time
        self._time, self._is_black = frame.time, is_black

    def finish(self, seconds: float) -> None:
        """End the last stretches at the end of the video.

        Args:
            seconds: Length of the video.
        """
        end = max(self._time, (self._begin or 0.0) + seconds)
        if self._is_black:
            self.black_seconds += end - self._time
        self._end_still(end if self._still_since < self._time else self._time)

    def _end_still(self, end: float) -> None:
        if self._still is not None and end - self._still_since >= _SHORTEST_STILL_SECONDS:
            self.stills.append(end - self._still_since)


def _to_points(frame: VideoFrame) -> bytes:
    """Return a frame as grey levels, line by line."""
    plane = frame.reformat(width=_WIDTH, height=_HEIGHT, format="gray", interpolation="AREA").planes[0]
    content = bytes(plane)
    if plane.line_size == _WIDTH:
        return content[:_POINTS]
    return b"".join(content[start : start + _WIDTH] for start in range(0, plane.line_size * _HEIGHT, plane.line_size))


def _differ(before: bytes, after: bytes) -> bool:
    moved = sum(abs(first - second) > _STILL_LEVELS for first, second in zip(before, after, strict=True))
    return moved > _STILL_POINTS


class _Sound:
    """Levels of a sound track, in windows of 50 ms.

    Attributes:
        levels: The newest levels, in dB below full scale.
        seconds: Length of the sound.
    """

    def __init__(self, silence_db: float) -> None:
        import av

        self.levels: deque[float] = deque(maxlen=_WINDOWS_BEFORE_END + 1)
        self.seconds = 0.0
        self._silence_db = silence_db
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=_SOUND_RATE)
        self._samples = array("h")
        self._windows = self._silent_windows = 0

    @property
    def silent_share(self) -> float:
        """Share of the windows that are silent."""
        return self._silent_windows / self._windows if self._windows else 1.0

    def add(self, frame: AudioFrame) -> None:
        """Measure a frame."""
        if frame.time is not None:
            self.seconds = max(self.seconds, frame.time + frame.samples / frame.sample_rate)
        self._measure(frame)

    def finish(self) -> None:
        """Measure what is left; less than half a window says nothing."""
        if self._windows or self._samples:
            self._measure(None)
        if len(self._samples) >= _WINDOW // 2:
            self._add_window(self._samples)

    def _measure(self, frame: AudioFrame | None) -> None:
        for resampled in self._resampler.resample(frame):
            self._samples.frombytes(bytes(resampled.planes[0])[: 2 * resampled.samples])
        whole = len(self._samples) // _WINDOW * _WINDOW
        for start in range(0, whole, _WINDOW):
            self._add_window(self._samples[start : start + _WINDOW])
        del self._samples[:whole]

    def _add_window(self, samples: array[int]) -> None:
        power = sum(sample * sample for sample in samples) / len(samples)
        level = 10 * math.log10(power / _FULL_SCALE**2) if power else _LOWEST_DB
        self.levels.append(level)
        self._windows += 1
        self._silent_windows += level < self._silence_db
