"""Webhooks of the emulator: content, signatures, retries and faults."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from prefect_video.emulator import Emulator, EmulatorSettings
from tests.support.emulator_client import Client
from tests.support.webhook_receiver import Received, WebhookReceiver

SETTINGS: dict[str, Any] = {"port": 0, "speed": 200, "render": "plate", "webhook_retry_seconds": 0.01}


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as running:
        yield running


def _is_signed_with(received: Received, secret: str) -> bool:
    expected = hmac.new(secret.encode(), received.body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, received.headers["x-sora-signature"])


def _event_types(deliveries: list[Received]) -> list[str]:
    return sorted(delivery.event["event_type"] for delivery in deliveries)


def test_every_status_is_sent_as_a_signed_compact_event(emulator: Emulator, receiver: WebhookReceiver) -> None:
    generation_id = Client.connect(emulator).submit_accepted(webhook_url=receiver.url)
    deliveries = receiver.take(3)
    assert _event_types(deliveries) == ["generation.completed", "generation.queued", "generation.started"]
    for delivery in deliveries:
        assert _is_signed_with(delivery, emulator.webhook_secret)
        assert delivery.body == json.dumps(delivery.event, separators=(",", ":")).encode()
        assert set(delivery.event) == {"event_type", "event_id", "timestamp", "data"}
        assert abs(delivery.event["timestamp"] - time.time()) < 30
        assert delivery.event["data"]["generation_id"] == generation_id
    assert len({delivery.event["event_id"] for delivery in deliveries}) == 3
    completed = next(d.event for d in deliveries if d.event["event_type"] == "generation.completed")
    assert completed["data"]["status"] == "completed"
    assert completed["data"]["result"]["video_url"].startswith(emulator.cdn)
    assert emulator.usage()["webhooks_sent"] == 3


def test_failure_and_cancellation_are_sent(receiver: WebhookReceiver) -> None:
    with Emulator(EmulatorSettings(**SETTINGS)) as emulator:
        Client.connect(emulator).submit_accepted("[fail]", webhook_url=receiver.url)
        failed = receiver.take_until("generation.failed")[-1].event
        assert failed["data"]["error"]["type"] == "generation_error"
    with Emulator(EmulatorSettings(port=0, times="fixed:600")) as emulator:
        client = Client.connect(emulator)
        client.cancel(client.submit_accepted(webhook_url=receiver.url))
        cancelled = receiver.take_until("generation.cancelled")[-1].event
        assert cancelled["data"]["status"] == "cancelled"


def test_each_key_may_have_its_own_secret(receiver: WebhookReceiver) -> None:
    settings = EmulatorSettings(keys=("k1", "k2"), webhook_secrets={"k2": "whsec_two"}, **SETTINGS)
    with Emulator(settings) as emulator:
        Client(emulator.endpoint, "k2").submit_accepted(webhook_url=receiver.url)
        assert all(_is_signed_with(delivery, "whsec_two") for delivery in receiver.take(3))


def test_undelivered_event_is_sent_again_and_then_abandoned() -> None:
    with WebhookReceiver([500, 503]) as receiver, Emulator(EmulatorSettings(**SETTINGS)) as emulator:
        emulator.add_fault(operation="webhook", kind="drop", times=2, after=1)
        Client.connect(emulator).submit_accepted(webhook_url=receiver.url)
        deliveries = receiver.take(3)
        assert len({delivery.body for delivery in deliveries}) == 1
    with (
        WebhookReceiver([500] * 50) as receiver,
        Emulator(EmulatorSettings(webhook_attempts=3, **SETTINGS)) as emulator,
    ):
        emulator.add_fault(operation="webhook", kind="drop", times=2, after=1)
        Client.connect(emulator).submit_accepted(webhook_url=receiver.url)
        receiver.take(3)
        emulator.wait_until_idle()
        assert emulator.usage()["webhooks_sent"] == 3


def test_unreachable_receiver_harms_nothing() -> None:
    with Emulator(EmulatorSettings(**SETTINGS)) as emulator:
        for url in ("http://127.0.0.1:1/hook", "http://", "https://[bad"):
            Client.connect(emulator).generate(emulator, webhook_url=url)


def test_duplicates_share_their_event_id(receiver: WebhookReceiver) -> None:
    with Emulator(EmulatorSettings(**SETTINGS)) as emulator:
        emulator.add_fault(operation="webhook", kind="duplicate", copies=3)
        Client.connect(emulator).submit_accepted(webhook_url=receiver.url)
        ids = [delivery.event["event_id"] for delivery in receiver.take(5)]
        assert sorted(ids.count(event_id) for event_id in set(ids)) == [1, 1, 3]


def test_late_webhook_keeps_its_old_timestamp(receiver: WebhookReceiver) -> None:
    with Emulator(EmulatorSettings(**SETTINGS)) as emulator:
        emulator.add_fault(
            operation="webhook", kind="late", after=2, seconds=0.2, backdate_seconds=600, match={"prompt": "Late"}
        )
        Client.connect(emulator).submit_accepted("Late", webhook_url=receiver.url)
        late = receiver.take_until("generation.completed")[-1]
        assert 595 < time.time() - late.event["timestamp"] < 630
        assert _is_signed_with(late, emulator.webhook_secret)


def test_forged_webhook_claims_completion_before_the_true_one(receiver: WebhookReceiver) -> None:
    with Emulator(EmulatorSettings(port=0, times="fixed:600")) as emulator:
        emulator.add_fault(operation="webhook", kind="forged")
        Client.connect(emulator).submit_accepted(webhook_url=receiver.url)
        forged, true = receiver.take(2)
        assert forged.event["event_type"] == "generation.completed"
        assert not _is_signed_with(forged, emulator.webhook_secret)
        assert true.event["event_type"] == "generation.queued"
        assert _is_signed_with(true, emulator.webhook_secret)
