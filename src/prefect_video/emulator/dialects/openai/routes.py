"""OpenAI Videos dialect: routes under `/v1/videos`, and once more for each server that deviates from it."""

from __future__ import annotations

import json
import time
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from prefect_video.emulator.dialects.base import DialectHandler, retry_after_headers
from prefect_video.emulator.dialects.json_bodies import validate
from prefect_video.emulator.dialects.openai.profiles import PROFILES, EngineProfile
from prefect_video.emulator.dialects.openai.requests import DEFAULT_MODEL, RemixBody, read_body, read_create
from prefect_video.emulator.dialects.openai.responses import render_error, render_job, unwrap_id, wrap_id
from prefect_video.emulator.dialects.standard_webhooks import sign_delivery
from prefect_video.emulator.engine import Engine
from prefect_video.emulator.errors import ApiError, ErrorKind
from prefect_video.emulator.faults import FaultRule, distort_page
from prefect_video.emulator.generation import EmulatedGeneration, EmulatedStatus, GenerationRequest
from prefect_video.emulator.routes import route
from prefect_video.emulator.signed_urls import LinkSigner
from prefect_video.emulator.webhook_sender import Delivery

LARGEST_PAGE: Final = 100
_NO_LIST: Final = (
    "litellm.BadRequestError: LLM Provider NOT provided. Pass in the LLM provider you are trying to call. You passed"
    " model=\n Pass model as E.g. For 'Huggingface' inference endpoints pass in"
    " `completion(model='huggingface/starcoder',..)` Learn more: https://docs.litellm.ai/docs/providers"
)
_EVENTS: Final[dict[EmulatedStatus, str]] = {"completed": "video.completed", "failed": "video.failed"}


class OpenAIDialect:
    """OpenAI Videos dialect of one profile over one engine."""

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
        """Build the ASGI application, to be mounted at the profile's prefix."""
        # Ids may hold slashes: a wrapped one, which is base64, and those of the setting `ids="reserved"`.
        video = "/videos/{id:path}"
        remixes = [route(f"{video}/remix", POST=self.remix)] if self._profile.remixes else []
        return Starlette(
            routes=[
                *remixes,
                route("/models", GET=self.models),
                route("/videos", POST=self.create, GET=self.list_videos),
                route(f"{video}/content", GET=self.content),
                route(video, GET=self.retrieve, DELETE=self.delete),
            ],
            exception_handlers={ApiError: self._render_api_error, HTTPException: self._render_http_error},
        )

    async def create(self, request: Request) -> Response:
        """Answer `POST /videos`."""

        async def read(request: Request) -> GenerationRequest:
            return self._add_webhook_url(await read_create(request, self._profile, self._engine.images))

        return await self._handler.submit(request, read, self._render_submit)

    async def remix(self, request: Request) -> Response:
        """Answer `POST /videos/{id}/remix`: a submit of its own, of the original's model, length and size."""

        async def read(request: Request) -> GenerationRequest:
            original = self._handler.find_original(request)
            body = validate(RemixBody, await read_body(request))
            return self._add_webhook_url(original.request.remix(original.id, body.prompt))

        return await self._handler.submit(request, read, self._render_submit)

    def _render_submit(self, generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
        return self._render_video(generation, rule, status=self._profile.accepted_status)

    async def retrieve(self, request: Request) -> Response:
        """Answer `GET /videos/{id}`."""
        self._unwrap_id(request)
        # LiteLLM wraps the model into the id, and does not know it here: the same video gets another id than at first.
        return await self._handler.retrieve(
            request, lambda generation, rule: self._render_video(generation, rule, model="")
        )

    async def models(self, request: Request) -> Response:
        """Answer `GET /models`."""
        self._engine.usage.count_request("models")
        self._handler.authenticate(request)
        return JSONResponse({"object": "list", "data": [{"id": DEFAULT_MODEL, "object": "model"}]})

    async def list_videos(self, request: Request) -> Response:
        """Answer `GET /videos`: newest first unless the query orders otherwise."""
        if not self._profile.lists:
            self._engine.usage.count_request("list")
            self._handler.authenticate(request)
            raise ApiError("invalid", _NO_LIST)

        def render(generations: list[EmulatedGeneration], rule: FaultRule | None) -> Response:
            if self._profile.paging == "none":
                jobs = [self._render_job(generation, rule) for generation in reversed(generations)]
                return JSONResponse(distort_page({"object": "list", "data": jobs}, rule))
            page, has_more = _select_page(request, generations, rule)
            jobs = [self._render_job(generation, rule) for generation in page]
            answer: dict[str, Any] = {"object": "list", "data": jobs}
            if self._profile.paging == "cursor":
                ends = {"first_id": jobs[0]["id"] if jobs else None, "last_id": jobs[-1]["id"] if jobs else None}
                answer |= {**ends, "has_more": has_more}
            return JSONResponse(distort_page(answer, rule))

        return await self._handler.list_all(request, render)

    async def delete(self, request: Request) -> Response:
        """Answer `DELETE /videos/{id}`."""
        self._unwrap_id(request)

        def delete(generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
            match self._profile.delete:
                case "ended" if not generation.is_finished:
                    raise ApiError("conflict", f"Video {generation.id} is still being made and cannot be deleted")
                case "aborts" | "stops":
                    self._engine.stop(generation)
            job = self._render_job(generation, rule)
            self._engine.forget(generation)
            match self._profile.delete:
                case "stops":
                    return JSONResponse({"deleted": True})
                case "forgets":
                    return JSONResponse({**job, "status": "deleted"})
            return JSONResponse({"id": job["id"], "object": "video.deleted", "deleted": True})

        return await self._handler.respond_about(self._handler.get(request, "cancel"), "cancel", delete)

    async def content(self, request: Request) -> Response:
        """Answer `GET /videos/{id}/content` with the MP4; other variants are not offered."""
        self._unwrap_id(request)
        generation = self._engine.retrieve(self._handler.authenticate(request), request.path_params["id"])
        if generation.status == "failed" and self._profile.name == "vllm_omni":
            raise ApiError("invalid", f"Video {generation.id} failed", status=422)
        if generation.status != "completed":
            message = f"Video {generation.id} is not ready (status: {generation.status})"
            raise ApiError("not_found", message, status=self._profile.unready_status)
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
        """Build the webhook, by Standard Webhooks, for an end; None for any other status."""
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
        secret = self._engine.api_keys.webhook_secret(generation.account)
        return sign_delivery(body, secret=secret, event_id=event_id, timestamp=timestamp)

    def _add_webhook_url(self, generation_request: GenerationRequest) -> GenerationRequest:
        """Add the receiver registered for events; only OpenAI itself sends any."""
        if not self._profile.priced or self._profile.wraps_ids:
            return generation_request
        return generation_request.model_copy(update={"webhook_url": self._engine.settings.registered_webhook_url})

    def _render_video(
        self, generation: EmulatedGeneration, rule: FaultRule | None, *, status: int = 200, model: str | None = None
    ) -> Response:
        """Render a job, with the status of its failure where the profile returns that instead of 200."""
        job = self._render_job(generation, rule, model=model)
        if generation.status == "failed" and rule is None and self._profile.failed_status != 200:
            status = job["error"]["code"]
        return JSONResponse(job, status)

    def _render_job(
        self, generation: EmulatedGeneration, rule: FaultRule | None, *, model: str | None = None
    ) -> dict[str, Any]:
        expires = (generation.finished or time.time()) + self._engine.settings.link_ttl_seconds
        job = render_job(generation, self._profile, rule, expires=expires)
        job["created_at"] = int(self._engine.to_server_time(generation.created))
        if job["completed_at"] is not None:
            job["completed_at"] = int(self._engine.to_server_time(job["completed_at"]))
        if "prompt" in job:
            job["prompt"] = self._engine.echo_prompt(generation)
        if self._profile.wraps_ids:
            job["id"] = wrap_id(generation.id, generation.request.model if model is None else model)
        if self._profile.cloud and generation.status == "completed":
            job["url"] = self._handler.links(generation, rule).video
        return job

    def _unwrap_id(self, request: Request) -> None:
        """Replace a wrapped id in the path by the generation's own.

        Raises:
            ApiError: It is not wrapped: LiteLLM asks OpenAI itself then, where the key is not known.
        """
        given = request.path_params["id"]
        request.path_params["id"] = unwrap_id(given)
        if self._profile.wraps_ids and request.path_params["id"] == given:
            self._handler.authenticate(request)
            raise ApiError("server", "litellm.InternalServerError: OpenAIException - no answer from api.openai.com")

    def _render_api_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return JSONResponse(render_error(error, self._profile), error.status, retry_after_headers(error))

    def _render_http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind: ErrorKind = "not_found" if error.status_code == 404 else "invalid"
        body = render_error(ApiError(kind, str(error.detail), status=error.status_code), self._profile)
        return JSONResponse(body, error.status_code, error.headers)


def build_dialects(engine: Engine, signer: LinkSigner) -> dict[str, tuple[str, OpenAIDialect]]:
    """Return the dialect of every profile by its name, with the prefix at which it is mounted."""
    return {f"openai:{profile.name}": (profile.prefix, OpenAIDialect(engine, signer, profile)) for profile in PROFILES}


def _select_page(
    request: Request, generations: list[EmulatedGeneration], rule: FaultRule | None
) -> tuple[list[EmulatedGeneration], bool]:
    """Return the requested page of all generations (newest first), and whether more follow.

    Raises:
        ApiError: The query is not valid.
    """
    limit, order = request.query_params.get("limit", "20"), request.query_params.get("order", "desc")
    if not (limit.isascii() and limit.isdecimal() and int(limit) <= LARGEST_PAGE):
        raise ApiError("invalid", f"Invalid limit: send a whole number from 0 to {LARGEST_PAGE}")
    if order not in ("asc", "desc"):
        raise ApiError("invalid", "Invalid order: send asc or desc")
    ordered = generations if order == "desc" else generations[::-1]
    ids = [generation.id for generation in ordered]
    after = unwrap_id(request.query_params.get("after", ""))
    # As if the cursor's generation had been deleted: the list starts again from the beginning.
    is_cursor_missing = rule is not None and rule.kind == "shifted_page"
    start = ids.index(after) + 1 if after in ids and not is_cursor_missing else 0
    page = ordered[start : start + int(limit)]
    return page, start + len(page) < len(ordered)
