"""Sora dialect: routes under `/v1/sora`, with its requests, responses, errors and webhooks."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_video.emulator.dialects.base import DialectHandler, file_size_with_fault, status_with_fault
from prefect_video.emulator.dialects.json_bodies import read_json, validate
from prefect_video.emulator.engine import Engine
from prefect_video.emulator.errors import ApiError, ErrorKind
from prefect_video.emulator.faults import FaultRule, distort_page
from prefect_video.emulator.generation import EmulatedGeneration, EmulatedStatus, GenerationRequest
from prefect_video.emulator.routes import route
from prefect_video.emulator.signed_urls import LinkSigner
from prefect_video.emulator.webhook_sender import Delivery

DIALECT: Final = "sora"
PREFIX: Final = "/v1/sora"
SIGNATURE_HEADER: Final = "X-Sora-Signature"
MAX_PROMPT, MAX_DURATION, MAX_LIST = 32_000, 20, 100

_TYPES: dict[ErrorKind, str] = {
    "invalid": "invalid_request_error",
    "policy": "invalid_request_error",
    "authentication": "authentication_error",
    "not_found": "not_found_error",
    "conflict": "invalid_request_error",
    "capacity": "rate_limit_error",
    "quota": "rate_limit_error",
    "rate": "rate_limit_error",
    "generation": "generation_error",
    "server": "server_error",
    "unavailable": "not_found_error",
}
_CODES: dict[ErrorKind, str] = {
    "policy": "content_policy_violation",
    "conflict": "not_cancellable",
    "quota": "quota_exceeded",
}
_EVENTS: dict[EmulatedStatus, str] = {
    "queued": "generation.queued",
    "processing": "generation.started",
    "completed": "generation.completed",
    "failed": "generation.failed",
    "cancelled": "generation.cancelled",
}


class SubmitBody(BaseModel):
    """Body of `POST /generations`: no other fields, no conversions.

    The fields from `first_frame` on are the emulator's own, beyond the contract.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: Annotated[str, Field(min_length=1)]
    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]
    duration: Annotated[int, Field(ge=1, le=MAX_DURATION)] = 10
    aspect_ratio: Literal["16:9", "9:16", "1:1"] = "16:9"
    resolution: Literal["480p", "720p", "1080p"] = "1080p"
    webhook_url: str | None = None
    metadata: dict[str, Any] = {}
    first_frame: str | None = None
    last_frame: str | None = None
    references: list[str] = []
    audio: bool | None = None
    watermark: bool | None = None
    options: dict[str, Any] = {}

    @field_validator("model", "prompt")
    @classmethod
    def _is_not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("must not be blank")
        return text

    @field_validator("webhook_url")
    @classmethod
    def _is_web_address(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("must be an http or https URL")
        return url


class RemixBody(BaseModel):
    """Body of `POST /generations/{id}/remix`, which is the emulator's own, beyond the contract."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]
    webhook_url: str | None = None
    metadata: dict[str, Any] = {}


class ListQuery(BaseModel):
    """Query of `GET /generations`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: Annotated[int, Field(ge=1, le=MAX_LIST)] = 20
    offset: Annotated[int, Field(ge=0)] = 0
    status: EmulatedStatus | None = None
    created_after: float | None = None

    def matches(self, generation: EmulatedGeneration, created: float) -> bool:
        """Return True if a generation, created at `created` by the provider's clock, is to be listed."""
        # Whole seconds, as the list shows them: `created_after` excludes its own second.
        return (self.status is None or generation.status == self.status) and (
            self.created_after is None or int(created) > self.created_after
        )


class SoraDialect:
    """Sora dialect over one engine."""

    def __init__(self, engine: Engine, signer: LinkSigner) -> None:
        self._engine = engine
        self._handler = DialectHandler(engine, signer, DIALECT)
        self._settings = engine.settings

    def app(self) -> Starlette:
        """Build the ASGI application, to be mounted at `PREFIX`."""
        return Starlette(
            routes=[
                route("/generations", POST=self.submit, GET=self.list_generations),
                route("/generations/{id:path}/cancel", POST=self.cancel),
                route("/generations/{id:path}/remix", POST=self.remix),
                route("/generations/{id:path}", GET=self.retrieve),
            ],
            exception_handlers={ApiError: self._render_api_error, HTTPException: _render_http_error},
        )

    async def submit(self, request: Request) -> Response:
        """Answer `POST /generations`."""

        async def read(request: Request) -> GenerationRequest:
            body = validate(SubmitBody, await read_json(request))
            fields = body.model_dump(exclude={"first_frame", "last_frame", "references"})
            frames = {"first_frame": [body.first_frame], "last_frame": [body.last_frame]}
            images = self._engine.images.keep_all({**frames, "references": body.references})
            return GenerationRequest.model_validate({**fields, "images": images})

        return await self._handler.submit(request, read, self._render_submit)

    async def remix(self, request: Request) -> Response:
        """Answer `POST /generations/{id}/remix`: a submit of its own, of the original's model, length and picture."""

        async def read(request: Request) -> GenerationRequest:
            original = self._handler.find_original(request)
            body = validate(RemixBody, await read_json(request))
            return original.request.remix(original.id, **body.model_dump())

        return await self._handler.submit(request, read, self._render_submit)

    def _render_submit(self, generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
        if rule is not None and rule.kind == "generation_error":
            raise ApiError("generation", "Internal generation failure", generation_id=generation.id)
        return JSONResponse(self._render_accepted(generation), 202)

    async def retrieve(self, request: Request) -> Response:
        """Answer `GET /generations/{id}`."""
        return await self._handler.retrieve(
            request, lambda generation, rule: JSONResponse(self._render_generation(generation, rule))
        )

    async def list_generations(self, request: Request) -> Response:
        """Answer `GET /generations`."""

        def render(generations: list[EmulatedGeneration], rule: FaultRule | None) -> Response:
            if self._settings.listing != "on":
                raise ApiError("unavailable", "Listing is not available", status=int(self._settings.listing))
            query = validate(ListQuery, dict(request.query_params))
            matching = [g for g in generations if query.matches(g, self._engine.to_server_time(g.created))]
            # As if an item before this page had been deleted since the page before it was read.
            offset = query.offset + (query.offset > 0 and rule is not None and rule.kind == "shifted_page")
            page = matching[offset : offset + query.limit]
            body = {
                "object": "list",
                "data": [self._render_item(generation, rule) for generation in page],
                "has_more": offset + len(page) < len(matching),
                "total_count": len(matching),
            }
            return JSONResponse(distort_page(body, rule))

        return await self._handler.list_all(request, render)

    async def cancel(self, request: Request) -> Response:
        """Answer `POST /generations/{id}/cancel`."""

        def cancel(generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
            self._engine.cancel(generation.account, generation.id)
            return JSONResponse({"id": generation.id, "status": "cancelled", "cancellation_reason": "user_requested"})

        return await self._handler.respond_about(self._handler.get(request, "cancel"), "cancel", cancel)

    def build_delivery(
        self, generation: EmulatedGeneration, status: EmulatedStatus, event_id: str, timestamp: float
    ) -> Delivery:
        """Build the signed webhook for a status."""
        data: dict[str, Any] = {"generation_id": generation.id, "status": status}
        if status == "completed":
            data["result"] = self._render_result(generation, None)
        if status == "failed":
            data["error"] = _render_failure(generation)
        event = {
            "event_type": _EVENTS[status],
            "event_id": event_id,
            "timestamp": int(timestamp),
            "data": data,
        }
        body = json.dumps(event, separators=(",", ":")).encode()
        secret = self._engine.api_keys.webhook_secret(generation.account)
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return Delivery(body=body, signature_header=SIGNATURE_HEADER, signature=signature)

    def _render_accepted(self, generation: EmulatedGeneration) -> dict[str, Any]:
        answer = {**self._render_head(generation, None), "parameters": _render_parameters(generation)}
        if self._settings.hint:
            answer["estimated_completion_time"] = math.ceil(self._engine.to_server_time(generation.ends_at))
        return answer

    def _render_generation(self, generation: EmulatedGeneration, rule: FaultRule | None) -> dict[str, Any]:
        answer = {
            **self._render_head(generation, rule),
            "prompt": self._engine.echo_prompt(generation),
            "parameters": _render_parameters(generation),
        }
        if self._engine.settings.echo_metadata:
            answer["metadata"] = generation.request.metadata
        if generation.status == "completed":
            answer["result"] = self._render_result(generation, rule)
            answer["usage"] = {
                "seconds_generated": generation.request.duration,
                "cost_usd": rule.cost
                if rule is not None and rule.kind == "wrong_cost"
                else float(generation.cost or 0),
            }
        if generation.status == "failed":
            answer["error"] = _render_failure(generation)
        return answer

    def _render_head(self, generation: EmulatedGeneration, rule: FaultRule | None) -> dict[str, Any]:
        return {
            "id": generation.id,
            "object": "video_generation",
            "created": int(self._engine.to_server_time(generation.created)),
            "model": generation.request.model,
            "status": status_with_fault(generation.status, rule),
            **_render_original(generation),
        }

    def _render_item(self, generation: EmulatedGeneration, rule: FaultRule | None) -> dict[str, Any]:
        item: dict[str, Any] = {
            "id": generation.id,
            "status": status_with_fault(generation.status, rule),
            "created": int(self._engine.to_server_time(generation.created)),
            "prompt": self._engine.echo_prompt(generation),
            **_render_original(generation),
        }
        if generation.status == "completed":
            item["result"] = self._render_result(generation, rule)
        return item

    def _render_result(self, generation: EmulatedGeneration, rule: FaultRule | None) -> dict[str, Any]:
        links = self._handler.links(generation, rule)
        width, height = generation.request.frame_size
        return {
            "video_url": links.video,
            "thumbnail_url": links.thumbnail,
            "duration": generation.request.duration,
            "resolution": f"{width}x{height}",
            "file_size": file_size_with_fault(generation, rule),
            "expires_at": int(links.expires),
        }

    def _render_api_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        body: dict[str, Any] = {"type": _TYPES[error.kind], "message": error.message}
        if error.kind in _CODES:
            body["code"] = _CODES[error.kind]
        if error.generation_id is not None:
            body["generation_id"] = error.generation_id
        headers = {}
        if error.retry_after is not None:
            body["retry_after"] = error.retry_after
            if self._settings.retry_after_header:
                headers["Retry-After"] = str(math.ceil(error.retry_after))
        return JSONResponse({"error": body}, error.status, headers)


def _render_parameters(generation: EmulatedGeneration) -> dict[str, Any]:
    request = generation.request
    shown = request.model_dump(include={"duration", "aspect_ratio", "resolution"})
    further = request.model_dump(include={"audio", "watermark"}, exclude_none=True)
    images: dict[str, Any] = {
        field: [f"sha256:{digest}" for digest in digests] for field, digests in request.images.items()
    }
    for field in ("first_frame", "last_frame"):
        if field in images:
            (images[field],) = images[field]
    return {**shown, **further, **images, **({"options": request.options} if request.options else {})}


def _render_original(generation: EmulatedGeneration) -> dict[str, Any]:
    """Return the id of a remix's original; nothing for any other generation, as in the contract."""
    return {"remixed_from": generation.request.remix_of} if generation.request.remix_of else {}


def _render_failure(generation: EmulatedGeneration) -> dict[str, Any]:
    if generation.failure is None:
        return {"type": "generation_error", "message": "Generation failed"}
    return {"type": "generation_error", **generation.failure.model_dump()}


def _render_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    return JSONResponse({"error": {"type": kind, "message": str(error.detail)}}, error.status_code)
