"""The steps of a shot, free of any orchestrator: claim, submit, poll, download, store.

Each takes a studio and the id of a ledger row, reads from the ledger where the generation stands, and does what
is still to be done; repeating a step is always safe and never pays again.
"""

from prefect_video.steps.claiming import claim_shots, intents_of
from prefect_video.steps.downloading import download
from prefect_video.steps.polling import poll
from prefect_video.steps.producing import Produced, Steps, produce
from prefect_video.steps.screening import screen_prompt
from prefect_video.steps.storing import store
from prefect_video.steps.submitting import submit

__all__ = [
    "Produced",
    "Steps",
    "claim_shots",
    "download",
    "intents_of",
    "poll",
    "produce",
    "screen_prompt",
    "store",
    "submit",
]
