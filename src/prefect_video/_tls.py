"""Trusted certificates of all connections: loaded once in a process, as loading takes longer than a request."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache

import httpx

from prefect_video.errors import InvalidInput


def trusted_certificates(*, trust_env: bool = True) -> ssl.SSLContext:
    """Return the TLS context that httpx would create for one client, shared by all clients (their `verify`).

    Args:
        trust_env: Whether `SSL_CERT_FILE` and `SSL_CERT_DIR` choose the certificates.

    Raises:
        InvalidInput: A variable names a file or folder that cannot be read.
    """
    chosen = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")) if trust_env else ()
    try:
        return _loaded(trust_env, chosen)
    except OSError as error:
        # An `ssl.SSLError` of a file without certificates is one too.
        variables = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        if not trust_env or not variables:
            raise
        raise InvalidInput(
            f"{' and '.join(variables)}: no certificates can be read there ({error.strerror or error}):"
            " correct or unset it"
        ) from error


@lru_cache(maxsize=4)
def _loaded(trust_env: bool, chosen: tuple[str | None, ...]) -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=trust_env)
