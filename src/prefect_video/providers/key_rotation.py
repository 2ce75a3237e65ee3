"""Rotation of keys: an account whose key is being replaced, and requests about what was sent with the former one."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol, runtime_checkable

from prefect_video.downloads import VideoSource
from prefect_video.errors import AuthenticationFailed, InvalidInput, NotFound
from prefect_video.generations import Generation, RecordedGeneration, Status, WebhookEvent
from prefect_video.providers.base import Account, Capabilities, Provider
from prefect_video.shots import Shot

logger = logging.getLogger(__name__)


@runtime_checkable
class HasKeys(Protocol):
    """Provider that can be asked to use one of several keys."""

    def with_key(self, key_fingerprint: str | None) -> Provider | None:
        """Return the provider that uses this very key; None where it is not at hand."""


def with_key(provider: Provider, key_fingerprint: str | None) -> Provider | None:
    """Return a provider that uses this very key; None where it is not at hand."""
    if isinstance(provider, HasKeys):
        return provider.with_key(key_fingerprint)
    return provider if provider.account.key_fingerprint == key_fingerprint else None


def with_previous_key(current: Provider, previous: Provider | None, *, name: str | None = None) -> Provider:
    """Give an opened provider's account its name, and the key that is being replaced.

    Args:
        current: The provider with the key in use.
        previous: The same provider with the key that it replaces; None without one.
        name: Name of the account; None for one that is known by its key.

    Raises:
        InvalidInput: The name is not usable.
    """
    current.account = current.account.named(name)
    if previous is None or previous.account.key_fingerprint == current.account.key_fingerprint:
        return current
    return RotatedProvider(current, previous)


class RotatedProvider:
    """A provider with two keys of one account: the one in use, and the one that it replaces.

    Everything is sent with the key in use. A request about one generation is repeated with the previous key where the
    one in use is refused or does not know the generation; a list, where the key in use is refused.

    Args:
        current: The provider with the key in use.
        previous: The same provider with the key that it replaces.

    Raises:
        InvalidInput: They are not at one address.
    """

    def __init__(self, current: Provider, previous: Provider) -> None:
        if previous.account.base_url != current.account.base_url:
            raise InvalidInput(f"{current.name}: the previous API key is one for {previous.account.base_url}")
        self._current, self._previous = current, previous
        self.name = current.name
        self.account: Account = replace(current.account, previous_key_fingerprint=previous.account.key_fingerprint)
        previous.account = replace(current.account, key_fingerprint=previous.account.key_fingerprint)
        # Ids of generations that the previous key alone knows: their links may need it.
        self._known_to_previous: set[str] = set()

    @property
    def capabilities(self) -> Capabilities:
        """Capabilities of the account."""
        return self._current.capabilities

    @capabilities.setter
    def capabilities(self, capabilities: Capabilities) -> None:
        self._current.capabilities = capabilities

    @property
    def clock_offset(self) -> timedelta | None:
        """Offset of the provider's clock from this machine's, where it is known."""
        return getattr(self._current, "clock_offset", None)

    def with_key(self, key_fingerprint: str | None) -> Provider | None:
        """Return the provider that uses this very key; None where it is neither of the two."""
        found = (with_key(provider, key_fingerprint) for provider in (self._current, self._previous))
        return next((provider for provider in found if provider is not None), None)

    async def load_capabilities(self) -> None:
        """Read models and prices."""
        await self._current.load_capabilities()

    async def check_access(self) -> None:
        """Check the key in use: what is bought is bought with it."""
        await self._current.check_access()

    def capabilities_for(self, shot: Shot) -> Capabilities:
        """Return the capabilities of the shot's model."""
        return self._current.capabilities_for(shot)

    def check(self, shot: Shot) -> None:
        """Reject a shot that cannot be made here."""
        self._current.check(shot)

    def estimate(self, shot: Shot) -> Decimal | None:
        """Estimate the cost of one generation of the shot."""
        return self._current.estimate(shot)

    async def submit(
        self, shot: Shot, *, idempotency_key: str, project: str, webhook_url: str | None = None
    ) -> Generation:
        """Send the shot once, with the key in use and no other."""
        return await self._current.submit(
            shot, idempotency_key=idempotency_key, project=project, webhook_url=webhook_url
        )

    def download_source(self, generation: Generation) -> VideoSource:
        """Return the video's address, with headers of the key that knows it."""
        knows = self._previous if generation.id in self._known_to_previous else self._current
        return knows.download_source(generation)

    async def retrieve(self, generation_id: str) -> Generation:
        """Read one generation with the key that knows it."""
        return await self._request(generation_id, lambda provider: provider.retrieve(generation_id))

    async def cancel(self, generation_id: str) -> Generation:
        """Cancel one generation with the key that knows it."""
        return await self._request(generation_id, lambda provider: provider.cancel(generation_id))

    async def list(
        self, *, status: Status | None = None, created_after: datetime | None = None
    ) -> AsyncIterator[Generation]:
        """Yield the generations that the key in use shows; those of the previous one where that is refused."""
        try:
            async for generation in self._current.list(status=status, created_after=created_after):
                yield generation
        except AuthenticationFailed as error:
            logger.warning(
                "%s: the key in use is refused, its list is read with the previous one: %s", self.name, error
            )
        else:
            return
        async for generation in self._previous.list(status=status, created_after=created_after):
            yield generation

    async def find_unclaimed(
        self, shot: Shot, *, idempotency_key: str, sent_at: datetime, known: Mapping[str, RecordedGeneration]
    ) -> Generation | None:
        """Search with the key in use; `with_key` searches with the one that has sent the shot."""
        return await self._current.find_unclaimed(shot, idempotency_key=idempotency_key, sent_at=sent_at, known=known)

    def qualify_id(self, generation_id: str, shot: Shot) -> str:
        """Return the id as the API takes it."""
        return self._current.qualify_id(generation_id, shot)

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verify a delivery and read it."""
        return self._current.parse_webhook(headers, body)

    async def aclose(self) -> None:
        """Close the connections of both keys."""
        try:
            await self._current.aclose()
        finally:
            await self._previous.aclose()

    async def _request(self, generation_id: str, send: Callable[[Provider], Awaitable[Generation]]) -> Generation:
        """Send a request about a generation with the key in use, then with the previous one.

        Raises:
            AuthenticationFailed: The key in use is refused, and the previous one is too or does not know it.
            NotFound: The key in use does not know it, and the previous one does not either or is refused.
        """
        try:
            generation = await send(self._current)
        except (AuthenticationFailed, NotFound) as error:
            try:
                generation = await send(self._previous)
            except (AuthenticationFailed, NotFound):
                raise error from None
            self._known_to_previous.add(generation_id)
        else:
            self._known_to_previous.discard(generation_id)
        return generation
