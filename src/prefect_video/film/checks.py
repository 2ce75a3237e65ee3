"""Checks of a cut before anything is paid: its files, its texts, and what the installed FFmpeg can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import av

from prefect_video.errors import InvalidInput
from prefect_video.film.captions import load_cues
from prefect_video.film.clip_media import open_media
from prefect_video.film.cut import Captions, Cue, Cut, Encoder, Music
from prefect_video.film.encoder import find_absent_codecs
from prefect_video.film.graph import find_absent_filters
from prefect_video.film.timeline import CutProblem, estimate_seconds
from prefect_video.film.titles import REGULAR, find_absent_characters

_OLDEST_AV = 18
_SLACK_SECONDS = 1.0
"""What a film may be longer than its shots were requested."""


def find_unusable(cut: Cut, shots: Mapping[str, float | None]) -> Iterator[CutProblem]:
    """Find what keeps a cut from being made on this machine; it reads the files that the cut names.

    Args:
        cut: The cut.
        shots: Requested seconds of every shot by its id, in order; None where they are not known.
    """
    if not hasattr(av.AudioFrame, "metadata"):
        # The loudness that a filter has measured is in the metadata of its frames.
        yield CutProblem(
            f"a cut needs PyAV {_OLDEST_AV} or newer, and {av.__version__} is installed: `pip install --upgrade av`", ()
        )
        return
    if absent := find_absent_filters():
        yield CutProblem(
            f"the FFmpeg of the installed PyAV {av.__version__} lacks the filters {', '.join(absent)}: install a wheel"
            " of av, such as `pip install --force-reinstall av`",
            (),
        )
    if missing := find_absent_codecs(cut.encoder or Encoder()):
        yield CutProblem(
            f"the FFmpeg of the installed PyAV {av.__version__} lacks the codec {', '.join(missing)}: choose another"
            " encoder, or install a wheel of av",
            ("encoder",),
        )
    if cut.music is not None:
        yield from _check_music(cut.music)
    cues: tuple[Cue, ...] = ()
    if cut.captions is not None:
        try:
            cues = load_cues(cut.captions)
        except InvalidInput as error:
            yield CutProblem(str(error), ("captions",) if cut.captions.file is None else ("captions", "file"))
        yield from _check_times(cut.captions, cues, estimate_seconds(cut, shots))
    yield from _check_texts(cut, cues)


def _check_music(music: Music) -> Iterator[CutProblem]:
    path, at = Path(music.file), ("music", "file")
    try:
        with open_media(path) as container:
            if not container.streams.audio or next(container.decode(audio=0), None) is None:
                yield CutProblem(f"{path}: has no sound", at)
                return
            seconds = (container.duration or 0) / av.time_base
    except FileNotFoundError:
        yield CutProblem(f"{path}: there is no such file", at)
        return
    except (av.FFmpegError, OSError) as error:
        yield CutProblem(f"{path}: cannot be read as sound ({getattr(error, 'strerror', None) or error})", at)
        return
    if seconds and music.start >= seconds:
        message = f"{path}: lasts {seconds:.1f} s and is to begin at {music.start:g} s"
        yield CutProblem(message, ("music", "start"))


def _check_times(captions: Captions, cues: tuple[Cue, ...], seconds: float | None) -> Iterator[CutProblem]:
    for number, cue in enumerate(cues, 1):
        if seconds is not None and cue.start > seconds + _SLACK_SECONDS:
            yield CutProblem(
                f"caption {number} begins at {cue.start:g} s, and the film lasts about {seconds:g} s: its times are"
                " those of the finished film",
                ("captions", "cues" if captions.file is None else "file"),
            )
            return


def _check_texts(cut: Cut, cues: tuple[Cue, ...]) -> Iterator[CutProblem]:
    font = REGULAR if cut.font is None else Path(cut.font)
    texts: list[tuple[str, tuple[str | int, ...]]] = [
        (f"{card.text} {card.subtitle or ''}", (name,))
        for name, card in (("title_card", cut.title_card), ("end_card", cut.end_card))
        if card is not None
    ]
    if cut.captions is not None and cut.captions.mode == "burned":
        texts.append((" ".join(cue.text for cue in cues), ("captions",)))
    for text, at in texts:
        try:
            absent = find_absent_characters(font, text)
        except OSError as error:
            yield CutProblem(f"{font}: cannot be read as a font ({error})", ("font",))
            return
        if absent:
            yield CutProblem(
                f"the font {font.name} has no {' '.join(absent[:10])}: name one that has, as `font: path.ttf`", at
            )
