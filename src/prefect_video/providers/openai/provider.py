"""Provider of the OpenAI Videos dialect (`/videos`), as OpenAI defined it and as engines and proxies speak it.

The differences between servers are data in `profiles`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import httpx

from prefect_video.downloads import VideoSource
from prefect_video.errors import InvalidInput, InvalidResponse
from prefect_video.generations import Generation, Status, WebhookEvent
from prefect_video.providers import webhook_signatures
from prefect_video.providers.base import link_source
from prefect_video.providers.capabilities import check_options, check_supported
from prefect_video.providers.hosted_models import own_aliases
from prefect_video.providers.http import HttpSettings, Params
from prefect_video.providers.http_provider import HttpProvider
from prefect_video.providers.matching import Match, match_prompt
from prefect_video.providers.openai.profiles import find_profile
from prefect_video.providers.openai.requests import Body, create_body, own_names
from prefect_video.providers.openai.responses import JobErrorResponse, ResponseReader, read_event, unwrap_id, wrap_id
from prefect_video.providers.pages import Cursor, ListItem, ListPage
from prefect_video.providers.responses import path_part, unreadable_submit
from prefect_video.shots import DEFAULT_FPS, Shot

PAGE_SIZE: Final = 100
DEFAULT_SECONDS: Final = 4.0
"""Length of a video whose request has no length, by the dialect."""
KEYLESS: Final = "EMPTY"
"""Key that is sent to engines which need none, as in their own documentation."""


class OpenAIProvider(HttpProvider):
    """Provider of a server that speaks the OpenAI Videos dialect.

    Args:
        api_key: Sent as a bearer token to `base_url` and nowhere else; optional for self-hosted engines.
        base_url: Address with its version, such as `http://gpu-1:8000/v1`; None for OpenAI's own with `generic`.
        profile: A key of `PROFILES`.
        webhook_secrets: Secrets that sign deliveries; several during a rotation.
        models: Models of this account by their names in project files.
        usd_per_second: Price of a second for this account; None for the price table.
        settings: Timeouts and repeats.
        transport: For tests at the transport boundary.

    Raises:
        InvalidInput: The key, the address or the profile is not usable.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        profile: str = "generic",
        webhook_secrets: Sequence[str] = (),
        models: Mapping[str, str] | None = None,
        usd_per_second: Decimal | None = None,
        settings: HttpSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.profile = find_profile(profile)
        name = self.profile.provider
        capabilities = replace(self.profile.capabilities, aliases=own_aliases(models, {}))
        if usd_per_second is not None:
            capabilities = replace(capabilities, usd_per_second={1: usd_per_second})
        super().__init__(
            name=name,
            api_key=api_key or ("" if self.profile.needs_key else KEYLESS),
            base_url=base_url or self.profile.default_url or "",
            capabilities=capabilities,
            error_from=lambda response: self._reader.error(response),
            address_label="base URL",
            usd_per_second=usd_per_second,
            settings=settings,
            transport=transport,
        )
        self._models = dict(models or {})
        self._webhook_secrets = tuple(webhook_secrets)
        self._reader = ResponseReader(
            name, f"{self._base_url}/videos", links=self.profile.links, output_folder=self.profile.output_folder
        )

    async def check_access(self) -> None:
        """Read a list of one generation, the whole list where there are no pages, or the models where there is none."""
        if not self.profile.lists:
            self._reader.models(await self._api.send("GET", "/models"))
            return
        params: Params | None = {"limit": 1} if self.profile.pages else None
        self._reader.page(await self._api.send("GET", "/videos", params=params))

    def check(self, shot: Shot) -> None:
        """Reject a shot that the dialect cannot request."""
        check_supported(shot, self.capabilities, by=self.profile.title)
        check_options(shot, own_names(shot, self.profile), by=self.profile.title)

    async def submit(
        self, shot: Shot, *, idempotency_key: str, project: str, webhook_url: str | None = None
    ) -> Generation:
        """Send the shot once; the dialect has no fields for labels and a webhook.

        A remix has a prompt and nothing else. The idempotency key is sent only where the profile has an output folder,
        whose path the server then reports.
        """
        if shot.remixed_from is not None:
            path = f"/videos/{path_part(shot.remixed_from)}/remix"
            return self._observe_clock(await self._submit(path, Body(json={"prompt": shot.prompt})))
        body = await create_body(self._with_own_model(shot), self.profile, idempotency_key=idempotency_key)
        return self._observe_clock(await self._submit("/videos", body))

    def download_source(self, generation: Generation) -> VideoSource:
        """Return the content endpoint with the key, or the server's own link without it."""
        source = link_source(generation)
        if source.url != self._reader.content_url(generation.id):
            return source
        return VideoSource(url=source.url, headers=self._authorization)

    async def retrieve(self, generation_id: str) -> Generation:
        """Read one generation, even one that is reported as an HTTP error."""
        try:
            response = await self._api.send("GET", f"/videos/{path_part(generation_id)}")
        except JobErrorResponse as error:
            return error.generation.model_copy(update={"id": generation_id})
        return self._reader.generation(response, requested_id=generation_id)

    async def cancel(self, generation_id: str) -> Generation:
        """End work in progress where DELETE does so; elsewhere, and after its end, only read the generation.

        A finished video is never deleted by this: it has been paid for.
        """
        generation = await self.retrieve(generation_id)
        if generation.status.ended or not self.profile.delete_aborts:
            return generation
        if not await self._request_cancel("DELETE", f"/videos/{path_part(generation_id)}"):
            # It is being cancelled already, or has ended in the meantime: the job itself shows which.
            return await self.retrieve(generation_id)
        return generation.model_copy(update={"status": Status.CANCELLED, "progress": None})

    async def delete(self, generation_id: str) -> None:
        """Delete a generation and its video from the server, permanently.

        Raises:
            NotFound: The server does not know the id.
            RequestRejected: The server does not delete this one, for example because it is in progress.
        """
        await self._api.send("DELETE", f"/videos/{path_part(generation_id)}")

    def compare(self, generation: Generation, shot: Shot) -> Match:
        """Compare prompt, length and size; images and options, which are not echoed, may differ."""
        prompt = match_prompt(shot.prompt, generation.prompt)
        # A remix without the evidence of what it is a remix of may be another one.
        if shot.images or shot.options or generation.remixed_from != shot.remixed_from:
            prompt = min(prompt, Match.POSSIBLE)
        echoed = generation.parameters
        is_same_size = echoed.get("size") in (None, self.profile.format_size(shot))
        return prompt if is_same_size and _is_same_length(echoed, shot) else min(prompt, Match.POSSIBLE)

    def qualify_id(self, generation_id: str, shot: Shot) -> str:
        """Return the id of a console in the form in which the API takes it: a proxy finds its server by the model."""
        if not self.profile.wraps_ids or unwrap_id(generation_id) != generation_id:
            return generation_id
        return wrap_id(generation_id, self._model(shot))

    def unwrap_id(self, generation_id: str) -> str:
        """Return the id by the model's own server, which proxies spell in several ways."""
        return unwrap_id(generation_id)

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verify a delivery by Standard Webhooks, and read the event."""
        if not self.profile.webhooks:
            raise InvalidInput(f"webhook: {self.profile.title} sends none")
        delivery = webhook_signatures.verify(headers, body, self._webhook_secrets)
        event_type, generation_id = read_event(body)
        return WebhookEvent(
            event_id=delivery.id, event_type=event_type, generation_id=generation_id, sent_at=delivery.sent_at
        )

    def _with_own_model(self, shot: Shot) -> Shot:
        """Return the shot with this server's name of its model."""
        return shot.model_copy(update={"model": self._model(shot)})

    def _model(self, shot: Shot) -> str:
        return self._models.get(shot.model, shot.model)

    async def _submit(self, path: str, body: Body) -> Generation:
        try:
            response = await self._api.send_once("POST", path, json=body.json, form=body.form)
        except JobErrorResponse as error:
            # Accepted, and failed at once.
            return error.generation
        try:
            return self._reader.generation(response)
        except InvalidResponse as error:
            raise unreadable_submit(error, response, provider=self.name) from error

    async def _page(
        self, cursor: Cursor | None, *, status: Status | None = None, created_after: datetime | None = None
    ) -> ListPage:
        if not self.profile.lists:
            return await super()._page(cursor, status=status, created_after=created_after)
        if not self.profile.pages:
            page = self._reader.page(await self._api.send("GET", "/videos"))
            return replace(page, items=_newest_first(page.items), cursors=(), paged=False)
        params: Params = {"limit": PAGE_SIZE, "order": "desc", **({"after": cursor} if cursor else {})}
        page = self._reader.page(await self._api.send("GET", "/videos", params=params))
        return replace(page, limit=PAGE_SIZE)

    @property
    def _page_size(self) -> int:
        return PAGE_SIZE


def _newest_first(items: Sequence[ListItem]) -> tuple[ListItem, ...]:
    """Sort items newest first: those without a time at the end, and of equal times the last listed first."""
    oldest_first = sorted(items, key=lambda item: item.created_at.timestamp() if item.created_at else 0.0)
    return tuple(reversed(oldest_first))


def _is_same_length(echoed: Mapping[str, Any], shot: Shot) -> bool:
    """Return whether the echoed length of a generation is what the shot requests, in frames or in seconds."""
    if shot.num_frames and "num_frames" in echoed:
        return bool(echoed["num_frames"] == shot.num_frames and echoed.get("fps") in (None, shot.fps or DEFAULT_FPS))
    seconds = echoed.get("seconds", shot.length_seconds)
    # A request for frames has no seconds, and engines then echo the dialect's default.
    is_default = bool(shot.num_frames) and seconds == DEFAULT_SECONDS
    # Servers report whole seconds, also for a number of frames.
    return is_default or bool(abs(seconds - shot.length_seconds) < 1)
