"""Delivery of webhooks: signed by the dialect, retried with exponential backoff, and broken on demand."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import httpx

from prefect_video._tls import trusted_certificates
from prefect_video.emulator.engine import Engine
from prefect_video.emulator.faults import FaultRule
from prefect_video.emulator.faults.injection import pause
from prefect_video.emulator.generation import EmulatedGeneration, EmulatedStatus

logger = logging.getLogger("prefect_video.emulator")

TIMEOUT_SECONDS = 10.0

MAX_CONCURRENT = 20
"""Webhooks posted at once; a thousand generations that end together must not open a thousand connections."""

_LAST_CODE = re.compile(r"(.*?)([^,=]+=*)")
_FLIPPED = str.maketrans("0123456789abcdef", "fedcba9876543210")


@dataclass(frozen=True)
class Delivery:
    """Signed webhook, ready to post.

    Attributes:
        body: Raw body.
        signature_header: Name of the header that carries the signature.
        signature: Value of that header.
        headers: Further headers.
    """

    body: bytes
    signature_header: str
    signature: str
    headers: Mapping[str, str] = field(default_factory=dict)


class WebhookFormatter(Protocol):
    """Formatter of a dialect's webhooks."""

    def build_delivery(
        self, generation: EmulatedGeneration, status: EmulatedStatus, event_id: str, timestamp: float
    ) -> Delivery | None:
        """Build the signed webhook for a status; None where the dialect sends none for it."""


class WebhookSender:
    """Sender that posts every new status of a generation to its `webhook_url`, in its dialect's format.

    Undelivered webhooks do not survive a restart, as with real providers: a client must work without them.
    """

    def __init__(self, engine: Engine, formatters: Mapping[str, WebhookFormatter]) -> None:
        self._engine = engine
        self._formatters = formatters
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._deliveries: set[asyncio.Task[None]] = set()
        self._client: httpx.AsyncClient | None = None
        engine.listeners.append(self.send)

    def send(self, generation: EmulatedGeneration, status: EmulatedStatus) -> None:
        """Start the delivery of a new status, if the request named a `webhook_url`."""
        if generation.request.webhook_url is None:
            return
        task = asyncio.create_task(self._deliver(generation, status, generation.request.webhook_url))
        # The event loop keeps weak references only; without this one a delivery could be collected half done.
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    async def close(self) -> None:
        """Cancel every delivery in progress and close the client."""
        for task in self._deliveries:
            task.cancel()
        await asyncio.gather(*self._deliveries, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _deliver(self, generation: EmulatedGeneration, status: EmulatedStatus, url: str) -> None:
        formatter, event_id, now = self._formatters[generation.dialect], _new_event_id(), time.time()
        delivery = formatter.build_delivery(generation, status, event_id, now)
        if delivery is None:
            return
        rule = self._engine.faults.match("webhook", prompt=generation.request.prompt, generation_id=generation.id)
        kind = rule.kind if rule is not None else None
        if kind == "drop":
            return
        if rule is not None and kind == "late":
            delivery = formatter.build_delivery(generation, status, event_id, now - rule.backdate_seconds) or delivery
            await pause(rule.wait_seconds, self._engine.closing)
        if kind == "forged":
            false = formatter.build_delivery(generation, "completed", _new_event_id(), now)
            await self._send(url, _forge(false or delivery))
        for _ in range(_count_copies(rule)):
            await self._send(url, delivery)

    async def _send(self, url: str, delivery: Delivery) -> None:
        """Post until the receiver answers 2xx or the attempts are exhausted."""
        settings = self._engine.settings
        wait = settings.webhook_retry_seconds
        for attempt in range(1, settings.webhook_attempts + 1):
            if await self._post(url, delivery):
                return
            if attempt < settings.webhook_attempts:
                await pause(wait, self._engine.closing)
                wait *= 2
        logger.warning("Webhook to %s abandoned after %d attempts", url, settings.webhook_attempts)

    async def _post(self, url: str, delivery: Delivery) -> bool:
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=TIMEOUT_SECONDS, trust_env=False, verify=trusted_certificates(trust_env=False)
            )
        headers = {
            "Content-Type": "application/json",
            **delivery.headers,
            delivery.signature_header: delivery.signature,
        }
        async with self._slots:
            # Counted before it leaves: an attempt must be in the usage even if the process is killed while it waits.
            self._engine.usage.count("webhooks_sent")
            await self._engine.commit()
            try:
                response = await self._client.post(url, content=delivery.body, headers=headers)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                logger.info("Webhook to %s not delivered: %r", url, error)
                return False
        return response.is_success


def _new_event_id() -> str:
    return f"evt_{uuid.uuid4().hex[:24]}"


def _count_copies(rule: FaultRule | None) -> int:
    return rule.copies if rule is not None and rule.kind == "duplicate" else 1


def _forge(delivery: Delivery) -> Delivery:
    """Return the same delivery under a signature that does not match its body."""
    # A signature header ends in the hex or base64 code; only that part is altered, so that the header still parses.
    prefix, code = _LAST_CODE.fullmatch(delivery.signature).groups()  # type: ignore[union-attr]
    return replace(delivery, signature=prefix + code.translate(_FLIPPED))
