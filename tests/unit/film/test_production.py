"""Films from clips of one colour and one tone each, proven by decoding them whole."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from prefect_video.errors import FilmError
from prefect_video.film import Cut, ProducedFilm, produce_film
from prefect_video.film.cut import Transition
from prefect_video.film.sound import measure_loudness
from tests.support.films import mean_colour, packet_digests, read_frames, sound_levels, turn_clockwise, write_clip

QUICK = {"codec": "libx264", "preset": "ultrafast", "crf": 12}
CROSSFADE = Transition(type="crossfade")
RED, BLUE = "#b03024", "#2448b0"

Produce = Callable[..., ProducedFilm]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two clips that agree, a silent one, and a portrait one at another rate; all of 2 s."""
    folder = tmp_path_factory.mktemp("clips")
    return {
        "red": write_clip(folder / "red.mp4", RED, hz=440),
        "blue": write_clip(folder / "blue.mp4", BLUE, hz=880),
        "silent": write_clip(folder / "silent.mp4", BLUE),
        "tall": write_clip(folder / "tall.mp4", BLUE, size=(180, 320), fps=30, hz=660),
    }


@pytest.fixture
def produce(clips: dict[str, Path], tmp_path: Path) -> Produce:
    """Return a function: `produce(["red", "blue"], transition="crossfade")`."""

    def make(order: list[Any], **cut: Any) -> ProducedFilm:
        record = Cut.model_validate({"order": order, **cut})
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return produce_film(record, dict.fromkeys(clips), clips, folder, lambda share: None)

    return make


def is_near(first: tuple[float, ...], second: tuple[float, ...], tolerance: float = 5) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(first, second, strict=True))


def test_the_middle_of_a_crossfade_is_the_mean_of_both_clips(produce: Produce, clips: dict[str, Path]) -> None:
    film = produce(["red", "blue"], transition={"type": "crossfade", "seconds": 1}, encoder=QUICK)
    frames = read_frames(film.path)
    assert (len(frames), film.measures.seconds, film.is_copied) == (72, pytest.approx(3.0, abs=0.01), False)
    red, blue = (mean_colour(read_frames(clips[name])[0]) for name in ("red", "blue"))
    mean = tuple((a + b) / 2 for a, b in zip(red, blue, strict=True))
    assert is_near(mean_colour(frames[23]), red)
    assert is_near(mean_colour(frames[36]), mean)
    assert is_near(mean_colour(frames[48]), blue)
    reds = [mean_colour(frame)[0] for frame in frames[24:48]]
    assert all(earlier > later for earlier, later in pairwise(reds))
    # The sound fades with the picture, at constant power.
    assert film.measures.sound_seconds == pytest.approx(3.0, abs=0.05)
    assert max(sound_levels(film.path)) - min(sound_levels(film.path)) < 1.5


def test_burned_captions_change_the_lower_third_while_they_last(produce: Produce) -> None:
    cues = [{"start": 0.5, "end": 1.0, "text": "Grüße aus Øst"}]
    plain = read_frames(produce(["red"], encoder=QUICK).path)
    captioned = read_frames(produce(["red"], encoder=QUICK, captions=cues).path)
    lower, rest = (0, 120, 320, 180), (0, 0, 320, 110)
    shown = [
        not is_near(mean_colour(a, lower), mean_colour(b, lower), 3) for a, b in zip(plain, captioned, strict=True)
    ]
    assert [number for number, is_shown in enumerate(shown) if is_shown] == list(range(12, 24))
    assert is_near(mean_colour(plain[18], rest), mean_colour(captioned[18], rest), 2)
    assert captioned[18].crop(lower).getextrema()[0][1] > 235


@pytest.mark.parametrize("fit", ["crop", "pad", "blur"])
def test_every_shape_becomes_the_format_that_is_asked_for(produce: Produce, fit: str) -> None:
    form = {"aspect_ratio": "9:16", "resolution": "180p", "fps": 25, "fit": fit, "background": "#00ff00"}
    film = produce(["red", "tall"], format=form, encoder=QUICK)
    frames = read_frames(film.path)
    assert {frame.size for frame in frames} == {(180, 320)}
    assert (len(frames), film.measures.fps) == (100, 25)
    edge = mean_colour(frames[20], (0, 0, 180, 20))
    assert is_near(edge, (0, 255, 0), 12) is (fit == "pad")
    assert is_near(mean_colour(frames[20], (60, 140, 120, 180)), mean_colour(Image.new("RGB", (4, 4), RED)), 8)
    assert is_near(mean_colour(frames[80]), mean_colour(Image.new("RGB", (4, 4), BLUE)), 8)


def test_pixels_that_are_not_square_are_made_square(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "wide.mp4", RED, size=(240, 180), pixel_aspect=Fraction(4, 3), seconds=0.5)
    film = produce_film(Cut.model_validate({"encoder": QUICK}), {"a": None}, {"a": clip}, tmp_path, lambda share: None)
    assert (film.measures.width, film.measures.height) == (320, 180)


def test_a_clip_of_a_phone_stands_upright(tmp_path: Path) -> None:
    clip = turn_clockwise(write_clip(tmp_path / "phone.mp4", RED, right_colour=BLUE, seconds=0.5))
    film = produce_film(Cut(), {"a": None}, {"a": clip}, tmp_path, lambda share: None)
    frame = read_frames(film.path)[6]
    assert frame.size == (180, 320)
    assert mean_colour(frame, (20, 20, 160, 140))[0] > 120 > mean_colour(frame, (20, 180, 160, 300))[0]


def test_a_clip_is_trimmed_at_the_frame(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "ramp.mp4"), "w") as output:
        stream = output.add_stream("libx264", rate=24, options={"preset": "ultrafast", "crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(48):
            output.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 64), (5 * number,) * 3))))
        output.mux(stream.encode(None))
    cut = Cut.model_validate({"order": [{"shot": "a", "trim": {"start": 0.5, "end": 1.25}}], "encoder": QUICK})
    film = produce_film(cut, {"a": None}, {"a": tmp_path / "ramp.mp4"}, tmp_path, lambda share: None)
    greys = [mean_colour(frame)[0] for frame in read_frames(film.path)]
    source = [mean_colour(frame)[0] for frame in read_frames(tmp_path / "ramp.mp4")]
    assert greys == pytest.approx(source[12:30], abs=2.4)


def test_clips_that_agree_are_joined_without_encoding(produce: Produce, clips: dict[str, Path]) -> None:
    cues = [{"start": 0.5, "end": 1.5, "text": "one & two\nthree"}, {"start": 3.0, "end": 3.5, "text": "four"}]
    film = produce(["red", "blue", "red"], captions={"cues": cues, "mode": "soft", "language": "deu"})
    assert film.is_copied
    joined = [packet_digests(clips[name]) for name in ("red", "blue", "red")]
    assert packet_digests(film.path) == [*joined[0], *joined[1], *joined[2]]
    assert (film.measures.frames, film.measures.seconds) == (144, pytest.approx(6.0, abs=0.1))
    assert film.measures.sound_seconds == pytest.approx(6.0, abs=0.1)
    with av.open(str(film.path)) as container:
        (track,) = container.streams.subtitles
        texts = [bytes(packet).decode("utf-8", "replace") for packet in container.demux(track) if packet.size > 2]
        assert track.metadata["language"] == "deu"
    assert [text[2:] for text in texts] == ["one & two\nthree", "four"]


def test_clips_that_differ_are_encoded(produce: Produce) -> None:
    film = produce(["red", "silent"])
    assert not film.is_copied
    levels = sound_levels(film.path)
    assert film.measures.sound_seconds == pytest.approx(4.0, abs=0.05)
    assert max(levels[9:]) < -80 < -20 < min(levels[1:7])


def test_music_lasts_and_gives_way_and_the_loudness_is_as_asked(produce: Produce, tmp_path: Path) -> None:
    music = write_clip(tmp_path / "music.mp4", RED, hz=220, seconds=1, level=0.5)
    bed = {"file": str(music), "gain_db": -6, "fade_in_seconds": 0, "fade_out_seconds": 1}
    card = {"text": "The end", "seconds": 3}
    film = produce(["red"], end_card=card, music=bed, loudness={"target_lufs": -18}, encoder=QUICK)
    loudness = measure_loudness(film.path)
    assert loudness is not None
    assert loudness.lufs == pytest.approx(-18, abs=0.5)
    assert film.measures.lufs == pytest.approx(-18, abs=0.5)
    assert film.measures.seconds == pytest.approx(5.0, abs=0.1)
    # It is there under the card, although the file is shorter, and has faded out at the end.
    levels = sound_levels(film.path)
    assert levels[14] > -35
    assert levels[-1] < levels[14] - 10
    loud = produce(["red"], end_card=card, music={**bed, "duck": False}, encoder=QUICK)
    ducked = produce(["red"], end_card=card, music=bed, encoder=QUICK)
    assert sound_levels(ducked.path)[4] < sound_levels(loud.path)[4] - 1
    assert sound_levels(ducked.path)[14] == pytest.approx(sound_levels(loud.path)[14], abs=0.5)


@pytest.mark.parametrize(("codec", "preset", "name"), [("libsvtav1", "12", "av1"), ("libvpx-vp9", "8", "vp9")])
def test_other_encoders_make_films_in_their_containers(produce: Produce, codec: str, preset: str, name: str) -> None:
    film = produce(["red"], title_card="Hello", encoder={"codec": codec, "preset": preset}, preview="gif")
    assert (film.measures.codec, film.path.suffix) == (name, ".webm" if name == "vp9" else ".mp4")
    assert film.measures.seconds == pytest.approx(5.0, abs=0.1)
    assert film.measures.sound_seconds == pytest.approx(5.0, abs=0.1)
    assert film.previews.animation.startswith(b"GIF89a")
    frames = read_frames(film.path)
    assert frames[30].getextrema()[0] == pytest.approx((20, 244), abs=14)


def test_what_cannot_be_made_is_named(produce: Produce, clips: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FilmError, match=r"clip 'red' lasts 2 s, and the crossfades at its ends take 3 s"):
        produce(["red", "blue"], transition={"type": "crossfade", "seconds": 3})
    cut_off = tmp_path / "cut_off.mp4"
    content = bytearray(clips["red"].read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    cut_off.write_bytes(content)
    with pytest.raises(FilmError, match=r"cut_off|broken|damaged|decoded|opened"):
        produce_film(Cut.model_validate({"encoder": QUICK}), {"a": None}, {"a": cut_off}, tmp_path, lambda share: None)


def test_a_continuation_does_not_show_the_last_frame_twice(clips: dict[str, Path], tmp_path: Path) -> None:
    shots = {"red": None, "blue": "red"}
    cut = Cut.model_validate({"order": ["red", "blue"]})
    film = produce_film(cut, shots, clips, tmp_path, lambda share: None)
    assert (film.measures.frames, film.is_copied) == (95, False)
    faded = produce_film(cut.model_copy(update={"transition": CROSSFADE}), shots, clips, tmp_path, lambda share: None)
    assert faded.measures.frames == 96 - 12
