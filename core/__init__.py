"""Prompts in, stored videos out; nothing paid twice, nothing paid lost.

The names a user needs. Importing this does not import Prefect; tasks and flows are in `prefect_video.tasks` and
`prefect_video.flows`, blocks in `prefect_video.blocks`.
"""

from prefect_video.assets import Asset
from prefect_video.errors import (
    BudgetExceeded,
    DownloadError,
    GenerationFailed,
    InvalidInput,
    LedgerError,
    NeedsAttention,
    PolicyRefused,
    PromptScreened,
    ProviderError,
    ShotsFailed,
    StoreError,
    VideoError,
)
from prefect_video.fingerprints import fingerprint
from prefect_video.project_files import load_project
from prefect_video.shots import Project, Shot

__version__ = "0.1.0"

__all__ = [
    "Asset",
    "BudgetExceeded",
    "DownloadError",
    "GenerationFailed",
    "InvalidInput",
    "LedgerError",
    "NeedsAttention",
    "PolicyRefused",
    "Project",
    "PromptScreened",
    "ProviderError",
    "Shot",
    "ShotsFailed",
    "StoreError",
    "VideoError",
    "__version__",
    "fingerprint",
    "load_project",
]
