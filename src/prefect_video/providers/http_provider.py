"""Base of providers over HTTP: connection, list, search of the list, and rules for what goes into a path."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import ClassVar, Final

import httpx

from prefect_video.downloads import VideoSource, origin
from prefect_video.errors import NotFound, ProviderError, RequestRejected, UnsafeUrl
from prefect_video.generations import Generation, RecordedGeneration, Status
from prefect_video.providers.base import Account, Capabilities, link_source
from prefect_video.providers.capabilities import check_supported
from prefect_video.providers.clocks import ClockReading, ProviderClock
from prefect_video.providers.http import ApiClient, HttpSettings, check_endpoint, check_key
from prefect_video.providers.matching import Match, match_prompt
from prefect_video.providers.pages import Cursor, ListPage, iterate_generations
from prefect_video.providers.pricing import listed_usd
from prefect_video.providers.search import Search, find_unclaimed
from prefect_video.shots import Shot

PAGE_SIZE: Final = 100


class HttpProvider(ABC):
    """Base class of providers that are reached over HTTP with a key (template method pattern).

    A dialect adds `submit`, `retrieve`, `cancel` and `parse_webhook`; where it lists generations, `_page` and
    `compare` as well. Without a list, an unanswered submit is held for a human. Methods of `Provider` are documented
    there, those of `Searchable` in `search`.

    Args:
        name: Name of the provider.
        api_key: Sent in the `Authorization` header to `base_url` and nowhere else.
        base_url: Address of the API.
        capabilities: Its capabilities, before those of a shot's model are known.
        error_from: Builds the error of an unsuccessful response, by the dialect's table.
        address_label: Name of the address in messages, such as `endpoint`.
        key_label: Name of the key in messages.
        scheme: Authorization scheme, which precedes the key in the header.
        account: Account of the jobs, where provider, address and key do not identify it.
        usd_per_second: Price of a second for this account; None for the price table.
        settings: Timeouts and repeats.
        transport: For tests at the transport boundary.

    Raises:
        InvalidInput: The key or the address is not usable.
    """

    sends_key_to_own_links: ClassVar[bool] = False
    """True where a video's link that leads to the API itself needs the key."""

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
        """Open a client with this provider's key and settings and a table of errors."""
        return ApiClient(
            provider=self.name,
            base_url=self._base_url,
            headers={**self._authorization, "Accept": "application/json"},
            error_from=error_from,
            settings=self._settings,
            transport=self._transport,
        )

    async def load_capabilities(self) -> None:  # noqa: B027 -- most providers have nothing to read
        """Read nothing."""

    def capabilities_for(self, shot: Shot) -> Capabilities:
        """Return the provider's capabilities, which are the same for every model."""
        return self.capabilities

    def check(self, shot: Shot) -> None:
        """Reject a shot that the model's capabilities do not cover."""
        check_supported(shot, self.capabilities_for(shot), by=self.name)

    def estimate(self, shot: Shot) -> Decimal | None:
        """Estimate by the account's own price, else by the price table."""
        named = shot.model_copy(update={"model": self._model(shot)})
        return listed_usd(self.name, named, usd_per_second=self._usd_per_second)

    def download_source(self, generation: Generation) -> VideoSource:
        """Return the link, with the key only where the link leads to the API and needs it."""
        source = link_source(generation)
        if self.sends_key_to_own_links and self._is_own_url(source.url):
            return VideoSource(url=source.url, headers=self._authorization)
        return source

    @abstractmethod
    async def retrieve(self, generation_id: str) -> Generation:
        """Read one generation."""

    async def list(
        self, *, status: Status | None = None, created_after: datetime | None = None
    ) -> AsyncIterator[Generation]:
        """Yield the account's generations, newest first, each once."""
        read_page = partial(self._page, status=status, created_after=created_after)
        async for generation in iterate_generations(read_page, page_size=self._page_size):
            if created_after is not None and generation.created_at and generation.created_at < created_after:
                return
            if status in (None, generation.status):
                yield generation

    async def find_unclaimed(
        self, shot: Shot, *, idempotency_key: str, sent_at: datetime, known: Mapping[str, RecordedGeneration]
    ) -> Generation | None:
        """Search the whole list."""
        return await find_unclaimed(self, Search(shot, idempotency_key, sent_at, known))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._api.aclose()

    async def read_page(self, cursor: Cursor | None) -> ListPage:
        """Read a page of all generations."""
        return await self._page(cursor)

    async def confirm(self, listed: Generation) -> Generation:
        """Return the listed generation, as lists leave nothing out."""
        return listed

    def compare(self, generation: Generation, shot: Shot) -> Match:
        """Compare the prompts, which alone prove nothing."""
        return min(match_prompt(shot.prompt, generation.prompt), Match.POSSIBLE)

    def qualify_id(self, generation_id: str, shot: Shot) -> str:
        """Return the id unchanged, as the console shows what the API takes."""
        return generation_id

    def unwrap_id(self, generation_id: str) -> str:
        """Return the id unchanged, as ids have one spelling."""
        return generation_id

    @property
    def clock_offset(self) -> timedelta | None:
        """Return the offset of the provider's clock from this machine's, as its last response shows it."""
        return self._api.clock_offset

    def read_clock(self, created: Mapping[str, datetime], recorded: Mapping[str, datetime]) -> ClockReading:
        """Combine the times in responses, their dates and the ledger's records."""
        now = datetime.now(UTC)
        return self._clock.read(self._api.to_server_time(now) - now, created, recorded)

    def describe_doubt(self, generation: Generation, shot: Shot) -> str:
        """Return a message that names the generation and the shot."""
        return f"{self.name} has generation {generation.id}, which may or may not be the one of shot {shot.id!r}"

    async def _page(
        self, cursor: Cursor | None, *, status: Status | None = None, created_after: datetime | None = None
    ) -> ListPage:
        """Read a page of the generations with that status and age, or of more, newest first."""
        raise RequestRejected(f"{self.name} does not list its generations", provider=self.name)

    @property
    def _page_size(self) -> int:
        """Number of items that are requested for a page."""
        return PAGE_SIZE

    async def _request_cancel(self, method: str, path: str) -> bool:
        """Request a cancellation; return whether the provider took it: else the generation is over, or too far on.

        Raises:
            NotFound: The provider does not know the generation.
            ProviderUnavailable: No answer.
        """
        try:
            await self._api.send(method, path)
        except NotFound:
            # A rejection too, but no statement about the work.
            raise
        except RequestRejected:
            return False
        return True

    def _observe_clock(self, generation: Generation) -> Generation:
        """Learn the provider's clock from the response to a submit, and return its generation."""
        self._clock.observe(generation.created_at)
        return generation

    def _model(self, shot: Shot) -> str:
        """Return this provider's name of a shot's model."""
        return shot.model

    def _is_own_url(self, url: str) -> bool:
        try:
            return origin(url) == origin(self._base_url)
        except UnsafeUrl:
            return False
