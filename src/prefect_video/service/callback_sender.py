"""Sender of callbacks: signed calls to clients when a job or a project has ended, repeated until they are answered."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
from standardwebhooks import Webhook

from prefect_video.downloads import DownloadSettings, check_url, open_download_client
from prefect_video.errors import DownloadError, LedgerError
from prefect_video.ledger import Callback, Ledger
from prefect_video.service.api_tokens import ApiTokens
from prefect_video.service.jobs import JobChanges, build_policy
from prefect_video.service.metrics import Metrics

logger = logging.getLogger(__name__)

Describe = Callable[[Callback], Awaitable[tuple[str, dict[str, Any]] | None]]
"""Returns the type and the data of a call, None where its subject is gone."""

_ATTEMPTS: Final = 10
_GROWTH: Final = 4.0
_LONGEST: Final = timedelta(hours=6)
_LOOK_SECONDS: Final = 2.0
_REST_SECONDS: Final = 0.25
"""Time between two looks while many jobs change."""
_AT_ONCE: Final = 8
_TIMEOUT_SECONDS: Final = 10.0
_GONE: Final = 410


class CallbackSender:
    """The sender of one service. Calls are kept in the ledger, so that a restart loses none.

    Args:
        ledger: Keeps the calls.
        environment: The environment whose calls are made here.
        tokens: Their secrets sign the calls.
        describe: Describes what has ended.
        changes: Says when a read is worth it.
        metrics: Counts the calls by outcome.
        hosts: Hosts that may be called although they are not public.
        retry_seconds: Delay before the second attempt; each further one is four times as long.
    """

    def __init__(
        self,
        ledger: Ledger,
        environment: str,
        tokens: ApiTokens,
        describe: Describe,
        changes: JobChanges,
        metrics: Metrics,
        *,
        hosts: frozenset[str],
        retry_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._environment = environment
        self._tokens = tokens
        self._describe = describe
        self._changes = changes
        self._metrics = metrics
        self._hosts = hosts
        self._retry = timedelta(seconds=retry_seconds)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._client = open_download_client(
            DownloadSettings(read_timeout_seconds=_TIMEOUT_SECONDS, connect_timeout_seconds=_TIMEOUT_SECONDS)
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to look for calls that are due."""
        self._task = asyncio.create_task(self._run(), name="send callbacks")

    async def aclose(self) -> None:
        """Stop; what is not answered is called again by the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    async def _run(self) -> None:
        while True:
            mark = self._changes.mark()
            try:
                due = await self._ledger.callbacks.due(self._environment)
                await asyncio.gather(*(self._attempt(callback) for callback in due))
            except LedgerError as error:
                logger.warning("callbacks are not sent now: %s", error)
                due = []
            if not due:
                await self._changes.wait(mark, min(_LOOK_SECONDS, self._retry.total_seconds()))
            await asyncio.sleep(_REST_SECONDS)

    async def _attempt(self, callback: Callback) -> None:
        """Make one attempt, unless another process does."""
        async with self._slots:
            delay = min(self._retry * _GROWTH**callback.attempts, _LONGEST)
            if not await self._ledger.callbacks.claim(callback, datetime.now(UTC) + delay):
                return
            error, final = await self._call(callback)
            final = final or callback.attempts + 1 >= _ATTEMPTS
            if error is not None and not final:
                self._metrics.callbacks.labels("retried").inc()
                await self._ledger.callbacks.record_error(callback.id, error)
                return
            if error is not None:
                logger.warning("callback %s of token %s is given up: %s", callback.id, callback.requester, error)
            self._metrics.callbacks.labels("delivered" if error is None else "given_up").inc()
            await self._ledger.callbacks.end(callback.id, error)

    async def _call(self, callback: Callback) -> tuple[str | None, bool]:
        """Call; return why it failed, None where it was answered, and whether to give up."""
        token = self._tokens.find(callback.requester)
        described = await self._describe(callback)
        if token is None or token.secret is None or described is None:
            return f"token {callback.requester!r} and its secret, or the subject, are no more", True
        now = datetime.now(UTC)
        kind, data = described
        body = json.dumps({"type": kind, "timestamp": now.isoformat(), "data": data}, ensure_ascii=False)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "prefect-video",
            "webhook-id": callback.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(token.secret.get_secret_value()).sign(callback.id, now, body),
        }
        try:
            status = await self._post(callback.url, headers, body.encode())
        except DownloadError as error:
            return str(error), False
        except httpx.HTTPError as error:
            return f"no answer: {type(error).__name__}", False
        return (None if 200 <= status < 300 else f"answered HTTP {status}"), status == _GONE

    async def _post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """Post to a checked address and return the status; the answer's body is not read, redirects are not followed.

        Raises:
            DownloadError: The address may not be called, or does not resolve now.
            httpx.HTTPError: There was no answer.
        """
        # Checked at each attempt: a name may be pointed elsewhere between two of them.
        link = await check_url(url, build_policy(url, self._hosts), trust_env=self._client.trust_env)
        request = self._client.build_request(
            "POST",
            link.connect_url,
            content=body,
            headers={**headers, "Host": link.host_header, "Connection": "close"},
            extensions={"sni_hostname": link.host},
        )
        response = await self._client.send(request, stream=True)
        await response.aclose()
        self._client.cookies.clear()
        return response.status_code
