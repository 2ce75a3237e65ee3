"""Production of a film from clips on disk: joined or encoded, decoded whole, measured, with its previews."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from av import VideoFrame

from prefect_video.errors import FilmError
from prefect_video.film.arrangement import Arrangement, arrange
from prefect_video.film.clip_media import read_clip
from prefect_video.film.cut import Cut
from prefect_video.film.encoder import Progress, encode_film
from prefect_video.film.measure import FilmMeasures, measure_film, require_as_arranged
from prefect_video.film.previews import PreviewCollector, Previews
from prefect_video.film.stream_copy import can_copy, copy_film

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProducedFilm:
    """A finished film on disk.

    Attributes:
        path: The file.
        measures: What decoding it whole has shown.
        previews: Pictures of it.
        is_copied: Its clips were joined without encoding.
    """

    path: Path
    measures: FilmMeasures
    previews: Previews
    is_copied: bool


def produce_film(
    cut: Cut, shots: Mapping[str, str | None], clips: Mapping[str, Path], folder: Path, progress: Progress
) -> ProducedFilm:
    """Make a film; it takes about as long as encoding, so call it in a thread.

    Args:
        cut: The requested cut.
        shots: Ids of the project's shots, in order, each with that of the shot that it continues.
        clips: The clips by their labels, such as `opening` and `opening@2`.
        folder: Folder for the film, with room for its sound as well.
        progress: Called often with the share that is done; what it raises ends the work.

    Raises:
        FilmError: It cannot be made, or is not what was requested.
    """
    film = arrange(cut, shots, {label: read_clip(path) for label, path in clips.items()})
    target = folder / f"film.{cut.container}"
    if can_copy(film):
        try:
            copy_film(film, target, progress)
            return _finish(film, target, progress, is_copied=True)
        except FilmError as error:
            logger.warning("%s; the clips are encoded instead", error)
    encode_film(film, target, progress)
    return _finish(film, target, progress, is_copied=False)


def _finish(film: Arrangement, target: Path, progress: Progress, *, is_copied: bool) -> ProducedFilm:
    collector = PreviewCollector(film)

    def look(number: int, frame: VideoFrame) -> None:
        progress(1.0)
        collector.add(number, frame)

    measures = measure_film(target, look)
    require_as_arranged(measures, film)
    return ProducedFilm(target, measures, collector.finish(film.cut.preview), is_copied)
