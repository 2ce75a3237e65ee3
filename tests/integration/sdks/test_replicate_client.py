"""Replicate's own client, unmodified, against the emulator."""

from typing import Any

import httpx
import pytest

from prefect_video.emulator import Emulator, EmulatorSettings
from tests.support.webhook_receiver import WebhookReceiver

replicate = pytest.importorskip("replicate")

INPUT = {"prompt": "a red balloon", "duration": 2, "resolution": "480p"}
VERSION = "9c49fe41d6b2a0e62199dc96bee4a9dd3565a4c563f9b80998358f14322c34f6"


@pytest.fixture
def client(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("REPLICATE_POLL_INTERVAL", "0.02")
    return replicate.Client(api_token=emulator.key, base_url=f"{emulator.url}/replicate")


def test_a_prediction_by_model_and_by_version(client: Any, emulator: Emulator) -> None:
    by_model = client.predictions.create(model="emulator/video", input=INPUT)
    by_version = client.predictions.create(version=VERSION, input=INPUT)
    assert by_model.status == "starting"
    assert by_version.version == VERSION
    for prediction in (by_model, by_version):
        prediction.wait()
        assert prediction.status == "succeeded"
        assert prediction.input == INPUT
        assert prediction.metrics["predict_time"] > 0
        assert httpx.get(prediction.output).content[4:8] == b"ftyp"
    assert emulator.usage()["billed"] == 2
    assert emulator.usage()["leaked_keys"] == 0


def test_run_gives_the_file(client: Any) -> None:
    output = client.run("emulator/video", input=INPUT)
    # It wraps https links only; the emulator serves plain http.
    assert httpx.get(output).content[4:8] == b"ftyp"


async def test_the_async_half(client: Any) -> None:
    prediction = await client.predictions.async_create(model="emulator/video", input=INPUT)
    await prediction.async_wait()
    assert prediction.status == "succeeded"


def test_failures_and_refusals(client: Any, emulator: Emulator) -> None:
    failed = client.predictions.create(model="emulator/video", input={**INPUT, "prompt": "[fail] x"})
    failed.wait()
    assert failed.status == "failed"
    assert "gave up" in failed.error
    with pytest.raises(replicate.exceptions.ReplicateError) as refused:
        client.predictions.create(model="emulator/video", input={"duration": 2})
    assert refused.value.status == 422
    stranger = replicate.Client(api_token="r8-wrong", base_url=f"{emulator.url}/replicate")
    with pytest.raises(replicate.exceptions.ReplicateError) as unknown:
        stranger.predictions.get(failed.id)
    assert unknown.value.status == 401


def test_cancel_and_list() -> None:
    with Emulator(EmulatorSettings(port=0, times="fixed:60")) as emulator:
        client = replicate.Client(api_token=emulator.key, base_url=f"{emulator.url}/replicate")
        made = [client.predictions.create(model="emulator/video", input=INPUT) for _ in range(3)]
        made[0].cancel()
        assert made[0].status == "canceled"
        assert [prediction.id for prediction in client.predictions.list()] == [
            prediction.id for prediction in reversed(made)
        ]


def test_pages(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_video.emulator.dialects.replicate.PAGE_SIZE", 2)
    made = [client.predictions.create(model="emulator/video", input=INPUT).id for _ in range(3)]
    first = client.predictions.list()
    second = client.predictions.list(first.next)
    assert [prediction.id for prediction in (*first, *second)] == made[::-1]
    assert second.next is None


def test_its_verification_of_webhooks_passes(client: Any) -> None:
    with WebhookReceiver() as receiver:
        prediction = client.predictions.create(
            model="emulator/video", input=INPUT, webhook=receiver.url, webhook_events_filter=["start", "completed"]
        )
        start, completed = deliveries = receiver.take(2)
    secret = client.webhooks.default.secret()
    for delivery in deliveries:
        replicate.webhook.Webhooks.validate(
            headers=delivery.headers, body=delivery.body.decode(), secret=secret, tolerance=300
        )
        assert delivery.event["id"] == prediction.id
    assert {delivery.event["status"] for delivery in deliveries} == {"processing", "succeeded"}
    with pytest.raises(replicate.webhook.InvalidSignatureError):
        replicate.webhook.Webhooks.validate(
            headers=start.headers, body=completed.body.decode(), secret=secret, tolerance=300
        )
