"""The steps of a shot, free of any orchestrator: claim, screen, submit, poll, download, store.

Each takes a session and the ledger row as the step before has left it, does what is still to be done, and returns what
it has made: repeating a step is always safe and never pays again.
"""

from prefect_video.pipeline.steps.claim import ClaimOptions, build_project_intents, claim_shots, screen_prompt
from prefect_video.pipeline.steps.download import download
from prefect_video.pipeline.steps.poll import poll
from prefect_video.pipeline.steps.store import store
from prefect_video.pipeline.steps.submit import submit

__all__ = [
    "ClaimOptions",
    "build_project_intents",
    "claim_shots",
    "download",
    "poll",
    "screen_prompt",
    "store",
    "submit",
]
