"""The `standardwebhooks` library and our own verification agree, in both directions."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from prefect_video.emulator import Emulator
from prefect_video.errors import InvalidInput
from prefect_video.providers import webhook_signatures
from prefect_video.providers.openai.provider import OpenAIProvider
from prefect_video.shots import Shot
from tests.support.webhook_receiver import WebhookReceiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def headers_of(
    library: Webhook, body: str, *, delivery_id: str = "msg_1", at: datetime | None = None
) -> dict[str, str]:
    at = at or datetime.now(UTC)
    return {
        "Webhook-Id": delivery_id,
        "Webhook-Timestamp": str(int(at.timestamp())),
        "Webhook-Signature": library.sign(delivery_id, at, body),
    }


@given(body=st.text(), delivery_id=st.text(alphabet="abc_.-019", min_size=1))
def test_what_the_library_signs_passes(body: str, delivery_id: str) -> None:
    headers = headers_of(Webhook(SECRET), body, delivery_id=delivery_id)
    assert webhook_signatures.verify(headers, body.encode(), ["whsec_b2xk", SECRET]).id == delivery_id
    several = {**headers, "Webhook-Signature": f"v1a,x v1,AAAA {headers['Webhook-Signature']}"}
    assert webhook_signatures.verify(several, body.encode(), [SECRET]).id == delivery_id
    with pytest.raises(InvalidInput, match="signature"):
        webhook_signatures.verify(headers, body.encode() + b"x", [SECRET])
    with pytest.raises(InvalidInput, match="signature"):
        webhook_signatures.verify(headers, body.encode(), [])


@pytest.mark.parametrize("minutes", [-6, 6])
def test_what_is_old_or_from_the_future_does_not(minutes: int) -> None:
    headers = headers_of(Webhook(SECRET), "{}", at=datetime.now(UTC) + timedelta(minutes=minutes))
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify("{}", headers)
    with pytest.raises(InvalidInput, match="5 minutes off"):
        webhook_signatures.verify(headers, b"{}", [SECRET])


@pytest.mark.parametrize("missing", ["Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"])
def test_every_header_is_needed(missing: str) -> None:
    headers = headers_of(Webhook(SECRET), "{}")
    del headers[missing]
    with pytest.raises(InvalidInput, match="header is missing"):
        webhook_signatures.verify(headers, b"{}", [SECRET])


@pytest.mark.parametrize("timestamp", ["soon", "-1", "1e9", "9" * 40, "nan", "inf"])
def test_a_timestamp_is_a_number_of_seconds_that_is_recent(timestamp: str) -> None:
    signed = hmac.new(base64.b64decode(SECRET[6:]), f"msg_1.{timestamp}.{{}}".encode(), hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(signed).decode()}"
    headers = {"webhook-id": "msg_1", "webhook-timestamp": timestamp, "webhook-signature": signature}
    with pytest.raises(InvalidInput, match="timestamp"):
        webhook_signatures.verify(headers, b"{}", [SECRET])


@given(st.text(max_size=60), st.text(max_size=20), st.binary(max_size=40))
def test_nonsense_is_refused_and_never_an_error_of_ours(signature: str, timestamp: str, body: bytes) -> None:
    headers = {"webhook-id": "m", "webhook-timestamp": timestamp, "webhook-signature": signature}
    now = {**headers, "webhook-timestamp": str(int(datetime.now(UTC).timestamp()))}
    for given_headers in (headers, now):
        with pytest.raises(InvalidInput, match="webhook"):
            webhook_signatures.verify(given_headers, body, [SECRET])


def test_a_secret_without_prefix_is_the_key_itself_and_a_broken_one_says_so() -> None:
    headers = headers_of(Webhook(b"plain"), "{}")
    assert webhook_signatures.verify(headers, b"{}", ["plain"]).id == "msg_1"
    with pytest.raises(InvalidInput, match="not base64"):
        webhook_signatures.verify(headers, b"{}", ["whsec_é"])


async def test_the_library_verifies_what_the_emulator_sends(emulator: Emulator, receiver: WebhookReceiver) -> None:
    provider = OpenAIProvider(api_key=emulator.key, base_url=f"{emulator.url}/v1")
    shot = Shot(id="a", prompt="a cat", duration=1, resolution="480p")
    accepted = await provider.submit(shot, idempotency_key="k", project="film")
    delivery = (await asyncio.to_thread(receiver.take, 1))[0]
    while accepted.id.encode() not in delivery.body:
        delivery = (await asyncio.to_thread(receiver.take, 1))[0]
    event = Webhook(emulator.webhook_secret).verify(delivery.body, delivery.headers)
    assert event["data"] == {"id": accepted.id}
    await provider.aclose()
