"""Prompts in, stored videos out: nothing is paid twice, nothing paid is lost.

These names work without Prefect, in a notebook, a function or another orchestrator, and importing them takes
milliseconds. The Prefect side is `prefect_video.blocks`, `prefect_video.tasks` and `prefect_video.flows`.
"""

from typing import TYPE_CHECKING

from prefect_video._lazy_names import import_at_first_use
from prefect_video.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    CircuitOpen,
    ContentPolicyError,
    DeadlineExceeded,
    DownloadError,
    FilmError,
    GenerationBlocked,
    GenerationCancelled,
    GenerationEnded,
    GenerationExpired,
    GenerationFailed,
    GenerationInvalid,
    GenerationLost,
    HeldForReview,
    IdempotencyKeyReused,
    IncompleteDownload,
    InvalidInput,
    InvalidResponse,
    InvalidTransition,
    InvalidVideo,
    LedgerBehindStore,
    LedgerError,
    LedgerFileUnsafe,
    LedgerSchemaMismatch,
    LedgerUnavailable,
    LinkExpired,
    NotFound,
    ProjectFailed,
    PromptBlocked,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    StoreError,
    StoreOutage,
    SubmitOutcomeUnknown,
    UnreadableRow,
    UnsafeUrl,
    Unsupported,
    VideoError,
    VideoMismatch,
    VideoRejected,
)

if TYPE_CHECKING:
    from prefect_video.assets import Asset
    from prefect_video.fingerprints import fingerprint
    from prefect_video.generations import Generation
    from prefect_video.ledger import Job
    from prefect_video.pipeline import ProjectReport, collect, cut_project, plan_project, run_project
    from prefect_video.project_files import load_project
    from prefect_video.projects import Project
    from prefect_video.providers import Capabilities, Provider
    from prefect_video.rows import project_from_rows
    from prefect_video.session import Session, SessionRef, open_session
    from prefect_video.shots import Shot
else:
    # pydantic, SQLAlchemy and httpx take most of a second: a name is imported when it is first used.
    __getattr__ = import_at_first_use(
        __name__,
        {
            "Asset": "assets",
            "Capabilities": "providers",
            "Generation": "generations",
            "Job": "ledger",
            "Project": "projects",
            "ProjectReport": "pipeline",
            "Provider": "providers",
            "Session": "session",
            "SessionRef": "session",
            "Shot": "shots",
            "collect": "pipeline",
            "cut_project": "pipeline",
            "fingerprint": "fingerprints",
            "load_project": "project_files",
            "open_session": "session",
            "plan_project": "pipeline",
            "project_from_rows": "rows",
            "run_project": "pipeline",
        },
    )

    def __dir__() -> list[str]:
        """List the public names, imported yet or not."""
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"

__all__ = [
    "Asset",
    "AuthenticationFailed",
    "BudgetExceeded",
    "Capabilities",
    "CircuitOpen",
    "ContentPolicyError",
    "DeadlineExceeded",
    "DownloadError",
    "FilmError",
    "Generation",
    "GenerationBlocked",
    "GenerationCancelled",
    "GenerationEnded",
    "GenerationExpired",
    "GenerationFailed",
    "GenerationInvalid",
    "GenerationLost",
    "HeldForReview",
    "IdempotencyKeyReused",
    "IncompleteDownload",
    "InvalidInput",
    "InvalidResponse",
    "InvalidTransition",
    "InvalidVideo",
    "Job",
    "LedgerBehindStore",
    "LedgerError",
    "LedgerFileUnsafe",
    "LedgerSchemaMismatch",
    "LedgerUnavailable",
    "LinkExpired",
    "NotFound",
    "Project",
    "ProjectFailed",
    "ProjectReport",
    "PromptBlocked",
    "Provider",
    "ProviderError",
    "ProviderUnavailable",
    "QuotaExhausted",
    "RateLimited",
    "RequestRejected",
    "Session",
    "SessionRef",
    "Shot",
    "StoreError",
    "StoreOutage",
    "SubmitOutcomeUnknown",
    "UnreadableRow",
    "UnsafeUrl",
    "Unsupported",
    "VideoError",
    "VideoMismatch",
    "VideoRejected",
    "__version__",
    "collect",
    "cut_project",
    "fingerprint",
    "load_project",
    "open_session",
    "plan_project",
    "project_from_rows",
    "run_project",
]
