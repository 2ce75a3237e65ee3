"""Webhooks of fal: signed with Ed25519 by keys that fal publishes and sometimes replaces."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import httpx

from prefect_video._tls import trusted_certificates
from prefect_video.errors import InvalidInput, ProviderUnavailable
from prefect_video.generations import WebhookEvent
from prefect_video.providers.webhook_signatures import raise_if_replayed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

KEYS_URL: Final = "https://rest.fal.ai/.well-known/jwks.json"
KEYS_FRESH_SECONDS: Final = 24 * 3600.0
KEYS_AGAIN_SECONDS: Final = 60.0
"""Least age at which a bad signature has the keys fetched again: forged deliveries must not cause many requests."""
TIMEOUT_SECONDS: Final = 10.0

_HEADERS: Final = ("request-id", "user-id", "timestamp")


class SigningKeys:
    """Cache of a published key set (JWKS), fetched when needed and kept for a day.

    Args:
        provider: Name of the provider, for errors.
        url: Address of the set.
        transport: For tests at the transport boundary.
    """

    def __init__(self, *, provider: str, url: str = KEYS_URL, transport: httpx.BaseTransport | None = None) -> None:
        self._provider = provider
        self._url = url
        self._transport = transport
        self._keys: tuple[Ed25519PublicKey, ...] = ()
        self._fetched_at: float | None = None
        self._fetching = threading.Lock()

    def get(self, *, again: bool = False) -> Sequence[Ed25519PublicKey]:
        """Return the keys; fetch them when there are none or they are a day old.

        Args:
            again: Whether a signature has just failed, as a key may have been replaced. Fetched at most once a minute.

        Raises:
            ProviderUnavailable: The keys cannot be fetched.
        """
        with self._fetching:
            now = time.monotonic()
            age = None if self._fetched_at is None else now - self._fetched_at
            if age is None or age > (KEYS_AGAIN_SECONDS if again else KEYS_FRESH_SECONDS):
                self._keys = self._fetch()
                self._fetched_at = now
            return self._keys

    def _fetch(self) -> tuple[Ed25519PublicKey, ...]:
        try:
            certificates = trusted_certificates()
            with httpx.Client(timeout=TIMEOUT_SECONDS, transport=self._transport, verify=certificates) as client:
                listed = client.get(self._url).raise_for_status().json()["keys"]
            return tuple(_decode_key(key["x"]) for key in listed if key.get("crv", "Ed25519") == "Ed25519")
        except (httpx.HTTPError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ProviderUnavailable(
                f"{self._provider}: the keys that sign webhooks cannot be read from {self._url} ({error!r})",
                provider=self._provider,
            ) from error


def read_webhook(headers: Mapping[str, str], body: bytes, keys: SigningKeys) -> WebhookEvent:
    """Verify a delivery and read it; the generation's id in it is fal's request id alone.

    Raises:
        InvalidInput: The signature, the time or the body is invalid.
        ProviderUnavailable: The keys cannot be fetched.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    values = [lowered.get(f"x-fal-webhook-{name}", "") for name in _HEADERS]
    try:
        signature = bytes.fromhex(lowered.get("x-fal-webhook-signature", ""))
        seconds = int(values[2])
    except ValueError as error:
        raise InvalidInput("webhook: a header of fal's signature is missing or not of its form") from error
    if not signature or not all(values):
        raise InvalidInput("webhook: a header of fal's signature is missing or not of its form")
    raise_if_replayed(seconds)
    message = "\n".join([*values, hashlib.sha256(body).hexdigest()]).encode()
    if not (_is_signed(message, signature, keys.get()) or _is_signed(message, signature, keys.get(again=True))):
        raise InvalidInput("webhook: the signature does not match any of fal's keys")
    return _read_event(body, sent_at=datetime.fromtimestamp(seconds, UTC))


def _is_signed(message: bytes, signature: bytes, keys: Sequence[Ed25519PublicKey]) -> bool:
    # Where it is used: a run that polls receives no webhook, and the library takes 6 MB.
    from cryptography.exceptions import InvalidSignature

    for key in keys:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            continue
        return True
    return False


def _read_event(body: bytes, *, sent_at: datetime) -> WebhookEvent:
    try:
        event = json.loads(body)
        request_id, status = str(event["request_id"]), str(event["status"])
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(f"webhook: the body is not an event of the contract ({error})") from error
    return WebhookEvent(
        event_id=f"{request_id}:{status}",
        event_type=f"request.{status.lower()}",
        generation_id=request_id,
        sent_at=sent_at,
    )


def _decode_key(text: str) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        return Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except binascii.Error as error:
        raise ValueError(str(error)) from error
