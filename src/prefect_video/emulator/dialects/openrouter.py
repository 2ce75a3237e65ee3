"""OpenRouter dialect: routes under `/api/v1`, with a list of models, two kinds of links and signed callbacks.

The links in `urls` are signed and need no key; those in `unsigned_urls` lead to the API and need it. The model
`emulator/video-unsigned` has only the latter.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_video.emulator.dialects.base import DialectHandler, base_url, retry_after_headers, status_with_fault
from prefect_video.emulator.dialects.json_bodies import read_json, validate
from prefect_video.emulator.engine import Engine
from prefect_video.emulator.errors import ApiError, ErrorKind
from prefect_video.emulator.faults import FaultRule
from prefect_video.emulator.generation import EmulatedGeneration, EmulatedStatus, GenerationRequest
from prefect_video.emulator.rendering import ImageFolder
from prefect_video.emulator.routes import route
from prefect_video.emulator.signed_urls import LinkSigner
from prefect_video.emulator.webhook_sender import Delivery

DIALECT: Final = "openrouter"
PREFIX: Final = "/api/v1"
UNSIGNED_ONLY: Final = "emulator/video-unsigned"

_STATUSES: Final[dict[EmulatedStatus, str]] = {
    "queued": "pending",
    "processing": "in_progress",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}
_HTTP_STATUSES: Final[dict[ErrorKind, int]] = {"policy": 403, "quota": 402}


def _model(name: str, skus: dict[str, str], **limits: Any) -> dict[str, Any]:
    return {
        "id": name,
        "canonical_slug": name,
        "name": name,
        "description": "An emulated model",
        "created": 1_760_000_000,
        "supported_resolutions": ["480p", "720p", "1080p", "4K"],
        "supported_aspect_ratios": ["16:9", "9:16", "1:1", "4:3", "21:9"],
        "supported_sizes": None,
        "supported_durations": None,
        "supported_frame_images": ["first_frame", "last_frame"],
        "generate_audio": True,
        "seed": True,
        "pricing_skus": skus,
        "allowed_passthrough_parameters": [],
        **limits,
    }


MODELS: Final = (
    _model("emulator/video", {"duration_seconds": "0.30"}),
    _model(UNSIGNED_ONLY, {"duration_seconds": "0.30"}),
    _model("emulator/by-token", {"video_tokens": "0.0000014"}, seed=None),
    _model(
        "emulator/by-size",
        {
            "duration_seconds_with_audio": "0.40",
            "duration_seconds_without_audio": "0.20",
            "duration_seconds_with_audio_720p": "0.10",
        },
        supported_durations=[4, 6, 8],
        supported_resolutions=["720p", "1080p"],
        supported_aspect_ratios=["16:9", "9:16"],
        generate_audio=True,
    ),
    *(
        _model(
            f"openai/{name}",
            {"duration_seconds": usd},
            supported_durations=[4, 8, 12],
            supported_resolutions=["720p"],
            supported_aspect_ratios=["16:9", "9:16"],
            seed=None,
        )
        for name, usd in (("sora-2", "0.10"), ("sora-2-pro", "0.30"))
    ),
)
"""Models that `GET /videos/models` lists; prices in USD."""

_NAMES: Final = frozenset(model["id"] for model in MODELS)


class _Image(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    image_url: dict[str, Any]


class _FrameImage(_Image):
    frame_type: Literal["first_frame", "last_frame"]


class SubmitBody(BaseModel):
    """Body of `POST /videos`; unknown fields are ignored, as by OpenRouter."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    model: Annotated[str, Field(min_length=1)]
    prompt: Annotated[str, Field(min_length=1)]
    duration: Annotated[int, Field(ge=1, le=60)] = 5
    resolution: str = "720p"
    aspect_ratio: str = "16:9"
    seed: int | None = None
    generate_audio: bool | None = None
    input_references: list[_Image] = []
    frame_images: list[_FrameImage] = []
    callback_url: Annotated[str, Field(pattern="^https?://")] | None = None


class OpenRouterDialect:
    """OpenRouter dialect over one engine."""

    def __init__(self, engine: Engine, signer: LinkSigner) -> None:
        self._engine = engine
        self._handler = DialectHandler(engine, signer, DIALECT)

    def app(self) -> Starlette:
        """Build the ASGI application, to be mounted at `PREFIX`."""
        return Starlette(
            routes=[
                route("/videos", POST=self.submit),
                route("/key", GET=self.key),
                route("/videos/models", GET=self.models),
                route("/videos/{id:path}/content", GET=self.content),
                route("/videos/{id:path}", GET=self.retrieve),
            ],
            exception_handlers={ApiError: _render_api_error, HTTPException: _render_http_error},
        )

    async def submit(self, request: Request) -> Response:
        """Answer `POST /videos`."""

        async def read(request: Request) -> GenerationRequest:
            return await _read_generation_request(request, self._engine.images)

        def render(generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
            return JSONResponse(self._render_head(generation, rule), 202)

        return await self._handler.submit(request, read, render)

    async def retrieve(self, request: Request) -> Response:
        """Answer `GET /videos/{id}`."""

        def render(generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
            answer = self._render_head(generation, rule) | {"generation_id": f"vid-{generation.id}"}
            if generation.status == "completed":
                answer |= self._render_result(generation, base_url(request))
                if generation.request.model != UNSIGNED_ONLY:
                    links = self._handler.links(generation, rule)
                    has_preview = rule is not None and rule.kind == "preview_first"
                    urls = [links.thumbnail, links.video] if has_preview else [links.video]
                    answer |= {"urls": urls, "expires_at": math.floor(links.expires)}
            if generation.failure is not None:
                answer["error"] = generation.failure.message
            return JSONResponse(answer)

        return await self._handler.retrieve(request, render)

    async def content(self, request: Request) -> Response:
        """Answer `GET /videos/{id}/content` with the MP4; this link needs the key."""
        return await self._handler.content(request)

    async def key(self, request: Request) -> Response:
        """Answer `GET /key` with the key's label, usage and limit."""
        self._engine.usage.count_request("key")
        self._handler.authenticate(request)
        return JSONResponse({"data": {"label": "emulator", "usage": 0, "limit": None}})

    async def models(self, request: Request) -> Response:
        """Answer `GET /videos/models`; it needs no key."""
        self._engine.usage.count_request("models")
        return JSONResponse({"data": list(MODELS)})

    def build_delivery(
        self, generation: EmulatedGeneration, status: EmulatedStatus, event_id: str, timestamp: float
    ) -> Delivery | None:
        """Build the signed callback for an end; None for any other status."""
        if status in ("queued", "processing"):
            return None
        data: dict[str, Any] = {"id": generation.id, "status": _STATUSES[status], "model": generation.request.model}
        if status == "completed":
            data |= self._render_result(generation, "")
        event = {
            "type": f"video.generation.{_STATUSES[status]}",
            "created_at": datetime.fromtimestamp(timestamp, UTC).isoformat(),
            "data": data,
        }
        body = json.dumps(event, separators=(",", ":")).encode()
        secret = self._engine.api_keys.webhook_secret(generation.account)
        stamp = str(int(timestamp))
        code = hmac.new(secret.encode(), f"{stamp},".encode() + body, hashlib.sha256).hexdigest()
        return Delivery(
            body=body,
            signature_header="X-OpenRouter-Signature",
            signature=f"t={stamp},v1={code}",
            headers={"X-OpenRouter-Idempotency-Key": event_id},
        )

    def _render_head(self, generation: EmulatedGeneration, rule: FaultRule | None) -> dict[str, Any]:
        return {
            "id": generation.id,
            "polling_url": f"{PREFIX}/videos/{generation.id}",
            "status": status_with_fault(_STATUSES[generation.status], rule),
        }

    def _render_result(self, generation: EmulatedGeneration, root_url: str) -> dict[str, Any]:
        return {
            "unsigned_urls": [f"{root_url}{PREFIX}/videos/{generation.id}/content?index=0"],
            "usage": {"cost": float(generation.cost or 0), "is_byok": False},
        }


async def _read_generation_request(request: Request, images: ImageFolder) -> GenerationRequest:
    document = await read_json(request)
    body = validate(SubmitBody, document)
    if body.model not in _NAMES:
        raise ApiError("invalid", f"{body.model} is not a valid model ID")
    limits = next(model for model in MODELS if model["id"] == body.model)
    for name, plural in (("resolution", "resolutions"), ("aspect_ratio", "aspect_ratios"), ("duration", "durations")):
        supported = limits[f"supported_{plural}"]
        if supported is not None and getattr(body, name) not in supported:
            raise ApiError("invalid", f"{name} must be one of {supported}")
    return GenerationRequest.model_validate(
        {
            "model": body.model,
            "prompt": body.prompt,
            "duration": body.duration,
            "resolution": "2160p" if body.resolution == "4K" else body.resolution,
            "images": _keep_images(body, images),
            "audio": body.generate_audio,
            "options": {name: value for name, value in document.items() if name not in SubmitBody.model_fields},
            "aspect_ratio": body.aspect_ratio,
            "metadata": {} if body.seed is None else {"seed": body.seed},
            "webhook_url": body.callback_url,
        }
    )


def _keep_images(body: SubmitBody, images: ImageFolder) -> dict[str, tuple[str, ...]]:
    """Keep the images of a request; beside frames, references do not count, as with OpenRouter."""
    frames: dict[str, list[Any]] = {frame.frame_type: [frame.image_url.get("url")] for frame in body.frame_images}
    references = [reference.image_url.get("url") for reference in body.input_references]
    return images.keep_all(frames or {"references": references})


def _render_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    status = _HTTP_STATUSES.get(error.kind, error.status)
    body: dict[str, Any] = {"code": status, "message": error.message}
    if error.kind == "policy":
        body["metadata"] = {"reasons": ["content policy"], "flagged_input": "", "provider_name": "Emulator"}
    return JSONResponse({"error": body}, status, retry_after_headers(error))


def _render_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": {"code": error.status_code, "message": str(error.detail)}}, error.status_code)
