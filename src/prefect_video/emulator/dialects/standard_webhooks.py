"""Signatures by Standard Webhooks, which more than one dialect uses."""

from __future__ import annotations

import base64
import hashlib
import hmac

from prefect_video.emulator.webhook_sender import Delivery

_PREFIX = "whsec_"


def sign_delivery(body: bytes, *, secret: str, event_id: str, timestamp: float) -> Delivery:
    """Return a delivery of `body`, signed for the event id and Unix time."""
    stamp = str(int(timestamp))
    signed = b".".join([event_id.encode(), stamp.encode(), body])
    code = base64.b64encode(hmac.new(_decode_secret(secret), signed, hashlib.sha256).digest()).decode()
    return Delivery(
        body=body,
        signature_header="webhook-signature",
        signature=f"v1,{code}",
        headers={"webhook-id": event_id, "webhook-timestamp": stamp},
    )


def _decode_secret(secret: str) -> bytes:
    """Return the key of a secret: base64 after `whsec_`, or else the text itself."""
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except ValueError:
        return secret.encode()
