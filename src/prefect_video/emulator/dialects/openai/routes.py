"""The OpenAI Videos dialect: routes under `/v1/videos`, and once more for each server that deviates from it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import time
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from prefect_video.emulator.dialects.base import DialectHandler
from prefect_video.emulator.dialects.openai import responses as words
from prefect_video.emulator.dialects.openai.profiles import PROFILES, EngineProfile
from prefect_video.emulator.dialects.openai.requests import read_create
from prefect_video.emulator.engine import Engine
from prefect_video.emulator.errors import ApiError, ErrorKind
from prefect_video.emulator.faults.broken_lists import distort_page
from prefect_video.emulator.faults.rules import FaultRule
from prefect_video.emulator.generation import EmulatedGeneration, EmulatedStatus, GenerationRequest
from prefect_video.emulator.routes import route
from prefect_video.emulator.signed_urls import LinkSigner
from prefect_video.emulator.webhook_sender import Delivery

LARGEST_PAGE: Final = 100
_EVENTS: Final[dict[EmulatedStatus, str]] = {"completed": "video.completed", "failed": "video.failed"}


class OpenAIDialect:
    """Routes and wording of one profile over one engine."""

    def __init__(self, engine: Engine, signer: LinkSigner, profile: EngineProfile) -> None:
        self._engine = engine
        self._profile = profile
        self._handler = DialectHandler(
            engine,
            signer,
            f"openai:{profile.name}",
            queueing=profile.queueing,
            moderated_later=True,
            id_prefix=profile.id_prefix,
        )

    def app(self) -> Starlette:
        """The ASGI application, to be mounted at the profile's prefix."""
        one = "/videos/{id:path}" if self._profile.wraps_ids else "/videos/{id}"
        return Starlette(
            routes=[
                route("/videos", POST=self.create, GET=self.list_videos),
                route(f"{one}/content", GET=self.content),
                route(one, GET=self.retrieve, DELETE=self.delete),
            ],
            exception_handlers={ApiError: self._render_api_error, HTTPException: self._render_http_error},
        )

    async def create(self, request: Request) -> Response:
        """`POST /videos`."""

        async def read(request: Request) -> GenerationRequest:
            return self._addressed(await read_create(request, self._profile))

        return await self._handler.submit(request, read, self._accepted)

    async def retrieve(self, request: Request) -> Response:
        """`GET /videos/{id}`."""
        _unwrap(request)
        return await self._handler.retrieve(request, lambda generation, rule: self._told(generation, rule, model=""))

    async def list_videos(self, request: Request) -> Response:
        """`GET /videos`: newest first unless asked otherwise."""

        def listed(generations: list[EmulatedGeneration], rule: FaultRule | None) -> Response:
            if self._profile.paging == "none":
                told = [self._job(one, rule) for one in reversed(generations)]
                return JSONResponse(distort_page({"object": "list", "data": told}, rule))
            page, more = _select_page(request, generations, rule)
            told = [self._job(one, rule) for one in page]
            answer: dict[str, Any] = {"object": "list", "data": told}
            if self._profile.paging == "cursor":
                ends = {"first_id": told[0]["id"] if told else None, "last_id": told[-1]["id"] if told else None}
                answer |= {**ends, "has_more": more}
            return JSONResponse(distort_page(answer, rule))

        return await self._handler.list_all(request, listed)

    async def delete(self, request: Request) -> Response:
        """`DELETE /videos/{id}`."""
        _unwrap(request)

        def deleted(generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
            match self._profile.delete:
                case "ended" if not generation.is_finished:
                    raise ApiError("conflict", f"Video {generation.id} is still being made and cannot be deleted")
                case "aborts" | "stops":
                    self._engine.stop(generation)
            told = self._job(generation, rule)
            self._engine.forget(generation)
            match self._profile.delete:
                case "stops":
                    return JSONResponse({"deleted": True})
                case "forgets":
                    return JSONResponse({**told, "status": "deleted"})
            return JSONResponse({"id": told["id"], "object": "video.deleted", "deleted": True})

        return await self._handler.respond_about(self._handler.get(request, "cancel"), "cancel", deleted)

    async def content(self, request: Request) -> Response:
        """`GET /videos/{id}/content`: the MP4; of pictures from it there are none."""
        _unwrap(request)
        generation = self._engine.retrieve(self._handler.authenticate(request), request.path_params["id"])
        if generation.status == "failed" and self._profile.name == "vllm_omni":
            raise ApiError("invalid", f"Video {generation.id} failed", status=422)
        if generation.status != "completed":
            message = f"Video {generation.id} is not ready (status: {generation.status})"
            raise ApiError("not_found", message, status=self._profile.unready)
        if self._profile.cloud:
            link = self._handler.links(generation).video
            raise ApiError("invalid", f"Video has been uploaded to cloud storage. Please use the cloud URL: {link}")
        if request.query_params.get("variant", "video") != "video" and self._profile.name == "generic":
            raise ApiError("invalid", "Invalid variant: only video is served here")
        if self._profile.redirects:
            return RedirectResponse(self._handler.links(generation).video, 302)
        return await self._handler.content(request)

    def build_delivery(
        self, generation: EmulatedGeneration, status: EmulatedStatus, event_id: str, timestamp: float
    ) -> Delivery | None:
        """The webhook by Standard Webhooks that tells of an end; none tells of anything else."""
        if status not in _EVENTS:
            return None
        event = {
            "id": event_id,
            "object": "event",
            "created_at": int(timestamp),
            "type": _EVENTS[status],
            "data": {"id": generation.id},
        }
        body = json.dumps(event, separators=(",", ":")).encode()
        stamp = str(int(timestamp))
        signed = b".".join([event_id.encode(), stamp.encode(), body])
        key = _key(self._engine.api_keys.webhook_secret(generation.account))
        code = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return Delivery(
            body=body,
            signature_header="webhook-signature",
            signature=f"v1,{code}",
            headers={"webhook-id": event_id, "webhook-timestamp": stamp},
        )

    def _addressed(self, order: GenerationRequest) -> GenerationRequest:
        """With the address that is registered for events, where there are any."""
        if not self._profile.priced or self._profile.wraps_ids:
            return order
        return order.model_copy(update={"webhook_url": self._engine.settings.registered_webhook_url})

    def _accepted(self, generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
        return self._told(generation, rule, status=self._profile.accepted)

    def _told(
        self, generation: EmulatedGeneration, rule: FaultRule | None, *, status: int = 200, model: str | None = None
    ) -> Response:
        failed = generation.status == "failed" and rule is None and self._profile.failed != 200
        told = self._job(generation, rule, model=model)
        code = told["error"]["code"] if failed else status
        return JSONResponse(told, code)

    def _job(
        self, generation: EmulatedGeneration, rule: FaultRule | None, *, model: str | None = None
    ) -> dict[str, Any]:
        expires = (generation.finished or time.time()) + self._engine.settings.link_ttl_seconds
        told = words.render_job(generation, self._profile, rule, expires=expires)
        told["created_at"] = int(self._engine.to_server_time(generation.created))
        if "prompt" in told:
            told["prompt"] = self._engine.echo_prompt(generation)
        if self._profile.wraps_ids:
            told["id"] = words.wrap_id(generation.id, generation.request.model if model is None else model)
        if self._profile.cloud and generation.status == "completed":
            told["url"] = self._handler.links(generation, rule).video
        return told

    def _render_api_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        headers = {"Retry-After": str(math.ceil(error.retry_after))} if error.retry_after is not None else {}
        return JSONResponse(words.render_error(error, self._profile), error.status, headers)

    def _render_http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind: ErrorKind = "not_found" if error.status_code == 404 else "invalid"
        answer = words.render_error(ApiError(kind, str(error.detail), status=error.status_code), self._profile)
        return JSONResponse(answer, error.status_code, error.headers)


def dialects(engine: Engine, signer: LinkSigner) -> dict[str, tuple[str, OpenAIDialect]]:
    """Every profile's dialect by its name, with the prefix to mount it at."""
    return {f"openai:{profile.name}": (profile.prefix, OpenAIDialect(engine, signer, profile)) for profile in PROFILES}


def _select_page(
    request: Request, generations: list[EmulatedGeneration], rule: FaultRule | None
) -> tuple[list[EmulatedGeneration], bool]:
    """What the query asks for of all generations, newest first; and whether there are more."""
    limit, order = request.query_params.get("limit", "20"), request.query_params.get("order", "desc")
    if not (limit.isascii() and limit.isdecimal() and int(limit) <= LARGEST_PAGE):
        raise ApiError("invalid", f"Invalid limit: a whole number from 0 to {LARGEST_PAGE} is wanted")
    if order not in ("asc", "desc"):
        raise ApiError("invalid", "Invalid order: asc or desc is wanted")
    wanted = generations if order == "desc" else generations[::-1]
    ids = [one.id for one in wanted]
    after = words.unwrap_id(request.query_params.get("after", ""))
    is_cursor_gone = rule is not None and rule.kind == "shifted_page"
    start = ids.index(after) + 1 if after in ids and not is_cursor_gone else 0
    page = wanted[start : start + int(limit)]
    return page, start + len(page) < len(wanted)


def _unwrap(request: Request) -> None:
    request.path_params["id"] = words.unwrap_id(request.path_params["id"])


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        return secret.encode()
