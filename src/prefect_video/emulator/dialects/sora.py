"""The Sora dialect: routes under `/v1/sora`, its words for requests, answers, errors and webhooks."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_video.emulator.dialects.base import DialectHandler, status_with_fault
from prefect_video.emulator.engine import Engine
from prefect_video.emulator.errors import ApiError, ErrorKind
from prefect_video.emulator.faults.broken_lists import distort_page
from prefect_video.emulator.faults.rules import FaultRule
from prefect_video.emulator.generation import EmulatedGeneration, EmulatedStatus, GenerationRequest
from prefect_video.emulator.routes import route
from prefect_video.emulator.signed_urls import Links, LinkSigner
from prefect_video.emulator.webhook_sender import Delivery

MAX_PROMPT, MAX_DURATION, MAX_LIST = 32_000, 20, 100

Model = TypeVar("Model", bound=BaseModel)


class SubmitBody(BaseModel):
    """The body of `POST /generations`, taken literally: no other fields, no conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: Annotated[str, Field(min_length=1)]
    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]
    duration: Annotated[int, Field(ge=1, le=MAX_DURATION)] = 10
    aspect_ratio: Literal["16:9", "9:16", "1:1"] = "16:9"
    resolution: Literal["480p", "720p", "1080p"] = "1080p"
    webhook_url: str | None = None
    metadata: dict[str, Any] = {}

    @field_validator("model", "prompt")
    @classmethod
    def _says_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("must not be blank")
        return text

    @field_validator("webhook_url")
    @classmethod
    def _is_web_address(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("must be an http or https URL")
        return url


class ListQuery(BaseModel):
    """The query of `GET /generations`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: Annotated[int, Field(ge=1, le=MAX_LIST)] = 20
    offset: Annotated[int, Field(ge=0)] = 0
    status: EmulatedStatus | None = None
    created_after: float | None = None

    def matches(self, generation: EmulatedGeneration, created: float) -> bool:
        """Return whether a generation, with the time that the list shows, belongs into it.

        `created_after` excludes its own second.
        """
        return (self.status is None or generation.status == self.status) and (
            self.created_after is None or int(created) > self.created_after
        )


async def read_json(request: Request) -> Any:
    """The decoded body.

    Raises:
        Refusal: It is no JSON that could be sent back.
    """
    try:
        document = json.loads(await request.body(), parse_constant=_refuse_constant)
        json.dumps(document, ensure_ascii=False).encode()  # lone surrogates could never be sent back
    except (ValueError, RecursionError) as error:
        raise ApiError("invalid", f"The body is not JSON: {error}") from error
    return document


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON number")


def validated(model: type[Model], document: Any) -> Model:
    """The document as a model.

    Raises:
        Refusal: It does not fit; the message names the first field that is wrong.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise ApiError("invalid", f"Invalid {field}: {first['msg']}") from error


DIALECT = "sora"
PREFIX = "/v1/sora"
SIGNATURE_HEADER = "X-Sora-Signature"

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


class SoraDialect:
    """Routes and wording over one engine."""

    def __init__(self, engine: Engine, signer: LinkSigner) -> None:
        self._engine = engine
        self._handler = DialectHandler(engine, signer, DIALECT)
        self._settings = engine.settings

    def app(self) -> Starlette:
        """The ASGI application, to be mounted at PREFIX."""
        return Starlette(
            routes=[
                route("/generations", POST=self.submit, GET=self.list_generations),
                route("/generations/{id}", GET=self.retrieve),
                route("/generations/{id}/cancel", POST=self.cancel),
            ],
            exception_handlers={ApiError: self._render_api_error, HTTPException: _render_http_error},
        )

    async def submit(self, request: Request) -> Response:
        """Answer `POST /generations`."""

        async def read(request: Request) -> GenerationRequest:
            return GenerationRequest.model_validate(validated(SubmitBody, await read_json(request)).model_dump())

        def accepted(generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
            if rule is not None and rule.kind == "generation_error":
                raise ApiError("generation", "Internal generation failure", generation_id=generation.id)
            return JSONResponse(self._accepted(generation), 202)

        return await self._handler.submit(request, read, accepted)

    async def retrieve(self, request: Request) -> Response:
        """Answer `GET /generations/{id}`."""
        return await self._handler.retrieve(
            request, lambda generation, rule: JSONResponse(self._render_generation(generation, rule))
        )

    async def list_generations(self, request: Request) -> Response:
        """Answer `GET /generations`."""

        def listed(generations: list[EmulatedGeneration], rule: FaultRule | None) -> Response:
            if self._settings.listing != "on":
                raise ApiError("unavailable", "Listing is not available", status=int(self._settings.listing))
            query = validated(ListQuery, dict(request.query_params))
            found = [item for item in generations if query.matches(item, self._engine.to_server_time(item.created))]
            # An item before the page was deleted since the page before it was read.
            offset = query.offset + (query.offset > 0 and rule is not None and rule.kind == "shifted_page")
            page = found[offset : offset + query.limit]
            body = {
                "object": "list",
                "data": [self._render_item(generation, rule) for generation in page],
                "has_more": offset + len(page) < len(found),
                "total_count": len(found),
            }
            return JSONResponse(distort_page(body, rule))

        return await self._handler.list_all(request, listed)

    async def cancel(self, request: Request) -> Response:
        """Answer `POST /generations/{id}/cancel`."""

        def cancelled(generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
            self._engine.cancel(generation.account, generation.id)
            return JSONResponse({"id": generation.id, "status": "cancelled", "cancellation_reason": "user_requested"})

        return await self._handler.respond_about(self._handler.get(request, "cancel"), "cancel", cancelled)

    def build_delivery(
        self, generation: EmulatedGeneration, status: EmulatedStatus, event_id: str, timestamp: float
    ) -> Delivery:
        """The signed webhook that tells of a status."""
        data: dict[str, Any] = {"generation_id": generation.id, "status": status}
        if status == "completed":
            data["result"] = self._render_result(generation, self._handler.links(generation))
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

    def _accepted(self, generation: EmulatedGeneration) -> dict[str, Any]:
        answer = {**self._render_head(generation, None), "parameters": _render_parameters(generation)}
        if self._settings.hint:
            answer["estimated_completion_time"] = math.ceil(generation.ends_at)
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
            answer["result"] = self._render_result(generation, self._handler.links(generation, rule))
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
        }

    def _render_item(self, generation: EmulatedGeneration, rule: FaultRule | None) -> dict[str, Any]:
        item: dict[str, Any] = {
            "id": generation.id,
            "status": status_with_fault(generation.status, rule),
            "created": int(self._engine.to_server_time(generation.created)),
            "prompt": self._engine.echo_prompt(generation),
        }
        if generation.status == "completed":
            item["result"] = self._render_result(generation, self._handler.links(generation, rule))
        return item

    def _render_result(self, generation: EmulatedGeneration, links: Links) -> dict[str, Any]:
        width, height = generation.request.frame_size
        return {
            "video_url": links.video,
            "thumbnail_url": links.thumbnail,
            "duration": generation.request.duration,
            "resolution": f"{width}x{height}",
            "file_size": generation.file_size,
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
    return generation.request.model_dump(include={"duration", "aspect_ratio", "resolution"})


def _render_failure(generation: EmulatedGeneration) -> dict[str, Any]:
    if generation.failure is None:
        return {"type": "generation_error", "message": "Generation failed"}
    return {"type": "generation_error", **generation.failure.model_dump()}


def _render_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    return JSONResponse({"error": {"type": kind, "message": str(error.detail)}}, error.status_code)
