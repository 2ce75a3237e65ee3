"""Rules for the addresses that clients want to be called at."""

from __future__ import annotations

from urllib.parse import urlsplit

from prefect_video.downloads import LinkPolicy


def build_policy(url: str, hosts: frozenset[str]) -> LinkPolicy:
    """Return the rules for one address: public, or one of the hosts that the operator allows."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    return LinkPolicy(trusted_host=host if host in hosts else None, max_redirects=0)
