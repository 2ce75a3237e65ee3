"""Still pictures of a finished video: the `thumbnail` and `spritesheet` variants of its content."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

from starlette.responses import Response

from prefect_video.emulator.engine import Engine
from prefect_video.emulator.generation import Generation
from prefect_video.emulator.refusal import Refusal


async def picture(engine: Engine, generation: Generation, variant: str) -> Response:
    """The still as WebP, the one picture type that the dialect's document lists.

    Raises:
        Refusal: There is no such variant.
    """
    if variant not in ("thumbnail", "spritesheet"):
        raise Refusal("invalid", "Invalid variant: video, thumbnail or spritesheet is wanted")
    clip = await engine.clip(generation)
    return Response(await asyncio.to_thread(_as_webp, clip.thumbnail), media_type="image/webp")


def _as_webp(path: Path) -> bytes:
    from PIL import Image

    target = io.BytesIO()
    with Image.open(path) as still:
        still.save(target, "WEBP")
    return target.getvalue()
