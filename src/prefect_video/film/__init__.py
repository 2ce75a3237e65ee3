"""Film: the final cut of a project, from clips on disk to one measured file with its previews.

The records (`Cut` and its parts, `StoredFilm`) are light and part of a project; what reads or makes pictures loads
PyAV and Pillow, and is imported at its first use. May import `errors`, `inputs` and `assets`.
"""

from typing import TYPE_CHECKING

from prefect_video._lazy_names import import_at_first_use
from prefect_video.film.cut import Cut, CutClip
from prefect_video.film.signing import SIGNED_CONTAINERS, FilmSigner, SignedClip
from prefect_video.film.stored_film import PROVENANCE_NOTE, SIGNED_NOTE, Ingredient, StoredFilm, describe_software
from prefect_video.film.timeline import CutProblem, estimate_seconds, find_problems, list_clips

if TYPE_CHECKING:
    from prefect_video.film.checks import find_unusable
    from prefect_video.film.measure import digest_packets
    from prefect_video.film.production import ProducedFilm, produce_film
else:
    __getattr__ = import_at_first_use(
        __name__,
        {
            "ProducedFilm": "production",
            "digest_packets": "measure",
            "find_unusable": "checks",
            "produce_film": "production",
        },
    )


__all__ = [
    "PROVENANCE_NOTE",
    "SIGNED_CONTAINERS",
    "SIGNED_NOTE",
    "Cut",
    "CutClip",
    "CutProblem",
    "FilmSigner",
    "Ingredient",
    "ProducedFilm",
    "SignedClip",
    "StoredFilm",
    "describe_software",
    "digest_packets",
    "estimate_seconds",
    "find_problems",
    "find_unusable",
    "list_clips",
    "produce_film",
]
