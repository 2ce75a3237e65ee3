"""Tasks: one step of one shot as a Prefect task, and the whole shot as one call. May import blocks and the domain."""

from prefect_video.tasks.events import announce_project
from prefect_video.tasks.generate import agenerate_video, generate_video
from prefect_video.tasks.lineage import asset_key
from prefect_video.tasks.run_logs import send_logs
from prefect_video.tasks.sessions import BlockResolver, SessionRef, load_credentials, observe, open_ledger, use_session
from prefect_video.tasks.steps import (
    TaskRunner,
    cut_film,
    download,
    find_stored,
    poll,
    screen_prompts,
    store,
    submit,
)
from prefect_video.tasks.storyboard import artifact_key, as_line, read_links, write_storyboard

__all__ = [
    "BlockResolver",
    "SessionRef",
    "TaskRunner",
    "agenerate_video",
    "announce_project",
    "artifact_key",
    "as_line",
    "asset_key",
    "cut_film",
    "download",
    "find_stored",
    "generate_video",
    "load_credentials",
    "observe",
    "open_ledger",
    "poll",
    "read_links",
    "screen_prompts",
    "send_logs",
    "store",
    "submit",
    "use_session",
    "write_storyboard",
]
