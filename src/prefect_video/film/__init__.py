"""Film: the final cut of a project, from clips on disk to one measured file with its previews.

The records (`Cut` and its parts, `StoredFilm`) are light and part of a project; what reads or makes pictures loads
PyAV and Pillow, and is imported at its first use. May import `errors` and `inputs`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prefect_video.film.cut import Cut, CutClip
from prefect_video.film.stored_film import Ingredient, StoredFilm, describe_software
from prefect_video.film.timeline import CutProblem, estimate_seconds, find_problems, list_clips

if TYPE_CHECKING:
    from prefect_video.film.checks import find_unusable
    from prefect_video.film.production import ProducedFilm, produce_film
else:
    _MODULES = {
        "ProducedFilm": "production",
        "find_unusable": "checks",
        "produce_film": "production",
    }

    def __getattr__(name: str) -> Any:
        """Import a name that needs PyAV at its first use."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


__all__ = [
    "Cut",
    "CutClip",
    "CutProblem",
    "Ingredient",
    "ProducedFilm",
    "StoredFilm",
    "describe_software",
    "estimate_seconds",
    "find_problems",
    "find_unusable",
    "list_clips",
    "produce_film",
]
