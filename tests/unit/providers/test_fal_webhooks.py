"""fal's webhooks: Ed25519 signatures, and keys that are published, cached and replaced."""

import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from prefect_video import InvalidInput
from prefect_video.emulator import Emulator
from prefect_video.errors import ProviderUnavailable
from prefect_video.providers.fal.provider import FalProvider
from prefect_video.providers.fal.webhooks import SigningKeys, read_webhook
from tests.support.providers.fal import SHOT, open_fal, submit
from tests.support.webhook_receiver import WebhookReceiver


@pytest.fixture
async def provider(emulator: Emulator) -> AsyncIterator[FalProvider]:
    provider = open_fal(emulator)
    yield provider
    await provider.aclose()


async def test_webhooks_of_the_emulator_are_verified_with_its_published_keys(
    provider: FalProvider, emulator: Emulator
) -> None:
    with WebhookReceiver() as receiver:
        done = await submit(provider, webhook_url=receiver.url)
        failed = await submit(provider, SHOT.model_copy(update={"prompt": "[policy] x"}), webhook_url=receiver.url)
        deliveries = receiver.take(2)
    events = [provider.parse_webhook(delivery.headers, delivery.body) for delivery in deliveries]
    event_types = {event.generation_id: event.event_type for event in events}
    assert event_types == {done.rpartition("/")[2]: "request.ok", failed.rpartition("/")[2]: "request.error"}
    assert emulator.usage()["requests"]["keys"] == 1


class Keys:
    """A published key set whose key can be replaced."""

    def __init__(self) -> None:
        self.private = Ed25519PrivateKey.generate()
        self.fetched = 0
        self.broken = False

    def answer(self, _: httpx.Request) -> httpx.Response:
        self.fetched += 1
        raw = base64.urlsafe_b64encode(self.private.public_key().public_bytes_raw()).rstrip(b"=").decode()
        return (
            httpx.Response(503) if self.broken else httpx.Response(200, json={"keys": [{"crv": "Ed25519", "x": raw}]})
        )

    def published(self) -> SigningKeys:
        return SigningKeys(provider="fal", url="https://rest.example", transport=httpx.MockTransport(self.answer))

    def sign(self, body: bytes, *, at: float | None = None) -> dict[str, str]:
        stamp = str(int(at if at is not None else time.time()))
        message = "\n".join(["r1", "me", stamp, hashlib.sha256(body).hexdigest()])
        return {
            "X-Fal-Webhook-Request-Id": "r1",
            "X-Fal-Webhook-User-Id": "me",
            "X-Fal-Webhook-Timestamp": stamp,
            "X-Fal-Webhook-Signature": self.private.sign(message.encode()).hex(),
        }


BODY = json.dumps({"request_id": "r1", "status": "OK", "payload": {}}).encode()


def test_webhooks_that_are_forged_stale_or_nonsense_are_refused() -> None:
    keys, other = Keys(), Keys()
    published = keys.published()
    assert read_webhook(keys.sign(BODY), BODY, published).generation_id == "r1"
    good = keys.sign(BODY)
    refused = [
        ({}, BODY),
        (other.sign(BODY), BODY),
        (good, BODY + b" "),
        (good | {"X-Fal-Webhook-User-Id": "you"}, BODY),
        (good | {"X-Fal-Webhook-Signature": "zz"}, BODY),
        (good | {"X-Fal-Webhook-Signature": "00" * 64}, BODY),
        (good | {"X-Fal-Webhook-Timestamp": "soon"}, BODY),
        (keys.sign(BODY, at=time.time() - 301), BODY),
        # Ahead by more than the 300 s, however long it takes until it is read.
        (keys.sign(BODY, at=time.time() + 330), BODY),
        (keys.sign(b"[]"), b"[]"),
        (keys.sign(b"<html>"), b"<html>"),
    ]
    for headers, body in refused:
        with pytest.raises(InvalidInput, match="webhook"):
            read_webhook(headers, body, published)
    assert keys.fetched == 1


def test_a_replaced_key_is_fetched_once_a_minute_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, now = Keys(), [1000.0]
    monkeypatch.setattr("prefect_video.providers.fal.webhooks.time.monotonic", lambda: now[0])
    published = keys.published()
    read_webhook(keys.sign(BODY), BODY, published)
    keys.private = Ed25519PrivateKey.generate()
    with pytest.raises(InvalidInput):
        read_webhook(keys.sign(BODY), BODY, published)
    now[0] += 61
    read_webhook(keys.sign(BODY), BODY, published)
    assert keys.fetched == 2
    now[0] += 23 * 3600
    read_webhook(keys.sign(BODY), BODY, published)
    assert keys.fetched == 2
    now[0] += 2 * 3600
    read_webhook(keys.sign(BODY), BODY, published)
    assert keys.fetched == 3


def test_without_keys_a_webhook_can_be_delivered_again_later() -> None:
    keys = Keys()
    keys.broken = True
    published = keys.published()
    with pytest.raises(ProviderUnavailable, match="keys that sign webhooks"):
        read_webhook(keys.sign(BODY), BODY, published)
    keys.broken = False
    assert read_webhook(keys.sign(BODY), BODY, published).event_type == "request.ok"
