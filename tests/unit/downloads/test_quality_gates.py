"""Measured content: planted faults are found where they are, and what looks like one is none."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest
from PIL import Image

from prefect_video.downloads import find_mismatches, probe
from prefect_video.downloads.quality_gates import assess_quality, measure_content
from prefect_video.quality import Measures, QualityPolicy, score_quality
from prefect_video.shots import Shot

FPS = 24
SIZE = (320, 180)
RATE = 48_000


def moving(frame: int) -> Image.Image:
    """Draw a bar that moves two pixels a frame over a grey ramp."""
    picture = Image.linear_gradient("L").resize(SIZE).convert("RGB")
    picture.paste((230, 220, 90), (2 * frame % SIZE[0], 60, 2 * frame % SIZE[0] + 12, 120))
    return picture


def write(
    path: Path,
    picture: Callable[[int], Image.Image],
    *,
    seconds: float = 4,
    level: Callable[[float], float] | None = None,
    sound_seconds: float | None = None,
    policy: QualityPolicy | None = None,
) -> Measures:
    """Write a clip, with a tone whose level depends on the time, and measure it."""
    with av.open(str(path), "w") as output:
        track = output.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "28"})
        track.width, track.height, track.pix_fmt = *SIZE, "yuv420p"
        sound = output.add_stream("aac", rate=RATE) if level else None
        for number in range(round(seconds * FPS)):
            frame = av.VideoFrame.from_image(picture(number))
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
        if sound and level:
            for start in range(0, round((sound_seconds or seconds) * RATE), 1024):
                tone = av.AudioFrame(format="fltp", layout="mono", samples=1024)
                waves = (
                    level(index / RATE) * math.sin(math.tau * 220 * index / RATE)
                    for index in range(start, start + 1024)
                )
                tone.planes[0].update(array("f", waves).tobytes())
                tone.sample_rate, tone.pts, tone.time_base = RATE, start, Fraction(1, RATE)
                output.mux(sound.encode(tone))
            output.mux(sound.encode(None))
    return measure_content(path, probe(path), policy or QualityPolicy())


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Name a file for a clip."""
    return tmp_path / "clip.mp4"


def test_a_black_stretch_is_measured_and_is_not_frozen(clip: Path) -> None:
    def picture(frame: int) -> Image.Image:
        return Image.new("RGB", SIZE) if 24 <= frame < 72 else moving(frame)

    measures = write(clip, picture)
    assert measures.black_share == pytest.approx(0.5, abs=0.07)
    assert (measures.frozen_seconds, measures.silent_share) == (0.0, None)


def test_a_still_stretch_is_measured_also_at_the_end(clip: Path) -> None:
    measures = write(clip, lambda frame: moving(min(frame, 48)))
    assert measures.frozen_seconds == pytest.approx(2.0, abs=0.3)
    assert measures.frozen_share == pytest.approx(0.5, abs=0.1)
    assert measures.black_share == 0


def test_slow_motion_and_a_dark_scene_are_no_faults(clip: Path) -> None:
    slow = write(clip, lambda frame: Image.linear_gradient("L").resize(SIZE).rotate(frame / FPS * 2).convert("RGB"))
    assert slow.frozen_seconds < 1
    dark = write(clip, lambda frame: moving(frame).point(lambda value: value // 6))
    assert (dark.black_share, dark.frozen_seconds < 1) == (0, True)


def test_silence_and_a_cut_off_end_are_heard(clip: Path) -> None:
    loud = write(clip, moving, level=lambda _: 0.3)
    assert loud.silent_share == 0
    assert "the sound is cut off at -" in str(loud.abrupt_end)
    faded = write(clip, moving, level=lambda time: 0.3 * max(0.0, 1 - time / 3.9))
    assert faded.abrupt_end is None
    accepted = write(clip, moving, level=lambda _: 0.3, policy=QualityPolicy(abrupt_end_db=-3))
    assert accepted.abrupt_end is None
    mute = write(clip, moving, level=lambda time: 0.3 if time < 0.2 else 0.0)
    assert mute.silent_share == pytest.approx(0.95, abs=0.03)
    assert mute.abrupt_end is None


def test_a_picture_that_ends_before_the_sound_ends_abruptly(clip: Path) -> None:
    measures = write(clip, moving, seconds=2, sound_seconds=3, level=lambda time: 0.3 * max(0.0, 1 - time / 2.9))
    assert str(measures.abrupt_end).startswith("the picture ends 1.")
    assert measure_content(clip, probe(clip), QualityPolicy(abrupt_end_seconds=2)).abrupt_end is None


def test_the_policy_decides_what_a_finding_is(clip: Path) -> None:
    measures = write(clip, lambda frame: moving(min(frame, 48)))
    media, shot = probe(clip), Shot(id="a", prompt="a", duration=4, size="320x180", audio=True)

    def assess(**policy: object) -> list[tuple[str, str]]:
        given = QualityPolicy.model_validate(policy)
        quality = assess_quality(media, measures, find_mismatches(media, shot, given), shot, given)
        return [(finding.kind, finding.policy) for finding in quality.findings]

    assert assess(frozen_seconds=3) == [("silent", "flag")]
    assert assess(frozen_seconds=1, silent="retake") == [("silent", "retake"), ("frozen", "flag")]
    assert assess(frozen_seconds=1, frozen="accept", silent="accept") == []
    # Another size than requested is a finding from the project's own tolerance on.
    shot = shot.model_copy(update={"size": "330x180"})
    assert assess(frozen="accept", silent="accept", size="retake") == []
    assert assess(frozen="accept", silent="accept", size="retake", size_tolerance_share=0.01) == [("size", "retake")]


def test_a_better_take_has_a_higher_score() -> None:
    good, frozen = Measures(silent_share=0.0), Measures(silent_share=0.0, frozen_share=0.4)
    scores = [
        score_quality(good, wants_audio=True),
        score_quality(good.model_copy(update={"abrupt_end": "cut off"}), wants_audio=True),
        score_quality(frozen, wants_audio=True),
        score_quality(Measures(frozen_share=0.4), wants_audio=True),
        score_quality(Measures(black_share=1.0), wants_audio=False),
    ]
    assert scores == sorted(scores, reverse=True)
    assert (scores[0], scores[-1]) == (1.0, 0.0)
    assert score_quality(good, wants_audio=False, length_error=-0.25) == 0.75
