"""Prompts in, stored videos out; nothing paid twice, nothing paid lost.

The names a user needs. Importing this does not import Prefect; tasks and flows are in `prefect_video.tasks` and
`prefect_video.flows`, blocks in `prefect_video.blocks`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prefect_video.errors import (
    BudgetExceeded,
    ContentPolicyError,
    DownloadError,
    GenerationFailed,
    HeldForReview,
    InvalidInput,
    LedgerError,
    ProjectFailed,
    PromptBlocked,
    ProviderError,
    StoreError,
    VideoError,
)

if TYPE_CHECKING:
    from prefect_video.assets import Asset
    from prefect_video.fingerprints import fingerprint
    from prefect_video.project_files import load_project
    from prefect_video.shots import Project, Shot
else:
    # These need pydantic, which takes most of the time of an import: they come when they are first asked for.
    _HOMES = {
        "Asset": "assets",
        "Project": "shots",
        "Shot": "shots",
        "fingerprint": "fingerprints",
        "load_project": "project_files",
    }

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"

__all__ = [
    "Asset",
    "BudgetExceeded",
    "ContentPolicyError",
    "DownloadError",
    "GenerationFailed",
    "HeldForReview",
    "InvalidInput",
    "LedgerError",
    "Project",
    "ProjectFailed",
    "PromptBlocked",
    "ProviderError",
    "Shot",
    "StoreError",
    "VideoError",
    "__version__",
    "fingerprint",
    "load_project",
]
