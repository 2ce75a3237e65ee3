"""The accounts that the service serves: their sessions, by every name that a webhook's address may use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prefect_video.errors import InvalidInput, ProviderUnavailable
from prefect_video.generations import WebhookEvent
from prefect_video.service.settings import ServiceSettings
from prefect_video.session import Session, SessionRef, open_session


@dataclass(frozen=True)
class Sessions:
    """Open sessions, one for each account."""

    sessions: tuple[Session, ...]

    @property
    def ids(self) -> frozenset[str]:
        """The accounts' ids."""
        return frozenset(session.provider.account.id for session in self.sessions)

    def by_id(self, account: str) -> Session | None:
        """The session of an account."""
        return next((session for session in self.sessions if session.provider.account.id == account), None)

    def by_name(self, name: str) -> tuple[Session, ...]:
        """The sessions that a provider's name, an account's id or a block's name stands for."""
        return tuple(
            session
            for session in self.sessions
            if name in (session.provider.name, session.provider.account.id, session.credentials)
        )


async def sessions_that_signed(
    sessions: Sequence[Session], headers: Mapping[str, str], body: bytes
) -> list[tuple[Session, WebhookEvent]]:
    """Whose secret signed a delivery, and what it says; nobody's, or when it is too old: none.

    Several accounts of one provider may share a secret, or the keys that the provider publishes.

    Raises:
        ProviderUnavailable: The keys that it is checked with cannot be fetched now.
    """
    genuine: list[tuple[Session, WebhookEvent]] = []
    unsure: ProviderUnavailable | None = None
    for session in sessions:
        provider = session.provider
        try:
            if provider.capabilities.fetches_webhook_keys:
                told = await asyncio.to_thread(provider.parse_webhook, headers, body)
            else:
                told = provider.parse_webhook(headers, body)
            genuine.append((session, told))
        except InvalidInput:
            continue
        except ProviderUnavailable as error:
            unsure = error
    if unsure is not None and not genuine:
        raise unsure
    return genuine


@asynccontextmanager
async def open_sessions(settings: ServiceSettings) -> AsyncIterator[Sessions]:
    """The accounts of the settings, for as long as the context lasts.

    Raises:
        InvalidInput: An account, the store or the ledger is not known.
        LedgerError: The ledger cannot be used.
    """
    async with AsyncExitStack() as stack:
        sessions: list[Session] = []
        for name in settings.accounts or (None,):
            ref = SessionRef.from_names(name, settings.store, settings.ledger)
            if ref.uses_blocks:
                # Prefect takes seconds to import and is not needed without blocks.
                from prefect_video.tasks import use_session

                sessions.append(await stack.enter_async_context(use_session(ref)))
            else:
                sessions.append(await stack.enter_async_context(await open_session(ref)))
        yield Sessions(tuple(sessions))
