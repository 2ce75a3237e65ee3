"""Encoding of a film: its picture and sound through the filter graphs into one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
from av import AudioFrame
from av.container import OutputContainer
from av.subtitles.subtitle import SubtitleSet

from prefect_video.errors import FilmError
from prefect_video.film.arrangement import ArrangedPart, Arrangement
from prefect_video.film.captions import load_cues
from prefect_video.film.cut import Card, Codec, Cue, Encoder
from prefect_video.film.graph import SAMPLE_RATE
from prefect_video.film.picture import (
    Frames,
    Sequenced,
    burn_captions,
    clip_frames,
    film_colours,
    join,
    stamp,
    still_frames,
)
from prefect_video.film.sound import (
    Sound,
    SoundPart,
    add_music,
    clip_sound,
    join_sound,
    read_sound,
    silence,
    write_sound,
)
from prefect_video.film.thread_priority import keep_thread_priority
from prefect_video.film.titles import Typeface, draw_card

Progress = Callable[[float], None]
"""Called with the share that is done, 0 to 1; what it raises ends the work."""

_SOUND_SHARE: Final = 0.1
"""Share of the whole work that mixing the sound counts as."""
_KEYFRAME_SECONDS: Final = 2
_SOUND_BIT_RATE: Final = 192_000
_ASS_HEADER: Final = (
    b"[Script Info]\r\nScriptType: v4.00+\r\n\r\n[V4+ Styles]\r\n"
    b"Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic,"
    b" Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL,"
    b" MarginR, MarginV, Encoding\r\n"
    b"Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0\r\n\r\n"
    b"[Events]\r\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\r\n"
)


@dataclass(frozen=True)
class _CodecDefaults:
    """Defaults of an encoder.

    Attributes:
        crf: Quality.
        preset_option: Name of its option for speed.
        preset: Its speed.
        others: Further options.
        sound: Encoder of the sound in the same container.
    """

    crf: int
    preset_option: str
    preset: str
    others: dict[str, str]
    sound: str = "aac"


_CODECS: Final[dict[Codec, _CodecDefaults]] = {
    "libx264": _CodecDefaults(18, "preset", "medium", {}),
    "libsvtav1": _CodecDefaults(28, "preset", "8", {}),
    "libvpx-vp9": _CodecDefaults(30, "cpu-used", "4", {"deadline": "good", "row-mt": "1", "b": "0"}, "libopus"),
}


def find_absent_codecs(encoder: Encoder) -> list[str]:
    """Return which of the codecs that an encoder's film needs the installed FFmpeg does not have."""
    return [name for name in (encoder.codec, _CODECS[encoder.codec].sound) if not _can_encode(name)]


def _can_encode(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except ValueError:
        return False
    return True


def encode_film(film: Arrangement, target: Path, progress: Progress) -> None:
    """Write a film.

    Args:
        film: The film.
        target: The file, in a folder that has room for the sound as well.
        progress: Called for every frame.

    Raises:
        FilmError: A clip, the music or a font cannot be read, or the encoder refuses.
    """
    mix = target.with_suffix(".sound.w64")
    try:
        if film.has_sound:
            write_sound(_watch(_compose_sound(film), film.sample(film.frames), progress), mix)
        _write_film(film, mix, target, progress)
    except av.FFmpegError as error:
        raise FilmError(f"the film cannot be encoded: {error}") from error
    finally:
        mix.unlink(missing_ok=True)


def _watch(sound: Sound, samples: int, progress: Progress) -> Sound:
    done = 0
    for frame in sound:
        done += frame.samples
        progress(_SOUND_SHARE * done / samples)
        yield frame


def _compose_sound(film: Arrangement) -> Sound:
    parts = []
    for part in film.parts:
        samples = film.sample(part.end) - film.sample(part.begin)
        crossfade = film.sample(part.begin + part.crossfade) - film.sample(part.begin)
        start = part.first / film.form.fps
        sound = silence(samples) if part.clip is None else clip_sound(part.clip, start, samples)
        parts.append(SoundPart(sound, samples, crossfade))
    whole = join_sound(parts)
    music = film.cut.music
    return whole if music is None else add_music(whole, film.sample(film.frames), music)


def _compose_picture(film: Arrangement) -> Frames:
    typeface = Typeface.of(film.cut.font)
    parts = [Sequenced(_frames_of(part, film, typeface), part.count, part.crossfade) for part in film.parts]
    frames = join(parts, film.form)
    captions = film.cut.captions
    if captions is None or captions.mode == "soft":
        return frames
    return burn_captions(frames, load_cues(captions), film.form, typeface)


def _frames_of(part: ArrangedPart, film: Arrangement, typeface: Typeface) -> Frames:
    if isinstance(part.content, Card):
        # A generator, so that the card is drawn when its turn comes.
        yield from still_frames(draw_card(part.content, film.form.size, typeface), part.count)
    elif part.clip is not None:
        yield from clip_frames(part.clip, film.form, part.first, part.count)


def _write_film(film: Arrangement, mix: Path, target: Path, progress: Progress) -> None:
    encoder = film.cut.encoder or Encoder()
    options = {"movflags": "+faststart"} if encoder.container == "mp4" else {}
    with av.open(str(target), "w", format=encoder.container, options=options) as output:
        video = _add_video(output, film, encoder)
        audio = _add_audio(output, encoder) if film.has_sound else None
        captions = film.cut.captions
        if captions is not None and captions.mode == "soft":
            add_text_track(output, load_cues(captions), captions.language, film.seconds)
        sound = read_sound(mix, film.cut.loudness) if audio else iter(())
        heard = 0
        for number, frame in enumerate(_compose_picture(film)):
            output.mux(video.encode(stamp(frame, number, film.form.fps)))
            while audio is not None and heard < film.sample(number + 1):
                heard += _encode_next(output, audio, sound, heard)
            progress(_SOUND_SHARE + (1 - _SOUND_SHARE) * (number + 1) / film.frames)
        output.mux(video.encode(None))
        if audio is not None:
            output.mux(audio.encode(None))


def _encode_next(output: OutputContainer, audio: Any, sound: Iterator[AudioFrame], position: int) -> int:
    """Encode the next frame of the sound; return how many samples it has."""
    frame = next(sound)
    frame.pts, frame.time_base, frame.sample_rate = position, Fraction(1, SAMPLE_RATE), SAMPLE_RATE
    output.mux(audio.encode(frame))
    return frame.samples


def _add_video(output: OutputContainer, film: Arrangement, encoder: Encoder) -> Any:
    defaults = _CODECS[encoder.codec]
    crf = defaults.crf if encoder.crf is None else encoder.crf
    options = {"crf": str(crf), defaults.preset_option: encoder.preset or defaults.preset, **defaults.others}
    # SVT-AV1 prints a page about itself on stderr unless this says errors only.
    os.environ.setdefault("SVT_LOG", "1")
    stream = output.add_stream(encoder.codec, rate=film.form.fps, options=options)
    stream.width, stream.height = film.form.size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = 1 / film.form.fps
    stream.codec_context.gop_size = round(_KEYFRAME_SECONDS * film.form.fps)
    film_colours(stream.codec_context)
    with keep_thread_priority():
        stream.codec_context.open()
    return stream


def _add_audio(output: OutputContainer, encoder: Encoder) -> Any:
    stream: Any = output.add_stream(_CODECS[encoder.codec].sound, rate=SAMPLE_RATE, layout="stereo")
    stream.bit_rate = _SOUND_BIT_RATE
    return stream


def add_text_track(output: OutputContainer, cues: Sequence[Cue], language: str, film_seconds: Fraction) -> None:
    """Add captions as a text track that players can switch on.

    A track shows one caption at a time: one that overlaps the next ends where that begins, and none outlasts the film.
    """
    stream: Any = output.add_stream("mov_text")
    stream.metadata["language"] = language
    context = stream.codec_context
    context.time_base = Fraction(1, 1000)
    # Without a header the encoder does not open, and the first packet that is written opens it.
    context.subtitle_header = _ASS_HEADER
    limits = [*(cue.start for cue in cues[1:]), float(film_seconds)]
    for cue, limit in zip(cues, limits, strict=True):
        begin = round(cue.start * 1000)
        length = round(min(cue.end, limit, float(film_seconds)) * 1000) - begin
        if length > 0:
            output.mux(_encode_cue(stream, cue.text, begin, length))


def _encode_cue(stream: Any, text: str, begin: int, length: int) -> Any:
    """Encode a caption; times are in milliseconds."""
    # Backslashes and braces would be commands.
    shown = text.replace("\\", "/").replace("{", "(").replace("}", ")").replace("\n", "\\N")
    events = SubtitleSet.create(text=f"0,0,Default,,0,0,0,,{shown}".encode(), start=0, end=length, pts=begin * 1000)
    packet = stream.codec_context.encode_subtitle(events)
    packet.stream = stream
    packet.pts = packet.dts = begin
    packet.duration = length
    packet.time_base = Fraction(1, 1000)
    return packet
