"""API keys and the accounts behind them.

Elsewhere a key is known only by its account id and its last four characters.
"""

from __future__ import annotations

import hashlib
import hmac

from prefect_video.emulator.settings import EmulatorSettings


class ApiKeys:
    """Registry of the accepted API keys and their webhook secrets."""

    def __init__(self, settings: EmulatorSettings) -> None:
        self._keys = {_account_id(key): key for key in settings.keys}
        self._secrets = settings.webhook_secrets
        self._default_secret = settings.webhook_secret

    def authenticate(self, authorization: str | None) -> str | None:
        """Return the account of an `Authorization: Bearer KEY` header; None if the key is not accepted."""
        scheme, _, candidate = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        for account, key in self._keys.items():
            # In constant time, as a real provider compares: the client under test cannot tell the two apart.
            if hmac.compare_digest(key.encode(), candidate.strip().encode()):
                return account
        return None

    def label(self, account: str) -> str:
        """Return the last four characters of the account's key, as the usage shows it."""
        return self._keys.get(account, account)[-4:]

    def webhook_secret(self, account: str) -> str:
        """Return the secret that signs this account's webhooks."""
        return self._secrets.get(self._keys.get(account, ""), self._default_secret)

    def appears_in(self, text: str) -> bool:
        """Return True if the text contains any of the keys."""
        return any(key in text for key in self._keys.values())


def _account_id(key: str) -> str:
    return f"acct_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
