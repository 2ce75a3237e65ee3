"""API keys and the accounts behind them.

Elsewhere a key is known only by its account id and its last four characters.
"""

from __future__ import annotations

import hashlib
import hmac

from prefect_video.emulator.settings import EmulatorSettings


class ApiKeys:
    """Registry of the accepted API keys, their accounts and webhook secrets; keys come and go while accounts stay."""

    def __init__(self, settings: EmulatorSettings) -> None:
        # The first key of an account names it.
        self._first_keys = {key: settings.shared_accounts.get(key, key) for key in settings.keys}
        self._revoked: set[str] = set()
        self._secrets = settings.webhook_secrets
        self._default_secret = settings.webhook_secret

    def authenticate(self, authorization: str | None) -> str | None:
        """Return the account of an `Authorization: Bearer KEY` header; None if the key is not accepted."""
        scheme, _, candidate = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        for key, first_key in self._first_keys.items():
            # In constant time, as a real provider compares: the client under test cannot tell the two apart.
            if key not in self._revoked and hmac.compare_digest(key.encode(), candidate.strip().encode()):
                return _account_id(first_key)
        return None

    def issue(self, key: str, *, same_account_as: str | None = None) -> None:
        """Accept a key from now on: a new account, or one more key of the account that another key belongs to."""
        self._first_keys[key] = self._first_keys[same_account_as] if same_account_as else key
        self._revoked.discard(key)

    def revoke(self, key: str) -> None:
        """Accept a key no more; its account and its generations stay."""
        self._revoked.add(key)

    def label(self, account: str) -> str:
        """Return the last four characters of the account's first key, as the usage shows it."""
        return self._first_key(account)[-4:]

    def webhook_secret(self, account: str) -> str:
        """Return the secret that signs this account's webhooks."""
        return self._secrets.get(self._first_key(account), self._default_secret)

    def appears_in(self, text: str) -> bool:
        """Return True if the text contains any of the keys."""
        return any(key in text for key in self._first_keys)

    def _first_key(self, account: str) -> str:
        return next((key for key in self._first_keys.values() if _account_id(key) == account), account)


def _account_id(key: str) -> str:
    return f"acct_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
