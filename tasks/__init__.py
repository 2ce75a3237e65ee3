"""One step of one shot, as a Prefect task; and the whole shot as one call."""

from prefect_video.tasks.one_call import agenerate_video, generate_video
from prefect_video.tasks.shot_steps import (
    TaskRunner,
    download,
    find_asset,
    poll,
    screen_prompt,
    store,
    submit,
)
from prefect_video.tasks.studios import StudioRef, observing, open_studio

__all__ = [
    "StudioRef",
    "TaskRunner",
    "agenerate_video",
    "download",
    "find_asset",
    "generate_video",
    "observing",
    "open_studio",
    "poll",
    "screen_prompt",
    "store",
    "submit",
]
