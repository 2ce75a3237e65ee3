"""fal dialect: a job queue, mounted at `/fal` in place of its host, and its signing keys.

Every request is accepted; what a model does not support, or policy forbids, shows in the result of the job.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Final
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_video.emulator.dialects.base import (
    DialectHandler,
    base_url,
    file_size_with_fault,
    retry_after_headers,
    status_with_fault,
)
from prefect_video.emulator.dialects.json_bodies import read_json
from prefect_video.emulator.dialects.model_input import read_generation_request
from prefect_video.emulator.engine import Engine
from prefect_video.emulator.errors import ApiError
from prefect_video.emulator.faults import FaultRule
from prefect_video.emulator.generation import EmulatedGeneration, EmulatedStatus, GenerationRequest
from prefect_video.emulator.rendering import ImageFolder
from prefect_video.emulator.routes import route
from prefect_video.emulator.signed_urls import LinkSigner
from prefect_video.emulator.webhook_sender import Delivery

DIALECT: Final = "fal"
PREFIX: Final = "/fal"

_STATUSES: Final[dict[EmulatedStatus, str]] = {
    "queued": "IN_QUEUE",
    "processing": "IN_PROGRESS",
    "completed": "COMPLETED",
    "failed": "COMPLETED",
    "cancelled": "COMPLETED",
}


class FalDialect:
    """fal dialect over one engine."""

    def __init__(self, engine: Engine, signer: LinkSigner) -> None:
        self._engine = engine
        self._handler = DialectHandler(engine, signer, DIALECT, scheme="Key", queueing=True)
        # The status carries no link: a fault due for it shows in the result that the client reads next.
        self._expired_link_rules: dict[str, FaultRule] = {}

    def app(self) -> Starlette:
        """Build the ASGI application, to be mounted at `PREFIX`."""
        # Ids may hold slashes: those of the setting `ids="reserved"`.
        job = "/{owner}/{app}/requests/{id:path}"
        return Starlette(
            routes=[
                route("/.well-known/jwks.json", GET=self.keys),
                route(f"{job}/status", GET=self.status),
                route(f"{job}/cancel", PUT=self.cancel),
                route(job, GET=self.result),
                route("/{model:path}", POST=self.submit),
            ],
            exception_handlers={ApiError: _render_api_error, HTTPException: _render_http_error},
        )

    async def submit(self, request: Request) -> Response:
        """Answer `POST /{owner}/{app}/{path}`."""

        def render(generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
            return JSONResponse({"status": "IN_QUEUE", **_render_links(request, generation), "queue_position": 0})

        return await self._handler.submit(request, self._read_request, render)

    async def _read_request(self, request: Request) -> GenerationRequest:
        return await _read_generation_request(request, self._engine.images)

    async def status(self, request: Request) -> Response:
        """Answer `GET /{owner}/{app}/requests/{id}/status`."""

        def render(generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
            _check_app(request, generation)
            if rule is not None and rule.kind == "expired_link":
                self._expired_link_rules[generation.id] = rule
            status = status_with_fault(_STATUSES[generation.status], rule)
            answer: dict[str, Any] = {"status": status, **_render_links(request, generation), "logs": None}
            if generation.status == "queued":
                answer["queue_position"] = 0
            if generation.is_finished:
                answer["metrics"] = {"inference_time": generation.ends_at - generation.starts_at}
                answer |= _render_status_error(generation)
            return JSONResponse(answer, 200 if generation.is_finished else 202)

        return await self._handler.retrieve(request, render)

    async def result(self, request: Request) -> Response:
        """Answer `GET /{owner}/{app}/requests/{id}`."""
        generation = self._handler.get(request, "retrieve")
        _check_app(request, generation)
        if not generation.is_finished:
            return JSONResponse({"detail": "Request is still in progress"}, 400)
        body, code = self._build_payload(generation, self._expired_link_rules.pop(generation.id, None))
        return JSONResponse(body, code)

    async def cancel(self, request: Request) -> Response:
        """Answer `PUT /{owner}/{app}/requests/{id}/cancel`: stop only a job that has not started."""

        def cancel(generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
            _check_app(request, generation)
            if generation.is_finished:
                return JSONResponse({"status": "ALREADY_COMPLETED"}, 400)
            if generation.status == "queued":
                self._engine.stop(generation)
            return JSONResponse({"status": "CANCELLATION_REQUESTED"}, 202)

        return await self._handler.respond_about(self._handler.get(request, "cancel"), "cancel", cancel)

    async def keys(self, request: Request) -> Response:
        """Answer `GET /.well-known/jwks.json` with the public keys of the webhook signatures."""
        self._engine.usage.count_request("keys")
        settings = self._engine.settings
        secrets = {settings.webhook_secret, *settings.webhook_secrets.values()}
        return JSONResponse({"keys": [_public_key(secret) for secret in sorted(secrets)]})

    def build_delivery(
        self, generation: EmulatedGeneration, status: EmulatedStatus, event_id: str, timestamp: float
    ) -> Delivery | None:
        """Build the signed webhook for an end; None for any other status."""
        if status not in ("completed", "failed"):
            return None
        payload, code = self._build_payload(generation, None)
        event: dict[str, Any] = {
            "request_id": generation.id,
            "gateway_request_id": generation.id,
            "status": "OK" if status == "completed" else "ERROR",
            "payload": payload,
        }
        if status == "failed":
            event["error"] = f"Invalid status code: {code}"
        body = json.dumps(event, separators=(",", ":")).encode()
        stamp = str(int(timestamp))
        message = "\n".join([generation.id, generation.account, stamp, hashlib.sha256(body).hexdigest()])
        secret = self._engine.api_keys.webhook_secret(generation.account)
        return Delivery(
            body=body,
            signature_header="X-Fal-Webhook-Signature",
            signature=_private_key(secret).sign(message.encode()).hex(),
            headers={
                "X-Fal-Webhook-Request-Id": generation.id,
                "X-Fal-Webhook-User-Id": generation.account,
                "X-Fal-Webhook-Timestamp": stamp,
            },
        )

    def _build_payload(self, generation: EmulatedGeneration, rule: FaultRule | None) -> tuple[dict[str, Any], int]:
        """Return the model's answer and its HTTP status."""
        if generation.failure is not None:
            kind = generation.failure.code
            if kind == "content_policy_violation":
                return {"detail": [{"loc": ["body", "prompt"], "msg": generation.failure.message, "type": kind}]}, 422
            return {"detail": generation.failure.message, "error_type": "internal_error"}, 500
        if generation.status != "completed":
            return {"detail": "Request was cancelled", "error_type": "client_cancelled"}, 400
        video = {
            "url": self._handler.links(generation, rule).video,
            "content_type": "video/mp4",
            "file_name": "video.mp4",
            "file_size": file_size_with_fault(generation, rule),
        }
        return {"video": video, "seed": generation.request.metadata.get("seed", 42)}, 200


async def _read_generation_request(request: Request, images: ImageFolder) -> GenerationRequest:
    model = request.path_params["model"]
    if len(model.split("/")) < 2:
        raise ApiError("not_found", f"Application {model!r} not found")
    return read_generation_request(
        await read_json(request), images, model=model, webhook_url=request.query_params.get("fal_webhook")
    )


def _app_name(generation: EmulatedGeneration) -> str:
    """Return owner and app of a model, under which its jobs are found, without the rest of its path."""
    return "/".join(generation.request.model.split("/")[:2])


def _check_app(request: Request, generation: EmulatedGeneration) -> None:
    app = f"{request.path_params['owner']}/{request.path_params['app']}"
    if app != _app_name(generation):
        raise ApiError("not_found", f"Request {generation.id} not found under {app}")


def _render_links(request: Request, generation: EmulatedGeneration) -> dict[str, str]:
    job = f"{base_url(request)}{PREFIX}/{_app_name(generation)}/requests/{quote(generation.id, safe='')}"
    return {
        "request_id": generation.id,
        "response_url": job,
        "status_url": f"{job}/status",
        "cancel_url": f"{job}/cancel",
    }


def _render_status_error(generation: EmulatedGeneration) -> dict[str, str]:
    """Return the error fields of a status; a rejection by the model shows in the result only."""
    if generation.status == "cancelled":
        return {"error": "Request was cancelled", "error_type": "client_cancelled"}
    if generation.failure is not None and generation.failure.code != "content_policy_violation":
        return {"error": generation.failure.message, "error_type": "internal_error"}
    return {}


def _private_key(secret: str) -> Ed25519PrivateKey:
    # Derived from the secret, so that a restarted emulator signs with the key that clients have cached.
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(secret.encode()).digest())


def _public_key(secret: str) -> dict[str, str]:
    raw = _private_key(secret).public_key().public_bytes_raw()
    return {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(raw).rstrip(b"=").decode()}


def _render_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    status = 403 if error.kind == "quota" else error.status
    return JSONResponse({"detail": error.message}, status, retry_after_headers(error))


def _render_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": str(error.detail)}, error.status_code)
