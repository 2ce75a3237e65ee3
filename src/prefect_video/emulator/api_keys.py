"""Which API key is whose; elsewhere a key is known by its account name and its last four characters only."""

from __future__ import annotations

import hashlib
import hmac

from prefect_video.emulator.settings import EmulatorSettings


class ApiKeys:
    """The keys that are let in."""

    def __init__(self, settings: EmulatorSettings) -> None:
        self._keys = {_account(key): key for key in settings.keys}
        self._secrets = settings.webhook_secrets
        self._default_secret = settings.webhook_secret

    def authenticate(self, authorization: str | None) -> str | None:
        """The account of an ``Authorization: Bearer KEY`` header; None when it opens nothing."""
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        for account, key in self._keys.items():
            if hmac.compare_digest(key.encode(), given.strip().encode()):
                return account
        return None

    def label(self, account: str) -> str:
        """The last four characters of the account's key, as the books show it."""
        return self._keys.get(account, account)[-4:]

    def webhook_secret(self, account: str) -> str:
        """What signs this account's webhooks."""
        return self._secrets.get(self._keys.get(account, ""), self._default_secret)

    def appears_in(self, text: str) -> bool:
        """Whether any of the keys is part of the text."""
        return any(key in text for key in self._keys.values())


def _account(key: str) -> str:
    return f"acct_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
