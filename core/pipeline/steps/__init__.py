"""The steps of a shot, free of any orchestrator: claim, submit, poll, download, store.

Each takes a studio and the id of a ledger row, reads from the ledger where the generation stands, and does what
is still to be done; repeating a step is always safe and never pays again.
"""

from prefect_video.pipeline.steps.claim import claim_shots, intents_of
from prefect_video.pipeline.steps.download import download
from prefect_video.pipeline.steps.poll import poll
from prefect_video.pipeline.steps.screening import screen_prompt
from prefect_video.pipeline.steps.store import store
from prefect_video.pipeline.steps.submit import submit

__all__ = [
    "claim_shots",
    "download",
    "intents_of",
    "poll",
    "screen_prompt",
    "store",
    "submit",
]
