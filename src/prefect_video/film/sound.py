"""Sound of a film: the clips' own, joined and crossfaded, music under it, and one loudness for all.

It is mixed into a file first, because its loudness can be set only once the whole of it was measured. Everything is a
stream of stereo samples at 48 kHz; the file takes 23 MB a minute.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import av.filter
from av import AudioFrame
from av.audio.fifo import AudioFifo
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.filter.context import FilterContext
from av.filter.loudnorm import stats as measure_loudnorm

from prefect_video.errors import FilmError
from prefect_video.film.clip_media import ClipMedia, find_picture, open_clip, open_media
from prefect_video.film.cut import Loudness, Music
from prefect_video.film.graph import SAMPLE_RATE, Step, add_sound_source, close_chain, drain, link_chain, push

Sound = Iterator[AudioFrame]

_CHUNK: Final = 4800
_FORMAT: Final = "sample_fmts=fltp:channel_layouts=stereo:sample_rates=48000"
_LOUDNESS_RANGE: Final = 11
_LUFS: Final = "lavfi.r128.I"
_TRUE_PEAK: Final = "lavfi.r128.true_peak"
_QUIETEST_LUFS: Final = -70.0
"""Lowest mark of the meter, which stands for silence."""
_DUCKING: Final = "threshold=0.03:ratio=6:attack=20:release=450"


@dataclass(frozen=True)
class SoundPart:
    """Part of the film's sound.

    Attributes:
        sound: Its frames.
        samples: How many samples they hold.
        crossfade: How many of them are mixed with the last ones of the part before.
    """

    sound: Sound
    samples: int
    crossfade: int = 0


def clip_sound(clip: ClipMedia, start_seconds: Fraction, samples: int) -> Sound:
    """Yield the sound of a clip from a second on; silence where it has none, or ends before its picture.

    Raises:
        FilmError: It cannot be decoded.
    """
    if not clip.has_sound:
        yield from silence(samples)
        return
    first = round(start_seconds * SAMPLE_RATE)
    try:
        with open_clip(clip.path) as container:
            yield from _filtered_sound(container, first, first + samples)
    except av.FFmpegError as error:
        raise FilmError(f"{clip.path.name}: its sound is damaged ({error})") from error


def _filtered_sound(container: InputContainer, first: int, end: int) -> Sound:
    picture = find_picture(container)
    # Sound and picture begin at their own times; second 0 of a clip is where its picture begins.
    began = float((picture.start_time or 0) * Fraction(picture.time_base or 0))
    graph, source, sink = None, None, None
    for frame in container.decode(container.streams.audio[0]):
        if source is None or sink is None:
            graph = av.filter.Graph()
            source = add_sound_source(
                graph,
                rate=frame.sample_rate,
                sample_format=frame.format.name,
                layout=frame.layout.name,
                time_base=frame.time_base,
            )
            last = link_chain(
                graph,
                source,
                [
                    ("asetpts", f"PTS-({began:.6f})/TB"),
                    ("aresample", f"{SAMPLE_RATE}:async=1:first_pts=0"),
                    ("aformat", _FORMAT),
                    ("apad", f"whole_len={end}"),
                    ("atrim", f"start_sample={first}:end_sample={end}"),
                ],
            )
            sink = close_chain(graph, last, "abuffersink")
        push(source, frame)
        yield from drain(sink)
    if source is None or sink is None:
        yield from silence(end - first)
        return
    push(source, None)
    yield from drain(sink)


def silence(samples: int) -> Sound:
    """Yield so many samples of silence."""
    while samples > 0:
        count = min(samples, _CHUNK)
        frame = AudioFrame(format="fltp", layout="stereo", samples=count)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate = SAMPLE_RATE
        yield frame
        samples -= count


class _Reader:
    """Reader of a stream of frames by numbers of samples."""

    def __init__(self, sound: Sound) -> None:
        self._sound = sound
        self._fifo = AudioFifo()

    def read(self, samples: int) -> AudioFrame | None:
        """Return the next samples, fewer at the end; None behind it."""
        while self._fifo.samples < samples:
            frame = next(self._sound, None)
            if frame is None:
                break
            # The fifo compares times, and those of a graph's output need not continue those of the last.
            frame.pts = None
            self._fifo.write(frame)
        return self._fifo.read(samples, partial=True)

    def take(self, samples: int) -> Sound:
        """Yield the next samples; silence where there are fewer."""
        while samples > 0:
            frame = self.read(min(samples, _CHUNK))
            if frame is None:
                yield from silence(samples)
                return
            samples -= frame.samples
            yield frame


def join_sound(parts: Sequence[SoundPart]) -> Sound:
    """Yield the sound of all parts, one after the other, with crossfades between them."""
    reader, left = _Reader(parts[0].sound), parts[0].samples
    for following in parts[1:]:
        yield from reader.take(left - following.crossfade)
        beginning = _Reader(following.sound)
        if following.crossfade:
            yield from _crossfade(
                reader.take(following.crossfade), beginning.take(following.crossfade), following.crossfade
            )
        reader, left = beginning, following.samples - following.crossfade
    yield from reader.take(left)


def _crossfade(ending: Sound, beginning: Sound, samples: int) -> Sound:
    """Mix two sounds of equal length, from the first to the second, at constant power."""
    graph = av.filter.Graph()
    first, second = add_sound_source(graph), add_sound_source(graph)
    mix = graph.add("acrossfade", f"ns={samples}:c1=qsin:c2=qsin")
    first.link_to(mix, 0, 0)
    second.link_to(mix, 0, 1)
    sink = close_chain(graph, link_chain(graph, mix, [("aformat", _FORMAT)]), "abuffersink")
    for source, sound in ((first, ending), (second, beginning)):
        for frame in _stamped(sound):
            push(source, frame)
        push(source, None)
    yield from _Reader(drain(sink)).take(samples)


def _stamped(sound: Sound) -> Sound:
    """Yield frames with the times that they have one after the other."""
    position = 0
    for frame in sound:
        frame.pts, frame.time_base, frame.sample_rate = position, Fraction(1, SAMPLE_RATE), SAMPLE_RATE
        position += frame.samples
        yield frame


def add_music(sound: Sound, samples: int, music: Music) -> Sound:
    """Yield a film's sound with music under it.

    Args:
        sound: The clips' own sound.
        samples: Its length.
        music: The music.

    Raises:
        FilmError: The music cannot be decoded.
    """
    graph = av.filter.Graph()
    clips, track, sink = _build_music_graph(graph, music, samples / SAMPLE_RATE)
    reader = _Reader(sound)
    for frame, bar in zip(_stamped(reader.take(samples)), _stamped(_read_music(music, samples)), strict=False):
        push(clips, frame)
        push(track, bar)
        yield from drain(sink)
    push(clips, None)
    push(track, None)
    yield from drain(sink)


def _build_music_graph(
    graph: av.filter.Graph, music: Music, seconds: float
) -> tuple[FilterContext, FilterContext, FilterContext]:
    """Build the graph that mixes music under a film; return its inputs for clips and music, and its output."""
    clips, track = add_sound_source(graph), add_sound_source(graph)
    fade_out = min(music.fade_out_seconds, seconds)
    bed = link_chain(
        graph,
        track,
        [
            ("volume", f"{music.gain_db}dB"),
            ("afade", f"t=in:d={max(min(music.fade_in_seconds, seconds), 0.01)}"),
            ("afade", f"t=out:st={max(0.0, seconds - fade_out):.6f}:d={max(fade_out, 0.01)}"),
        ],
    )
    own = clips
    if music.duck:
        own = graph.add("asplit")
        clips.link_to(own)
        duck = graph.add("sidechaincompress", _DUCKING)
        bed.link_to(duck, 0, 0)
        own.link_to(duck, 1, 1)
        bed = duck
    # Without `normalize=0` everything would be half as loud.
    mix = graph.add("amix", "inputs=2:duration=first:dropout_transition=0:normalize=0")
    own.link_to(mix, 0, 0)
    bed.link_to(mix, 0, 1)
    return clips, track, close_chain(graph, link_chain(graph, mix, [("aformat", _FORMAT)]), "abuffersink")


def _read_music(music: Music, samples: int) -> Sound:
    """Yield so many samples of a piece of music, in equal chunks, from its beginning again where it ends."""
    yield from _Reader(_loop_music(music)).take(samples)


def _loop_music(music: Music) -> Sound:
    path, start = Path(music.file), music.start
    while True:
        resampler = AudioResampler(format="fltp", layout="stereo", rate=SAMPLE_RATE)
        count = 0
        try:
            with open_clip(path) as container:
                for frame in container.decode(container.streams.audio[0]):
                    if frame.time is not None and frame.time + frame.samples / frame.sample_rate <= start:
                        continue
                    count += 1
                    yield from resampler.resample(frame)
                yield from resampler.resample(None)
        except av.FFmpegError as error:
            raise FilmError(f"music {path.name}: cannot be decoded ({error})") from error
        if not count:
            raise FilmError(f"music {path.name}: has no sound from second {start:g} on")
        start = 0.0


def write_sound(sound: Sound, path: Path) -> None:
    """Write sound to a file as floats, which clip nothing."""
    with av.open(str(path), "w", format="w64") as output:
        stream = output.add_stream("pcm_f32le", rate=SAMPLE_RATE, layout="stereo")
        for frame in _stamped(sound):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def read_sound(path: Path, loudness: Loudness | None) -> Sound:
    """Yield the sound of a file, brought to a loudness where one is given; silence stays as it is."""
    steps = [] if loudness is None else _find_correction(path, loudness)
    with open_media(path) as container:
        sound = _to_film_format(container.decode(container.streams.audio[0]))
        yield from _Reader(_filter_sound(sound, steps) if steps else sound).take(_count_samples(path))


def _count_samples(path: Path) -> int:
    with open_media(path) as container:
        stream = container.streams.audio[0]
        return round((stream.duration or 0) * Fraction(stream.time_base or 0) * SAMPLE_RATE)


def _to_film_format(frames: Iterator[AudioFrame]) -> Sound:
    resampler = AudioResampler(format="fltp", layout="stereo", rate=SAMPLE_RATE)
    for frame in frames:
        yield from resampler.resample(frame)
    yield from resampler.resample(None)


def _find_correction(path: Path, loudness: Loudness) -> list[Step]:
    """Measure a file, and return the filters that bring it to a loudness; none for silence.

    One gain for the whole leaves the dynamics as they are. Where the peaks do not allow it, `loudnorm` lowers them.
    """
    measured = measure_loudness(path)
    if measured is None:
        return []
    gain_db = loudness.target_lufs - measured.lufs
    if measured.true_peak_db + gain_db <= loudness.true_peak_db:
        return [("volume", f"{gain_db:.3f}dB")]
    wanted = f"I={loudness.target_lufs}:TP={loudness.true_peak_db}:LRA={_LOUDNESS_RANGE}"
    with open_media(path) as container:
        first_pass = json.loads(measure_loudnorm(wanted, container.streams.audio[0]))
    arguments = (
        f"{wanted}:measured_I={first_pass['input_i']}:measured_TP={first_pass['input_tp']}"
        f":measured_LRA={first_pass['input_lra']}:measured_thresh={first_pass['input_thresh']}"
        f":offset={first_pass['target_offset']}:linear=true"
    )
    # The filter answers in doubles at 192 kHz.
    return [("loudnorm", arguments), ("aresample", str(SAMPLE_RATE))]


def _filter_sound(sound: Sound, steps: Sequence[Step]) -> Sound:
    graph = av.filter.Graph()
    source = add_sound_source(graph)
    sink = close_chain(graph, link_chain(graph, source, [*steps, ("aformat", _FORMAT)]), "abuffersink")
    for frame in _stamped(sound):
        push(source, frame)
        yield from drain(sink)
    push(source, None)
    yield from drain(sink)


@dataclass(frozen=True)
class Measured:
    """Loudness of a file, by EBU R128.

    Attributes:
        lufs: Integrated loudness.
        true_peak_db: Highest peak in dBTP.
    """

    lufs: float
    true_peak_db: float


def measure_loudness(path: Path) -> Measured | None:
    """Measure the loudness of a file; None for silence, or where it has no sound."""
    with open_media(path) as container:
        if not container.streams.audio:
            return None
        graph = av.filter.Graph()
        source = add_sound_source(graph)
        meter = graph.add("ebur128", "metadata=1:peak=true")
        source.link_to(meter)
        sink = close_chain(graph, meter, "abuffersink")
        metadata: dict[str, str] = {}
        for frame in _stamped(_to_film_format(container.decode(container.streams.audio[0]))):
            push(source, frame)
            for metered in drain(sink):
                metadata = metered.metadata or metadata
    lufs, peak = float(metadata.get(_LUFS, _QUIETEST_LUFS)), float(metadata.get(_TRUE_PEAK, 0.0))
    if lufs <= _QUIETEST_LUFS or peak <= 0:
        return None
    return Measured(lufs, 20 * math.log10(peak))
