"""OpenAI Videos dialect: the routes, requests and responses, with a profile for each server that deviates from it.

May import what any dialect may (see `prefect_video.emulator.dialects`).
"""

from prefect_video.emulator.dialects.openai.responses import wrap_id
from prefect_video.emulator.dialects.openai.routes import OpenAIDialect, build_dialects

__all__ = ["OpenAIDialect", "build_dialects", "wrap_id"]
