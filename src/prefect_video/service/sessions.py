"""The sessions of the service: one per account, found by every name that a webhook's address may use."""

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
    """The open sessions, one per account; the first is the default.

    Attributes:
        sessions: The sessions, in the order of the settings.
    """

    sessions: tuple[Session, ...]

    @property
    def ids(self) -> frozenset[str]:
        """The ids of the accounts."""
        return frozenset(session.provider.account.id for session in self.sessions)

    def by_id(self, account: str) -> Session | None:
        """Return the session of an account, None if it is not served here."""
        return next((session for session in self.sessions if session.provider.account.id == account), None)

    def by_name(self, name: str) -> tuple[Session, ...]:
        """Return the sessions that match a provider's name, an account's id or a block's name."""
        return tuple(
            session
            for session in self.sessions
            if name in (session.provider.name, session.provider.account.id, session.credentials)
        )


async def sessions_that_signed(
    sessions: Sequence[Session], headers: Mapping[str, str], body: bytes
) -> list[tuple[Session, WebhookEvent]]:
    """Return the sessions whose secret signed a delivery, each with its event; one at least.

    Several accounts of one provider may share a secret, or the keys that the provider publishes.

    Raises:
        InvalidInput: No secret fits, or the delivery is too old or unreadable; the message says which.
        ProviderUnavailable: No secret fits so far, and the keys of a provider cannot be fetched now.
    """
    verified: list[tuple[Session, WebhookEvent]] = []
    unavailable: ProviderUnavailable | None = None
    reasons: dict[str, None] = {}
    for session in sessions:
        provider = session.provider
        try:
            if provider.capabilities.fetches_webhook_keys:
                # It may send a request for the keys, which must not block the event loop.
                event = await asyncio.to_thread(provider.parse_webhook, headers, body)
            else:
                event = provider.parse_webhook(headers, body)
            verified.append((session, event))
        except InvalidInput as error:
            reasons[f"{provider.name}: {error}"] = None
        except ProviderUnavailable as error:
            unavailable = error
    if verified:
        return verified
    raise unavailable or InvalidInput("; ".join(reasons))


@asynccontextmanager
async def open_sessions(settings: ServiceSettings, *, announces: bool = False) -> AsyncIterator[Sessions]:
    """Open the sessions of the settings' accounts for as long as the context lasts.

    Args:
        settings: The settings.
        announces: Emit Prefect's events about budgets, volumes, breakers and keys, as flows do.

    Raises:
        InvalidInput: An account, the store or the ledger is not known.
        LedgerError: The ledger cannot be used.
    """
    async with AsyncExitStack() as stack:
        sessions: list[Session] = []
        for name in settings.accounts or (None,):
            ref = SessionRef.from_names(name, settings.store, settings.ledger)
            sessions.append(await stack.enter_async_context(open_ref(ref, announces=announces)))
        yield Sessions(tuple(sessions))


@asynccontextmanager
async def open_ref(ref: SessionRef, *, announces: bool = False) -> AsyncIterator[Session]:
    """Open the session of a reference for as long as the context lasts.

    Args:
        ref: The names.
        announces: Emit Prefect's events; those of a session with blocks are emitted in any case.

    Raises:
        InvalidInput: An account, the store or the ledger is not known.
        LedgerError: The ledger cannot be used.
    """
    if not ref.uses_blocks and not announces:
        async with await open_session(ref) as session:
            yield session
        return
    # Prefect takes seconds to import and is not needed without blocks and events.
    from prefect_video.tasks import use_session

    async with use_session(ref) as session:
        yield session
