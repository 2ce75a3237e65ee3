"""Steps of one shot, each a function of a session and a job: claim, submit, poll, download, store.

Their parts (requests, screen, reconcile, deadline, end, adopt …) are in the same folder. May import what pipeline may.
"""

from prefect_video.pipeline.steps.claim import claim_shots, find_stored, project_budgets
from prefect_video.pipeline.steps.cut_film import cut_film
from prefect_video.pipeline.steps.download import download
from prefect_video.pipeline.steps.job_requests import ClaimOptions, build_project_job_requests
from prefect_video.pipeline.steps.poll import poll, record_end
from prefect_video.pipeline.steps.screen import screen_prompt, screen_prompts
from prefect_video.pipeline.steps.spans import traced_request
from prefect_video.pipeline.steps.store import store
from prefect_video.pipeline.steps.store_identity import check_store
from prefect_video.pipeline.steps.submit import submit

__all__ = [
    "ClaimOptions",
    "build_project_job_requests",
    "check_store",
    "claim_shots",
    "cut_film",
    "download",
    "find_stored",
    "poll",
    "project_budgets",
    "record_end",
    "screen_prompt",
    "screen_prompts",
    "store",
    "submit",
    "traced_request",
]
