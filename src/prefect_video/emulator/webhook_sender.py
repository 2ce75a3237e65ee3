"""Delivers webhooks: signed by the dialect, tried again with growing waits, and broken on demand."""

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
from prefect_video.emulator.faults.injection import pause
from prefect_video.emulator.faults.rules import FaultRule
from prefect_video.emulator.generation import Generation, Status

logger = logging.getLogger("prefect_video.emulator")

TIMEOUT_SECONDS = 10.0
MAX_CONCURRENT = 20

_LAST_CODE = re.compile(r"(.*?)([^,=]+=*)")
_FLIPPED = str.maketrans("0123456789abcdef", "fedcba9876543210")


@dataclass(frozen=True)
class Delivery:
    """What is posted: the raw body, its signature under the name of the header that carries it, and more headers."""

    body: bytes
    signature_header: str
    signature: str
    headers: Mapping[str, str] = field(default_factory=dict)


class WebhookFormatter(Protocol):
    """Words a webhook in a dialect."""

    def delivery(self, generation: Generation, status: Status, event_id: str, timestamp: float) -> Delivery | None:
        """The signed webhook that tells of a status; None where the dialect keeps it to itself."""


class WebhookSender:
    """Tells each generation's ``webhook_url`` of every status, in the words of its dialect.

    Undelivered webhooks do not survive a restart, as with real providers: a client must be able to do without.
    """

    def __init__(self, engine: Engine, speakers: Mapping[str, WebhookFormatter]) -> None:
        self._engine = engine
        self._speakers = speakers
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._errands: set[asyncio.Task[None]] = set()
        self._client: httpx.AsyncClient | None = None
        engine.listeners.append(self.send)

    def send(self, generation: Generation, status: Status) -> None:
        """Send word of a new status, if the client wants to hear."""
        if generation.request.webhook_url is None:
            return
        errand = asyncio.create_task(self._deliver(generation, status, generation.request.webhook_url))
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)

    async def close(self) -> None:
        """Give up what is not delivered."""
        for errand in self._errands:
            errand.cancel()
        await asyncio.gather(*self._errands, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _deliver(self, generation: Generation, status: Status, url: str) -> None:
        speaker, event_id, now = self._speakers[generation.dialect], _new_event_id(), time.time()
        delivery = speaker.delivery(generation, status, event_id, now)
        if delivery is None:
            return
        rule = self._engine.faults.match("webhook", prompt=generation.request.prompt, generation_id=generation.id)
        kind = rule.kind if rule is not None else None
        if kind == "drop":
            return
        if rule is not None and kind == "late":
            delivery = speaker.delivery(generation, status, event_id, now - rule.backdate_seconds) or delivery
            await pause(rule.wait_seconds, self._engine.closing)
        if kind == "forged":
            await self._send(url, _forged(speaker.delivery(generation, "completed", _new_event_id(), now) or delivery))
        for _ in range(_copies(rule)):
            await self._send(url, delivery)

    async def _send(self, url: str, delivery: Delivery) -> None:
        """Post until the receiver says 2xx or the attempts are used up."""
        settings = self._engine.settings
        wait = settings.webhook_retry_seconds
        for attempt in range(1, settings.webhook_attempts + 1):
            if await self._post(url, delivery):
                return
            if attempt < settings.webhook_attempts:
                await pause(wait, self._engine.closing)
                wait *= 2
        logger.warning("Webhook to %s given up after %d attempts", url, settings.webhook_attempts)

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
            self._engine.books.count("webhooks_sent")
            await self._engine.commit()
            try:
                response = await self._client.post(url, content=delivery.body, headers=headers)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                logger.info("Webhook to %s not delivered: %r", url, error)
                return False
        return response.is_success


def _new_event_id() -> str:
    return f"evt_{uuid.uuid4().hex[:24]}"


def _copies(rule: FaultRule | None) -> int:
    return rule.copies if rule is not None and rule.kind == "duplicate" else 1


def _forged(delivery: Delivery) -> Delivery:
    """The same body under a signature that nobody with the secret would make."""
    label, code = _LAST_CODE.fullmatch(delivery.signature).groups()  # type: ignore[union-attr]
    return replace(delivery, signature=label + code.translate(_FLIPPED))
