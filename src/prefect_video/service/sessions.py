"""The accounts that the service serves: their studios, by every name that a webhook's address may use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prefect_video.errors import InvalidInput, ProviderUnavailable
from prefect_video.generations import WebhookEvent
from prefect_video.service.settings import ServiceSettings
from prefect_video.session.refs import StudioRef, open_session
from prefect_video.session.session import Studio


@dataclass(frozen=True)
class Accounts:
    """Open studios, one for each account."""

    studios: tuple[Studio, ...]

    @property
    def ids(self) -> frozenset[str]:
        """The accounts' ids."""
        return frozenset(studio.provider.account.id for studio in self.studios)

    def by_id(self, account: str) -> Studio | None:
        """The studio of an account."""
        return next((studio for studio in self.studios if studio.provider.account.id == account), None)

    def named(self, name: str) -> tuple[Studio, ...]:
        """The studios that a provider's name, an account's id or a block's name stands for."""
        return tuple(
            studio
            for studio in self.studios
            if name in (studio.provider.name, studio.provider.account.id, studio.credentials)
        )


async def verified(
    studios: Sequence[Studio], headers: Mapping[str, str], body: bytes
) -> list[tuple[Studio, WebhookEvent]]:
    """Whose secret signed a delivery, and what it says; nobody's, or when it is too old: none.

    Several accounts of one provider may share a secret, or the keys that the provider publishes.

    Raises:
        ProviderUnavailable: The keys that it is checked with cannot be fetched now.
    """
    genuine: list[tuple[Studio, WebhookEvent]] = []
    unsure: ProviderUnavailable | None = None
    for studio in studios:
        provider = studio.provider
        try:
            if provider.capabilities.fetches_webhook_keys:
                told = await asyncio.to_thread(provider.parse_webhook, headers, body)
            else:
                told = provider.parse_webhook(headers, body)
            genuine.append((studio, told))
        except InvalidInput:
            continue
        except ProviderUnavailable as error:
            unsure = error
    if unsure is not None and not genuine:
        raise unsure
    return genuine


@asynccontextmanager
async def open_accounts(settings: ServiceSettings) -> AsyncIterator[Accounts]:
    """The accounts of the settings, for as long as the context lasts.

    Raises:
        InvalidInput: An account, the store or the ledger is not known.
        LedgerError: The ledger cannot be used.
    """
    async with AsyncExitStack() as stack:
        studios: list[Studio] = []
        for name in settings.accounts or (None,):
            ref = StudioRef.of(name, settings.store, settings.ledger)
            if ref.names_blocks:
                # Prefect takes seconds to import and is not needed without blocks.
                from prefect_video.tasks.sessions import open_studio

                studios.append(await stack.enter_async_context(open_studio(ref)))
            else:
                studios.append(await stack.enter_async_context(await open_session(ref)))
        yield Accounts(tuple(studios))
