"""Replicate dialect, mounted at `/replicate` in place of its host: predictions by model or by version.

Every request is accepted; a violation of policy shows as a failed prediction. Files and inputs are removed when the
link expires.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_video.emulator.dialects.base import DialectHandler, base_url, retry_after_headers, status_with_fault
from prefect_video.emulator.dialects.json_bodies import read_json, validate
from prefect_video.emulator.dialects.model_input import read_generation_request
from prefect_video.emulator.dialects.standard_webhooks import sign_delivery
from prefect_video.emulator.engine import Engine
from prefect_video.emulator.errors import ApiError, ErrorKind
from prefect_video.emulator.faults import FaultRule, distort_page
from prefect_video.emulator.generation import FINISHED, EmulatedGeneration, EmulatedStatus, GenerationRequest
from prefect_video.emulator.rendering import ImageFolder
from prefect_video.emulator.routes import route
from prefect_video.emulator.signed_urls import LinkSigner
from prefect_video.emulator.webhook_sender import Delivery

DIALECT: Final = "replicate"
PREFIX: Final = "/replicate"
PAGE_SIZE: Final = 100

_STATUSES: Final[dict[EmulatedStatus, str]] = {
    "queued": "starting",
    "processing": "processing",
    "completed": "succeeded",
    "failed": "failed",
    "cancelled": "canceled",
}
_EVENTS: Final[dict[EmulatedStatus, str]] = {"processing": "start", **dict.fromkeys(FINISHED, "completed")}
_HTTP_STATUSES: Final[dict[ErrorKind, int]] = {"invalid": 422, "quota": 402}
_TITLES: Final[dict[ErrorKind, str]] = {
    "authentication": "Unauthenticated",
    "not_found": "Not Found",
    "quota": "Insufficient credit",
    "rate": "Too many requests",
}
_PREDICTION: Final = "prediction"


class SubmitBody(BaseModel):
    """Body of both routes that create a prediction."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    version: str | None = None
    input: dict[str, Any]
    webhook: Annotated[str, Field(pattern="^https?://")] | None = None
    webhook_events_filter: list[str] = ["start", "output", "logs", "completed"]


class ReplicateDialect:
    """Replicate dialect over one engine."""

    def __init__(self, engine: Engine, signer: LinkSigner) -> None:
        self._engine = engine
        self._handler = DialectHandler(engine, signer, DIALECT, queueing=True)
        self._deadlines: set[asyncio.TimerHandle] = set()

    def app(self) -> Starlette:
        """Build the ASGI application, to be mounted at `PREFIX`."""
        return Starlette(
            routes=[
                route("/v1/account", GET=self.account),
                route("/v1/predictions", POST=self.submit, GET=self.list_predictions),
                route("/v1/models/{owner}/{name}/predictions", POST=self.submit),
                route("/v1/predictions/{id:path}/cancel", POST=self.cancel),
                route("/v1/predictions/{id:path}", GET=self.retrieve),
                route("/v1/webhooks/default/secret", GET=self.secret),
            ],
            exception_handlers={ApiError: _render_api_error, HTTPException: _render_http_error},
        )

    async def submit(self, request: Request) -> Response:
        """Answer `POST /v1/predictions` and `POST /v1/models/{owner}/{name}/predictions`."""
        deadline_seconds = _parse_cancel_after(request.headers.get("cancel-after"))

        def render(generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
            if deadline_seconds is not None:
                self._stop_at_deadline(generation, deadline_seconds / self._engine.settings.speed)
            return JSONResponse(self._render_generation(generation, rule, base_url(request)), 201)

        return await self._handler.submit(request, self._read_request, render)

    async def _read_request(self, request: Request) -> GenerationRequest:
        return await _read_generation_request(request, self._engine.images)

    async def account(self, request: Request) -> Response:
        """Answer `GET /v1/account` with the owner of the key."""
        self._engine.usage.count_request("account")
        self._handler.authenticate(request)
        return JSONResponse({"type": "user", "username": "emulator", "name": "Emulator"})

    async def retrieve(self, request: Request) -> Response:
        """Answer `GET /v1/predictions/{id}`."""
        return await self._handler.retrieve(
            request,
            lambda generation, rule: JSONResponse(self._render_generation(generation, rule, base_url(request))),
        )

    async def list_predictions(self, request: Request) -> Response:
        """Answer `GET /v1/predictions`: newest first; the cursor is the id of the last prediction of a page."""
        cursor, after = request.query_params.get("cursor"), _parse_time(request.query_params.get("created_after"))

        def render(generations: list[EmulatedGeneration], rule: FaultRule | None) -> Response:
            matching = [g for g in generations if after is None or self._engine.to_server_time(g.created) >= after]
            ids = [generation.id for generation in matching]
            # As if the cursor's prediction had been deleted: the list starts again from the beginning.
            is_cursor_missing = rule is not None and rule.kind == "shifted_page"
            start = ids.index(cursor) + 1 if cursor in ids and not is_cursor_missing else 0
            page = matching[start : start + PAGE_SIZE]
            has_more = len(matching) > start + PAGE_SIZE
            link = request.url.include_query_params(cursor=page[-1].id) if has_more else None
            results = [self._render_generation(generation, rule, base_url(request)) for generation in page]
            answer = {"previous": None, "next": str(link) if link else None, "results": results}
            return JSONResponse(distort_page(answer, rule, items="results"))

        return await self._handler.list_all(request, render)

    async def cancel(self, request: Request) -> Response:
        """Answer `POST /v1/predictions/{id}/cancel`: stop the prediction; no error if it has ended."""

        def cancel(generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
            self._engine.stop(generation)
            return JSONResponse(self._render_generation(generation, rule, base_url(request)))

        return await self._handler.respond_about(self._handler.get(request, "cancel"), "cancel", cancel)

    async def secret(self, request: Request) -> Response:
        """Answer `GET /v1/webhooks/default/secret` with the account's webhook secret."""
        self._engine.usage.count_request("secret")
        account = self._handler.authenticate(request)
        return JSONResponse({"key": self._engine.api_keys.webhook_secret(account)})

    def build_delivery(
        self, generation: EmulatedGeneration, status: EmulatedStatus, event_id: str, timestamp: float
    ) -> Delivery | None:
        """Build the webhook with the whole prediction; None for an event that the request filters out."""
        if _EVENTS.get(status) not in generation.request.metadata[_PREDICTION]["events"]:
            return None
        # Sent in the background: by now the generation may be further than the status that the event reports.
        prediction = self._render_generation(_with_status(generation, status), None, "")
        body = json.dumps(prediction, separators=(",", ":")).encode()
        secret = self._engine.api_keys.webhook_secret(generation.account)
        return sign_delivery(body, secret=secret, event_id=event_id, timestamp=timestamp)

    def _stop_at_deadline(self, generation: EmulatedGeneration, seconds: float) -> None:
        """Stop a prediction that has not ended within `seconds`."""

        def stop() -> None:
            self._deadlines.discard(handle)
            # Replicate calls a prediction aborted, not canceled, if it never started.
            if generation.status == "queued":
                generation.request.metadata[_PREDICTION]["aborted"] = True
            self._engine.stop(generation)

        handle = asyncio.get_running_loop().call_later(seconds, stop)
        self._deadlines.add(handle)

    def _render_generation(
        self, generation: EmulatedGeneration, rule: FaultRule | None, root_url: str
    ) -> dict[str, Any]:
        prediction = generation.request.metadata[_PREDICTION]
        url = f"{root_url}{PREFIX}/v1/predictions/{generation.id}"
        finished = generation.finished
        removed = finished is not None and time.time() > finished + self._engine.settings.link_ttl_seconds
        status = "aborted" if prediction.get("aborted") else _STATUSES[generation.status]
        answer: dict[str, Any] = {
            "id": generation.id,
            "model": generation.request.model,
            "version": prediction["version"],
            "status": status_with_fault(status, rule),
            "input": {} if removed else self._echo_input(generation),
            "output": None,
            "logs": "",
            "error": _error_text(generation),
            "metrics": {},
            "data_removed": removed,
            "source": "api",
            "created_at": _format_time(self._engine.to_server_time(generation.created)),
            "started_at": _format_time(self._engine.to_server_time(generation.starts_at))
            if generation.status != "queued"
            else None,
            "completed_at": _format_time(self._engine.to_server_time(finished)) if finished is not None else None,
            "urls": {"get": url, "cancel": f"{url}/cancel"},
        }
        if generation.status == "completed" and finished is not None:
            answer["metrics"] = {"predict_time": generation.ends_at - generation.starts_at}
            if not removed:
                links = self._handler.links(generation, rule, at=finished)
                has_preview = rule is not None and rule.kind == "preview_first"
                answer["output"] = [links.thumbnail, links.video] if has_preview else links.video
        return answer

    def _echo_input(self, generation: EmulatedGeneration) -> dict[str, Any]:
        prompt = self._engine.echo_prompt(generation)
        values = {**generation.request.metadata["input"], "prompt": prompt}
        return {name: value for name, value in values.items() if value is not None}


async def _read_generation_request(request: Request, images: ImageFolder) -> GenerationRequest:
    body = validate(SubmitBody, await read_json(request))
    if "name" in request.path_params:
        model, version = f"{request.path_params['owner']}/{request.path_params['name']}", "hidden"
    elif body.version:
        model, _, version = body.version.rpartition(":")
        model = model or "emulator/unnamed"
    else:
        raise ApiError("invalid", "version is required")
    generation_request = read_generation_request(
        _echo_numbers(body.input), images, model=model, webhook_url=body.webhook
    )
    prediction = {"version": version, "events": body.webhook_events_filter}
    return generation_request.model_copy(update={"metadata": {**generation_request.metadata, _PREDICTION: prediction}})


def _echo_numbers(value: Any) -> Any:
    """Return JSON as a JavaScript server echoes it, where all numbers are of one type: 7.0 comes back as 7."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _echo_numbers(item) for name, item in value.items()}
    return [_echo_numbers(item) for item in value] if isinstance(value, list) else value


def _with_status(generation: EmulatedGeneration, status: EmulatedStatus) -> EmulatedGeneration:
    """Return a copy of a generation as it was in an earlier status."""
    finished = generation.finished if status in FINISHED else None
    return generation.model_copy(update={"status": status, "finished": finished})


def _error_text(generation: EmulatedGeneration) -> str | None:
    if generation.failure is None:
        return None
    if generation.failure.code == "content_policy_violation":
        return "The input or output was flagged as sensitive. Please try again with different inputs. (E005)"
    return f"{generation.failure.message} (E1000)"


def _parse_cancel_after(header: str | None) -> float | None:
    """Return the seconds of a duration such as `1m`, `90s` or `1h30m`; a bare number means seconds."""
    if header is None:
        return None
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", header.strip())
    hours, minutes, seconds = (int(part or 0) for part in parts.groups()) if parts else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + seconds
    if total < 5:
        raise ApiError("invalid", f"Cancel-After: {header!r} is not a duration of at least 5 seconds")
    return float(total)


def _parse_time(text: str | None) -> float | None:
    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise ApiError("invalid", f"created_after: {error}") from error


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _render_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    status = _HTTP_STATUSES.get(error.kind, error.status)
    body = {"title": _TITLES.get(error.kind, "Request refused"), "detail": error.message, "status": status}
    return JSONResponse(body, status, retry_after_headers(error))


def _render_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(
        {"title": str(error.detail), "detail": str(error.detail), "status": error.status_code}, error.status_code
    )
