"""The OpenAI Videos dialect (`/videos`), as OpenAI defined it and as engines and proxies speak it.

How servers differ is data in `openai_profiles`; how a shot is asked for is in `openai_requests`; how the JSON is read
is in `openai_wire`.
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
from prefect_video.providers.capabilities import check_supported
from prefect_video.providers.hosted_models import own_aliases
from prefect_video.providers.http import HttpSettings, Params
from prefect_video.providers.http_provider import HttpProvider
from prefect_video.providers.matching import Match, match_prompt
from prefect_video.providers.openai.profiles import find_profile
from prefect_video.providers.openai.requests import Body, create_body
from prefect_video.providers.openai.responses import JobErrorResponse, Reader, path_part, read_event, unwrap_id
from prefect_video.providers.pages import Cursor, ListItem, ListPage
from prefect_video.providers.responses import unreadable_submit
from prefect_video.shots import DEFAULT_FPS, Shot

PAGE_SIZE: Final = 100
DEFAULT_SECONDS: Final = 4.0
"""How long a video is that asks for no length, by the dialect."""
KEYLESS: Final = "EMPTY"
"""What is sent to engines that want no key, as their own documentation does."""


class OpenAIProvider(HttpProvider):
    """A server that speaks the OpenAI Videos dialect.

    Args:
        api_key: Sent as a bearer token to `base_url` and nowhere else; may be left out for engines at home.
        base_url: With its version, such as `http://gpu-1:8000/v1`; for `generic` OpenAI's own when left out.
        profile: A key of `PROFILES`.
        webhook_secrets: Secrets that deliveries may be signed with; several while one is being rotated.
        models: Names in project files and the models they mean here.
        usd_per_second: What a second costs this account; None for the price table.
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
            error_from=lambda response: self._read.error(response),
            address_label="base URL",
            usd_per_second=usd_per_second,
            settings=settings,
            transport=transport,
        )
        self._models = dict(models or {})
        self._webhook_secrets = tuple(webhook_secrets)
        self._read = Reader(
            name, f"{self._base_url}/videos", links=self.profile.links, output_folder=self.profile.output_folder
        )

    async def check_access(self) -> None:
        """Read a list of one, or all where there are no pages."""
        params: Params | None = {"limit": 1} if self.profile.pages else None
        self._read.page(await self._api.send("GET", "/videos", params=params))

    def check(self, shot: Shot) -> None:
        """Refuses a shot that the dialect cannot ask for; see `Provider.check`."""
        check_supported(shot, self.capabilities, by=self.profile.title)

    async def submit(
        self, shot: Shot, *, idempotency_key: str, project: str, webhook_url: str | None = None
    ) -> Generation:
        """Sends the shot once; the dialect carries no labels and no webhook; see `Provider.submit`.

        Our key goes along only where the server can be told a folder for the video, which it then names.
        """
        body = await create_body(self._named(shot), self.profile, idempotency_key=idempotency_key)
        return self._accepted(await self._submit("/videos", body))

    def download_source(self, generation: Generation) -> VideoSource:
        """The content endpoint with the key, or the server's own link without; see `Provider.source`."""
        download_source = link_source(generation)
        if download_source.url != self._read.content_url(generation.id):
            return download_source
        return VideoSource(url=download_source.url, headers=self._authorization)

    async def retrieve(self, generation_id: str) -> Generation:
        """Reads one generation, even one that is told as an HTTP error; see `Provider.retrieve`."""
        try:
            response = await self._api.send("GET", f"/videos/{path_part(generation_id)}")
        except JobErrorResponse as job:
            return job.generation.model_copy(update={"id": generation_id})
        return self._read.generation(response, called=generation_id)

    async def cancel(self, generation_id: str) -> Generation:
        """Ends work under way where DELETE does; elsewhere, and when it is over, only reads; see `Provider.cancel`.

        A finished video is never deleted by this: it has been paid for.
        """
        generation = await self.retrieve(generation_id)
        if generation.status.ended or not self.profile.delete_aborts:
            return generation
        if not await self._request_cancel("DELETE", f"/videos/{path_part(generation_id)}"):
            # Being cancelled already, or over meanwhile: which of them, the job itself tells.
            return await self.retrieve(generation_id)
        return generation.model_copy(update={"status": Status.CANCELLED, "progress": None})

    async def delete(self, generation_id: str) -> None:
        """Deletes a generation and its video from the server, for good.

        Raises:
            NotFound: The server does not know the id.
            RequestRejected: It does not delete this one, for example because it is under way.
        """
        await self._api.send("DELETE", f"/videos/{path_part(generation_id)}")

    def compare(self, generation: Generation, shot: Shot) -> Match:
        """Compares words, length and size; see `Searchable`."""
        words = match_prompt(shot.prompt, generation.prompt)
        echoed = generation.parameters
        same_size = echoed.get("size") in (None, self.profile.size_of(shot))
        return words if same_size and _lasts_like(echoed, shot) else min(words, Match.POSSIBLE)

    def unwrap_id(self, generation_id: str) -> str:
        """Returns the id that the model's own server gave, which proxies spell differently; see `Searchable`."""
        return unwrap_id(generation_id)

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verifies a delivery by Standard Webhooks; see `Provider.parse_webhook`."""
        if not self.profile.webhooks:
            raise InvalidInput(f"webhook: {self.profile.title} sends none")
        delivery = webhook_signatures.verify(headers, body, self._webhook_secrets)
        event_type, generation_id = read_event(body)
        return WebhookEvent(
            event_id=delivery.id, event_type=event_type, generation_id=generation_id, sent_at=delivery.sent_at
        )

    def _named(self, shot: Shot) -> Shot:
        """The shot with this server's name of its model."""
        return shot.model_copy(update={"model": self._model(shot)})

    def _model(self, shot: Shot) -> str:
        return self._models.get(shot.model, shot.model)

    async def _submit(self, path: str, body: Body) -> Generation:
        try:
            response = await self._api.send_once("POST", path, json=body.json, form=body.form)
        except JobErrorResponse as job:
            return job.generation
        try:
            return self._read.generation(response)
        except InvalidResponse as error:
            raise unreadable_submit(error, response, provider=self.name) from error

    async def _page(
        self, cursor: Cursor | None, *, status: Status | None = None, created_after: datetime | None = None
    ) -> ListPage:
        if not self.profile.pages:
            page = self._read.page(await self._api.send("GET", "/videos"))
            return replace(page, items=_newest_first(page.items), cursors=(), paged=False)
        params: Params = {"limit": PAGE_SIZE, "order": "desc", **({"after": cursor} if cursor else {})}
        page = self._read.page(await self._api.send("GET", "/videos", params=params))
        return replace(page, limit=PAGE_SIZE)

    @property
    def _page_size(self) -> int:
        return PAGE_SIZE


def _newest_first(items: Sequence[ListItem]) -> tuple[ListItem, ...]:
    """The items of a list in any order; those without a time come last, and of those with the same the last first."""
    oldest_first = sorted(items, key=lambda item: item.created_at.timestamp() if item.created_at else 0.0)
    return tuple(reversed(oldest_first))


def _lasts_like(told: Mapping[str, Any], shot: Shot) -> bool:
    """Whether what is told of a generation's length is what the shot asks for, in frames or in seconds."""
    if shot.num_frames and "num_frames" in told:
        return bool(told["num_frames"] == shot.num_frames and told.get("fps") in (None, shot.fps or DEFAULT_FPS))
    seconds = told.get("seconds", shot.length_seconds)
    # Where frames are asked for no seconds are sent, and engines tell the dialect's own default.
    by_default = bool(shot.num_frames) and seconds == DEFAULT_SECONDS
    # Servers tell whole seconds, also of a number of frames.
    return by_default or bool(abs(seconds - shot.length_seconds) < 1)
