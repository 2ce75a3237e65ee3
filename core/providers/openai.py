"""The OpenAI Videos dialect (`/videos`), as OpenAI defined it and as engines and proxies speak it.

How servers differ is data in `openai_profiles`; how a shot is asked for is in `openai_requests`; how the JSON is read
is in `openai_wire`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import httpx

from prefect_video.downloads import VideoSource
from prefect_video.errors import InvalidInput, NeedsAttention, NotFound, RequestRefused, UnreadableAnswer
from prefect_video.generations import Generation, Status, WebhookEvent
from prefect_video.http import ApiClient, HttpSettings, Params, check_endpoint, check_key
from prefect_video.providers import standard_webhooks
from prefect_video.providers.answers import accepted_unread
from prefect_video.providers.base import SEARCH_BACK, Account, Capabilities, link_source
from prefect_video.providers.fitting import check_fit
from prefect_video.providers.likeness import is_same_text, may_tell_of
from prefect_video.providers.model_inputs import own_aliases
from prefect_video.providers.openai_jobs import native_id, path_part
from prefect_video.providers.openai_profiles import profile_of
from prefect_video.providers.openai_requests import create_body
from prefect_video.providers.openai_wire import (
    JobInError,
    Page,
    Reader,
    read_event,
)
from prefect_video.providers.prices import listed_usd
from prefect_video.shots import DEFAULT_FPS, Shot

PAGE_SIZE: Final = 100
CLOCK_MARGIN: Final = timedelta(minutes=2)
"""How far the times of its generations may be from its clock when an unanswered submit is looked for."""
DEFAULT_SECONDS: Final = 4.0
"""How long a video is that asks for no length, by the dialect."""
KEYLESS: Final = "EMPTY"
"""What is sent to engines that want no key, as their own documentation does."""


class OpenAIProvider:
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
        self.profile = profile_of(profile)
        self.name = self.profile.provider
        address = base_url or self.profile.default_url or ""
        self._base_url = check_endpoint(address, named=f"{self.name} base URL")
        key = check_key(api_key or ("" if self.profile.needs_key else KEYLESS), named=f"{self.name} API key")
        self.account = Account.of(self.name, self._base_url, key)
        self.capabilities = replace(self.profile.capabilities, aliases=own_aliases(models, {}))
        if usd_per_second is not None:
            self.capabilities = replace(self.capabilities, usd_per_second={1: usd_per_second})
        self._usd_per_second = usd_per_second
        self._models = dict(models or {})
        self._webhook_secrets = tuple(webhook_secrets)
        self._authorization = {"Authorization": f"Bearer {key}"}
        self._read = Reader(self.name, f"{self._base_url}/videos", links=self.profile.links)
        self._api = ApiClient(
            provider=self.name,
            base_url=self._base_url,
            headers={**self._authorization, "Accept": "application/json"},
            refuse=self._read.error,
            settings=settings,
            transport=transport,
        )

    async def prepare(self) -> None:
        """Nothing to read; see `Provider.prepare`."""

    async def check_access(self) -> None:
        """Reads a list of one, or all where there are no pages; see `Provider.check_access`."""
        params: Params | None = {"limit": 1} if self.profile.pages else None
        self._read.page(await self._api.send("GET", "/videos", params=params))

    def offered(self, shot: Shot) -> Capabilities:
        """The same for every model, as far as is known; see `Provider.offered`."""
        return self.capabilities

    def check(self, shot: Shot) -> None:
        """Refuses a shot that the dialect cannot ask for; see `Provider.check`."""
        check_fit(shot, self.capabilities, by=self.profile.title)

    def estimate(self, shot: Shot) -> Decimal | None:
        """Price by the table or the account's own; see `Provider.estimate`."""
        return listed_usd(self.name, self._named(shot), usd_per_second=self._usd_per_second)

    async def submit(
        self, shot: Shot, *, idempotency_key: str, project: str, webhook_url: str | None = None
    ) -> Generation:
        """Sends the shot once; the dialect carries no key, no labels and no webhook; see `Provider.submit`."""
        body = await create_body(self._named(shot), self.profile)
        try:
            response = await self._api.send_once("POST", "/videos", json=body.json, form=body.form)
        except JobInError as job:
            return job.generation
        try:
            return self._read.generation(response)
        except UnreadableAnswer as error:
            raise accepted_unread(error, response, provider=self.name) from error

    def source(self, generation: Generation) -> VideoSource:
        """The content endpoint with the key, or the server's own link without; see `Provider.source`."""
        source = link_source(generation)
        if source.url != self._read.content_url(generation.id):
            return source
        return VideoSource(url=source.url, headers=self._authorization)

    async def retrieve(self, generation_id: str) -> Generation:
        """Reads one generation, even one that is told as an HTTP error; see `Provider.retrieve`."""
        try:
            response = await self._api.send("GET", f"/videos/{path_part(generation_id)}")
        except JobInError as job:
            return job.generation.model_copy(update={"id": generation_id})
        return self._read.generation(response, called=generation_id)

    async def cancel(self, generation_id: str) -> Generation:
        """Ends work under way where DELETE does; elsewhere, and when it is over, only reads; see `Provider.cancel`.

        A finished video is never deleted by this: it has been paid for.
        """
        generation = await self.retrieve(generation_id)
        if generation.status.ended or not self.profile.delete_aborts:
            return generation
        try:
            await self.delete(generation_id)
        except NotFound:
            raise
        except RequestRefused:
            # Being cancelled already, or over meanwhile: which of them, the job itself tells.
            return await self.retrieve(generation_id)
        return generation.model_copy(update={"status": Status.CANCELLED, "progress": None})

    async def delete(self, generation_id: str) -> None:
        """Deletes a generation and its video from the server, for good.

        Raises:
            NotFound: The server does not know the id.
            RequestRefused: It does not delete this one, for example because it is under way.
        """
        await self._api.send("DELETE", f"/videos/{path_part(generation_id)}")

    async def list(
        self, *, status: Status | None = None, created_after: datetime | None = None
    ) -> AsyncIterator[Generation]:
        """All generations, newest first; see `Provider.list`."""
        seen: set[str] = set()
        after: str | None = None
        while True:
            page = await self._page(after)
            fresh = [one for one in page.generations if one.id not in seen]
            seen.update(one.id for one in fresh)
            recent = [one for one in fresh if not _older(one, created_after)]
            for generation in recent:
                if status in (None, generation.status):
                    yield generation
            if not self.profile.pages or len(recent) < len(fresh) or not fresh or not _goes_on(page):
                return
            after = page.last_id or page.generations[-1].id

    async def find(
        self, shot: Shot, *, idempotency_key: str, sent_at: datetime, known_ids: Collection[str]
    ) -> Generation | None:
        """Looks for an unclaimed generation with the shot's words, length and size; see `Provider.find`."""
        if self.capabilities.reconciling == "none":
            raise NeedsAttention(
                f"{self.profile.title} does not say which prompt a generation was made of, so nobody can tell whether"
                f" shot {shot.id!r} was accepted"
            )
        known = {native_id(one) for one in known_ids}
        alike: list[Generation] = []
        async for one in self.list(created_after=sent_at - SEARCH_BACK):
            if _older(one, self._api.by_their_clock(sent_at) - CLOCK_MARGIN):
                break
            if native_id(one.id) not in known and may_tell_of(shot.prompt, one.prompt):
                alike.append(one)
        same = [one for one in alike if self._is_of(one, shot)]
        if alike and not same:
            raise NeedsAttention(
                f"{self.name} has generation {alike[0].id}, which may or may not be the one of shot {shot.id!r}"
            )
        return min(same, key=lambda one: one.created_at or sent_at, default=None)

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verifies a delivery by Standard Webhooks; see `Provider.parse_webhook`."""
        if not self.profile.webhooks:
            raise InvalidInput(f"webhook: {self.profile.title} sends none")
        delivery = standard_webhooks.verify(headers, body, self._webhook_secrets)
        event_type, generation_id = read_event(body)
        return WebhookEvent(
            event_id=delivery.id, event_type=event_type, generation_id=generation_id, sent_at=delivery.sent_at
        )

    async def aclose(self) -> None:
        """Closes connections."""
        await self._api.aclose()

    def _named(self, shot: Shot) -> Shot:
        """The shot with this server's name of its model."""
        return shot.model_copy(update={"model": self._models.get(shot.model, shot.model)})

    async def _page(self, after: str | None) -> Page:
        params: Params = {"limit": PAGE_SIZE, "order": "desc", **({"after": after} if after else {})}
        page = self._read.page(await self._api.send("GET", "/videos", params=params if self.profile.pages else None))
        if self.profile.pages:
            return page
        newest_first = sorted(page.generations, key=lambda one: one.created_at.timestamp() if one.created_at else 0.0)
        return replace(page, generations=tuple(reversed(newest_first)))

    def _is_of(self, generation: Generation, shot: Shot) -> bool:
        told = generation.parameters
        same_size = told.get("size") in (None, self.profile.size_of(shot))
        return is_same_text(generation.prompt, shot.prompt) and same_size and _lasts_like(told, shot)


def _lasts_like(told: Mapping[str, Any], shot: Shot) -> bool:
    """Whether what is told of a generation's length is what the shot asks for, in frames or in seconds."""
    if shot.num_frames and "num_frames" in told:
        return bool(told["num_frames"] == shot.num_frames and told.get("fps") in (None, shot.fps or DEFAULT_FPS))
    seconds = told.get("seconds", shot.length_seconds)
    # Where frames are asked for no seconds are sent, and engines tell the dialect's own default.
    by_default = bool(shot.num_frames) and seconds == DEFAULT_SECONDS
    # Servers tell whole seconds, also of a number of frames.
    return by_default or bool(abs(seconds - shot.length_seconds) < 1)


def _older(generation: Generation, moment: datetime | None) -> bool:
    return moment is not None and generation.created_at is not None and generation.created_at < moment


def _goes_on(page: Page) -> bool:
    return len(page.generations) >= PAGE_SIZE if page.has_more is None else page.has_more
