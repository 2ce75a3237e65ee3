"""Deliveries signed by the Standard Webhooks scheme (`webhook-id`, `webhook-timestamp`, `webhook-signature`)."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from prefect_video.errors import InvalidInput

_PREFIX: Final = "whsec_"
_REFUSALS: Final[Mapping[str, str]] = {
    "Missing required headers": "it is not signed by Standard Webhooks; a header is missing",
    "No matching signature found": "the signature does not match any of the account's secrets",
    "Message timestamp too old": "the timestamp is more than 5 minutes off; refused as a replay",
    "Message timestamp too new": "the timestamp is more than 5 minutes off; refused as a replay",
    "Invalid Signature Headers": "the timestamp is none",
}
"""What the library says, in our words."""


@dataclass(frozen=True)
class VerifiedDelivery:
    """What the headers of a genuine delivery say.

    Attributes:
        id: The same for every repetition of one event.
        sent_at: When it was signed.
    """

    id: str
    sent_at: datetime


def verify(headers: Mapping[str, str], body: bytes, secrets: Iterable[str]) -> VerifiedDelivery:
    """Lets a delivery pass that was signed with one of the secrets within the last five minutes.

    Args:
        headers: Of the delivery, in any case.
        body: Its raw body.
        secrets: `whsec_…` with the key in base64, or the key itself.

    Raises:
        InvalidInput: It was not, or a header is missing.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    refusal = "the signature does not match any of the account's secrets: it has none"
    for secret in secrets:
        try:
            Webhook(_key(secret)).verify(body, lowered, json_parse=False)
        except WebhookVerificationError as error:
            refusal = _REFUSALS.get(str(error), str(error))
        except ValueError:
            refusal = "the signature is none of Standard Webhooks"
        else:
            sent_at = datetime.fromtimestamp(float(lowered["webhook-timestamp"]), UTC)
            return VerifiedDelivery(lowered["webhook-id"], sent_at)
    raise InvalidInput(f"webhook: {refusal}")


def _key(secret: str) -> bytes:
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except ValueError:
        raise InvalidInput("webhook secret: what follows whsec_ is not base64; copy it again") from None
