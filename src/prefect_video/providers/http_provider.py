"""The part of a provider that every dialect shares: its connection, its list, and the search in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import ClassVar, Final

import httpx

from prefect_video.downloads import VideoSource, origin
from prefect_video.errors import NotFound, ProviderError, RequestRejected, UnsafeUrl
from prefect_video.generations import Generation, Status
from prefect_video.providers.base import Account, Capabilities, link_source
from prefect_video.providers.capabilities import check_supported
from prefect_video.providers.clocks import ClockReading, ProviderClock
from prefect_video.providers.http import ApiClient, HttpSettings, check_endpoint, check_key
from prefect_video.providers.matching import Match, Search, find_unclaimed, match_prompt
from prefect_video.providers.pages import Cursor, ListPage, iterate_generations
from prefect_video.providers.pricing import listed_usd
from prefect_video.shots import Shot

PAGE_SIZE: Final = 100


class HttpProvider(ABC):
    """Base of providers that are reached over HTTP with a key.

    A dialect adds `submit`, `retrieve`, `cancel` and `parse_webhook`; where it lists generations, `_page` and
    `compare` as well. Without a list, an unanswered submit is held for a human.

    Args:
        name: Name of the provider.
        api_key: Sent in the `Authorization` header to `base_url` and nowhere else.
        base_url: Address of the API.
        capabilities: What it can make and do.
        error_from: Makes the error of an unsuccessful answer, by the dialect's table.
        address_label: What messages call the address, such as `endpoint`.
        key_label: What messages call the key.
        scheme: The word before the key in the header.
        account: What to book under, where the address is not what names the account.
        usd_per_second: What a second costs this account; None for the price table.
        settings: Timeouts and repeats.
        transport: For tests at the transport boundary.

    Raises:
        InvalidInput: The key or the address is not usable.
    """

    sends_key_to_own_links: ClassVar[bool] = False
    """Whether a video's link that leads to the API itself wants the key."""

    def __init__(
        self,
        *,
        name: str,
        api_key: str,
        base_url: str,
        capabilities: Capabilities,
        error_from: Callable[[httpx.Response], ProviderError],
        address_label: str = "address",
        key_label: str = "API key",
        scheme: str = "Bearer",
        account: Account | None = None,
        usd_per_second: Decimal | None = None,
        settings: HttpSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._base_url = check_endpoint(base_url, named=f"{name} {address_label}")
        key = check_key(api_key, named=f"{name} {key_label}")
        self.name = name
        self.account = account or Account.from_key(name, self._base_url, key)
        self.capabilities = capabilities
        self._usd_per_second = usd_per_second
        self._authorization = {"Authorization": f"{scheme} {key}"}
        self._clock = ProviderClock()
        self._settings = settings
        self._transport = transport
        self._api = self._open_client(error_from)

    def _open_client(self, error_from: Callable[[httpx.Response], ProviderError]) -> ApiClient:
        return ApiClient(
            provider=self.name,
            base_url=self._base_url,
            headers={**self._authorization, "Accept": "application/json"},
            error_from=error_from,
            settings=self._settings,
            transport=self._transport,
        )

    async def load_capabilities(self) -> None:  # noqa: B027 -- most providers have nothing to read
        """Reads nothing; see `Provider.prepare`."""

    def capabilities_for(self, shot: Shot) -> Capabilities:
        """Returns the same for every model; see `Provider.offered`."""
        return self.capabilities

    def check(self, shot: Shot) -> None:
        """Refuses a shot that cannot be made here; see `Provider.check`."""
        check_supported(shot, self.capabilities_for(shot), by=self.name)

    def estimate(self, shot: Shot) -> Decimal | None:
        """Prices a shot by the account's own price, else by the price table; see `Provider.estimate`."""
        named = shot.model_copy(update={"model": self._model(shot)})
        return listed_usd(self.name, named, usd_per_second=self._usd_per_second)

    def download_source(self, generation: Generation) -> VideoSource:
        """Returns the link, with the key only where it leads to the API and wants it; see `Provider.source`."""
        download_source = link_source(generation)
        if self.sends_key_to_own_links and self._is_ours(download_source.url):
            return VideoSource(url=download_source.url, headers=self._authorization)
        return download_source

    @abstractmethod
    async def retrieve(self, generation_id: str) -> Generation:
        """Reads one generation; see `Provider.retrieve`."""

    async def list(
        self, *, status: Status | None = None, created_after: datetime | None = None
    ) -> AsyncIterator[Generation]:
        """Yields the account's generations, newest first, each once; see `Provider.list`."""
        read_page = partial(self._page, status=status, created_after=created_after)
        async for generation in iterate_generations(read_page, page_size=self._page_size):
            if created_after is not None and generation.created_at and generation.created_at < created_after:
                return
            if status in (None, generation.status):
                yield generation

    async def find_unclaimed(
        self, shot: Shot, *, idempotency_key: str, sent_at: datetime, known: Mapping[str, datetime]
    ) -> Generation | None:
        """Searches the whole list; see `Provider.find_unclaimed`."""
        return await find_unclaimed(self, Search(shot, idempotency_key, sent_at, known))

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._api.aclose()

    async def read_page(self, cursor: Cursor | None) -> ListPage:
        """Reads a page of all generations; see `Searchable`."""
        return await self._page(cursor)

    async def confirm(self, listed: Generation) -> Generation:
        """Returns what was listed, where lists leave nothing out; see `Searchable`."""
        return listed

    def compare(self, generation: Generation, shot: Shot) -> Match:
        """Compares the words; see `Searchable`."""
        return min(match_prompt(shot.prompt, generation.prompt), Match.POSSIBLE)

    def unwrap_id(self, generation_id: str) -> str:
        """Returns the id as it is, where ids have one spelling; see `Searchable`."""
        return generation_id

    def read_clock(self, created: Mapping[str, datetime], recorded: Mapping[str, datetime]) -> ClockReading:
        """Combines what answers, their dates and the ledger show; see `Searchable`."""
        now = datetime.now(UTC)
        return self._clock.read(self._api.to_server_time(now) - now, created, recorded)

    def describe_doubt(self, generation: Generation, shot: Shot) -> str:
        """Names the generation; see `Searchable`."""
        return f"{self.name} has generation {generation.id}, which may or may not be the one of shot {shot.id!r}"

    async def _page(
        self, cursor: Cursor | None, *, status: Status | None = None, created_after: datetime | None = None
    ) -> ListPage:
        """Reads a page of those generations, or of more, newest first."""
        raise RequestRejected(f"{self.name} does not list its generations", provider=self.name)

    @property
    def _page_size(self) -> int:
        """How many items a page is asked for."""
        return PAGE_SIZE

    async def _request_cancel(self, method: str, path: str) -> bool:
        """Request a cancellation; return whether it was taken, and not refused because the work is over.

        Raises:
            NotFound: The provider does not know the generation.
            ProviderUnavailable: No answer.
        """
        try:
            await self._api.send(method, path)
        except NotFound:
            raise
        except RequestRejected:
            return False
        return True

    def _accepted(self, generation: Generation) -> Generation:
        """Note what the answer to a submit shows of the provider's clock."""
        self._clock.observe(generation.created_at)
        return generation

    def _model(self, shot: Shot) -> str:
        """Return this provider's name of a shot's model."""
        return shot.model

    def _is_ours(self, url: str) -> bool:
        try:
            return origin(url) == origin(self._base_url)
        except UnsafeUrl:
            return False
