"""Watch over the saved blocks that accounts are opened with: a new key or secret counts without a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

from prefect_video.errors import InvalidInput
from prefect_video.session import Session, load_capabilities

logger = logging.getLogger(__name__)


class CredentialsWatch:
    """Reader of the blocks of credentials, which replaces the providers of sessions whose block has changed.

    Args:
        names: Accounts of the service; those that are no blocks are not watched.
        interval_seconds: Seconds between two reads.
    """

    def __init__(self, names: Sequence[str], interval_seconds: float) -> None:
        self._names = [name for name in names if "/" in name]
        self._interval_seconds = interval_seconds
        self._noted: dict[str, Mapping[str, Any]] = {}

    @classmethod
    async def begin(cls, names: Sequence[str], interval_seconds: float) -> Self:
        """Read the blocks before they are used: what is changed after that is noticed.

        Raises:
            InvalidInput: There is no such block.
        """
        watch = cls(names, interval_seconds)
        for name in watch._names:
            block = await _load(name)
            if block is not None:
                watch._noted[name] = block.model_dump()
        return watch

    def noted(self, name: str) -> Mapping[str, Any]:
        """Return the content of a block as it was read last."""
        return self._noted[name]

    async def run(self, sessions: Sequence[Session]) -> None:
        """Read the blocks again and again, until cancelled."""
        watched = [session for session in sessions if session.credentials in self._noted]
        while watched:
            await asyncio.sleep(self._interval_seconds)
            for session in watched:
                try:
                    await self.refresh(session)
                except Exception as error:  # noqa: BLE001 -- Prefect's server may be away: the next read tries again
                    logger.warning("%s: its former content still counts: %s", session.credentials, error)

    async def refresh(self, session: Session) -> bool:
        """Read the block of a session, and use its key and secrets where it has changed; return whether it has.

        Raises:
            InvalidInput: The block is gone, cannot be used, or is now another account's.
        """
        block = await _load(session.credentials)
        content = {} if block is None else block.model_dump()
        if block is None or content == self._noted[session.credentials]:
            return False
        # Once, whatever comes of it: a block that cannot be used is reported once.
        self._noted[session.credentials] = content
        provider = await load_capabilities(block.open())
        try:
            session.replace_provider(provider)
        except InvalidInput as error:
            await provider.aclose()
            raise InvalidInput(f"{error}: restart the service to use it") from None
        logger.info("%s has changed: key %s is in use", session.credentials, provider.account.key_fingerprint)
        return True


async def _load(name: str) -> Any:
    # Prefect takes seconds to import and is not needed without blocks.
    from prefect_video.tasks import load_credentials

    return await load_credentials(name)
