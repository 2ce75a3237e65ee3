"""Webhook signatures: the Standard Webhooks scheme, and the checks that schemes of vendors share with it.

The scheme signs `webhook-id`, `webhook-timestamp` and the raw body, and sends them with `webhook-signature`.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from prefect_video.errors import InvalidInput

REPLAY_WINDOW_SECONDS: Final = 300.0
"""How far the time of a delivery may be from now. Older ones may be recorded and sent again by another party."""

_PREFIX: Final = "whsec_"
_SEPARATORS: Final = re.compile(r"[,\r\n]")
_AROUND: Final = " \t\"'"
_REPLAY: Final = "the timestamp is more than 5 minutes off; refused as a replay"
_MESSAGES: Final[Mapping[str, str]] = {
    "Missing required headers": "it is not signed by Standard Webhooks; a header is missing",
    "No matching signature found": "the signature does not match any of the account's secrets",
    "Message timestamp too old": _REPLAY,
    "Message timestamp too new": _REPLAY,
    "Invalid Signature Headers": "the timestamp is none",
}
"""Messages of the library, and ours for them."""


@dataclass(frozen=True)
class VerifiedDelivery:
    """Headers of a genuine delivery.

    Attributes:
        id: Id of the event; the same for every repetition of it.
        sent_at: When it was signed.
    """

    id: str
    sent_at: datetime


def verify(headers: Mapping[str, str], body: bytes, secrets: Iterable[str]) -> VerifiedDelivery:
    """Verify that a delivery was signed by Standard Webhooks with one of the secrets within the last five minutes.

    Args:
        headers: Headers of the delivery, in any case.
        body: Its raw body.
        secrets: `whsec_…` with the key in base64, or the key itself.

    Raises:
        InvalidInput: It was not, or a header is missing.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    message = "the signature does not match any of the account's secrets: it has none"
    for secret in secrets:
        key = _decode_secret(secret)
        if not key:
            # One that cannot sign anything must not hide a good one after it.
            message = f"what follows {_PREFIX} in a secret of the account is not base64; copy it again"
            continue
        try:
            Webhook(key).verify(body, lowered, json_parse=False)
        except WebhookVerificationError as error:
            message = _MESSAGES.get(str(error), str(error))
        except ValueError:
            message = "the signature is none of Standard Webhooks"
        else:
            sent_at = datetime.fromtimestamp(float(lowered["webhook-timestamp"]), UTC)
            return VerifiedDelivery(lowered["webhook-id"], sent_at)
    raise InvalidInput(f"webhook: {message}")


def raise_if_replayed(sent_at_seconds: float) -> None:
    """Reject a delivery whose signed time, in Unix seconds, is out of the replay window.

    Raises:
        InvalidInput: The time is too far from now, before or after.
    """
    # Compared, not subtracted: an integer of 400 digits is too large for the difference to a float.
    now = time.time()
    if not now - REPLAY_WINDOW_SECONDS <= sent_at_seconds <= now + REPLAY_WINDOW_SECONDS:
        raise InvalidInput(f"webhook: {_REPLAY}")


def split_secrets(text: str | None, *, named: str, standard: bool = False) -> tuple[str, ...]:
    """Return the secrets of a setting, which holds several during a rotation, separated by commas or line breaks.

    White space and quotes around each are left out: they come from copying, and no secret has them.

    Args:
        text: The setting's value.
        named: Name of the setting, for the message.
        standard: Whether the secrets are those of Standard Webhooks, where base64 follows `whsec_`.

    Raises:
        InvalidInput: A secret cannot be one; the message names the setting and never shows the secret.
    """
    secrets = tuple(filter(None, (part.strip(_AROUND) for part in _SEPARATORS.split(text or ""))))
    for secret in secrets:
        if not secret.isascii() or not secret.isprintable() or " " in secret:
            raise InvalidInput(f"{named}: a webhook secret holds characters that no secret has; copy it again")
        if secret == _PREFIX or (standard and not _decode_secret(secret)):
            raise InvalidInput(f"{named}: what follows {_PREFIX} in a webhook secret is not base64; copy it again")
    return secrets


def _decode_secret(secret: str) -> bytes:
    """Return the key of a secret, empty where it has none."""
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except ValueError:
        return b""
