"""Blocks: what an operator configures and saves in Prefect, namely credentials, stores and the ledger.

Register with `prefect block register -m prefect_video.blocks`. May import the domain, not tasks or flows.
"""

from prefect_video.blocks.fal import FalCredentials
from prefect_video.blocks.ledger import VideoLedger
from prefect_video.blocks.openai import OpenAICredentials
from prefect_video.blocks.openrouter import OpenRouterCredentials
from prefect_video.blocks.replicate import ReplicateCredentials
from prefect_video.blocks.sora import SoraCredentials
from prefect_video.blocks.store import VideoStore
from prefect_video.blocks.token_list import VideoApiTokens

__all__ = [
    "FalCredentials",
    "OpenAICredentials",
    "OpenRouterCredentials",
    "ReplicateCredentials",
    "SoraCredentials",
    "VideoApiTokens",
    "VideoLedger",
    "VideoStore",
]
