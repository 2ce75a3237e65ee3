"""Trusted certificates of all connections: loaded once in a process, as loading takes longer than a request."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache

import httpx


def trusted_certificates(*, trust_env: bool = True) -> ssl.SSLContext:
    """Return the TLS context that httpx would create for one client, shared by all clients (their `verify`).

    Args:
        trust_env: Whether `SSL_CERT_FILE` and `SSL_CERT_DIR` choose the certificates.
    """
    chosen = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")) if trust_env else ()
    return _loaded(trust_env, chosen)


@lru_cache(maxsize=4)
def _loaded(trust_env: bool, chosen: tuple[str | None, ...]) -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=trust_env)
