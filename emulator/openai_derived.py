"""Videos made from other videos, and characters: remix, edits, extensions."""

from __future__ import annotations

import time
import uuid
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_video.emulator import openai_words as words
from prefect_video.emulator.desk import Desk, Wording
from prefect_video.emulator.generation import Generation, Order
from prefect_video.emulator.openai_profiles import Profile
from prefect_video.emulator.openai_requests import (
    CharacterBody,
    CreateBody,
    ExtendBody,
    PromptBody,
    as_object,
    is_form,
    order_of,
    read_body,
)
from prefect_video.emulator.refusal import Refusal
from prefect_video.emulator.routes import route
from prefect_video.emulator.sora_requests import validated


class DerivedRoutes:
    """Routes of one profile; characters are kept for as long as the process lives."""

    def __init__(self, desk: Desk, profile: Profile, accepted: Wording) -> None:
        self._desk = desk
        self._profile = profile
        self._accepted = accepted
        self._characters: dict[tuple[str, str], dict[str, Any]] = {}

    def routes(self) -> list[Route]:
        """To stand before the routes of single videos, whose ids they would otherwise be taken for."""
        one = "/videos/{id:path}" if self._profile.wraps_ids else "/videos/{id}"
        return [
            route("/videos/edits", POST=self.edit),
            route("/videos/extensions", POST=self.extend),
            route("/videos/characters", POST=self.make_character),
            route("/videos/characters/{id}", GET=self.character),
            route(f"{one}/remix", POST=self.remix),
        ]

    async def remix(self, request: Request) -> Response:
        """``POST /videos/{id}/remix``."""

        async def read(request: Request) -> Order:
            body = validated(PromptBody, await read_body(request))
            return self._again(self._finished(request, request.path_params["id"]), body.prompt)

        return await self._desk.submit(request, read, self._accepted)

    async def edit(self, request: Request) -> Response:
        """``POST /videos/edits``."""

        async def read(request: Request) -> Order:
            body = validated(PromptBody, await read_body(request))
            return self._derived(request, body)

        return await self._desk.submit(request, read, self._accepted)

    async def extend(self, request: Request) -> Response:
        """``POST /videos/extensions``: the new video is as long as both together."""

        async def read(request: Request) -> Order:
            body = validated(ExtendBody, await read_body(request))
            more = validated(CreateBody, {"prompt": body.prompt, "seconds": body.seconds})
            order, added = self._derived(request, body), int(str(more.seconds))
            price = order_of(CreateBody(prompt=body.prompt, model=order.model, seconds=str(added)), self._profile)
            return order.model_copy(update={"duration": order.duration + added, "price_usd": price.price_usd})

        return await self._desk.submit(request, read, self._accepted)

    async def make_character(self, request: Request) -> Response:
        """``POST /videos/characters``."""
        account = self._desk.account_of(request)
        if not is_form(request):
            raise Refusal("invalid", "The body must be multipart/form-data")
        body = validated(CharacterBody, await read_body(request))
        character = {"id": f"char_{uuid.uuid4().hex[:24]}", "name": body.name, "created_at": int(time.time())}
        self._characters[account, str(character["id"])] = character
        return JSONResponse(character)

    async def character(self, request: Request) -> Response:
        """``GET /videos/characters/{id}``."""
        account, name = self._desk.account_of(request), request.path_params["id"]
        if (account, name) not in self._characters:
            raise Refusal("not_found", f"No character with id {name!r} exists under this key")
        return JSONResponse(self._characters[account, name])

    def _derived(self, request: Request, body: PromptBody) -> Order:
        reference = as_object(body.video)
        if isinstance(reference.get("id"), str):
            return self._again(self._finished(request, reference["id"]), body.prompt)
        # A part of a form that has no file name is text, and a file all the same.
        if isinstance(body.video, UploadFile) or (is_form(request) and isinstance(body.video, str)):
            return order_of(CreateBody(prompt=body.prompt), self._profile)
        raise Refusal("invalid", "Missing required parameter: 'video'.")

    def _finished(self, request: Request, video_id: str) -> Generation:
        account = self._desk.account_of(request)
        generation = self._desk.engine.retrieve(account, words.unwrapped_id(video_id))
        if generation.status != "completed":
            raise Refusal("conflict", f"Video {video_id} is not completed (status: {generation.status})")
        return generation

    def _again(self, source: Generation, prompt: str) -> Order:
        metadata = {**source.order.metadata, "remixed_from": source.id}
        return source.order.model_copy(update={"prompt": prompt, "metadata": metadata})
