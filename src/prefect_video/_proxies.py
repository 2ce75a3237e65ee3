"""Proxies of the environment: a variable that cannot be used is named, before the first connection is opened."""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from collections.abc import Iterator
from typing import Final

import httpx

from prefect_video.errors import InvalidInput

_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")
_EXCEPTIONS: Final = "no_proxy"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def check_proxies() -> None:
    """Check that the HTTP client can use the proxies of the environment, and their exceptions.

    Raises:
        InvalidInput: It cannot; the message names the variable and says what it may hold.
    """
    for variable, value in _set_variables(*_PROXIES):
        if not _is_usable_proxy(value):
            # Without the value, which may hold a password.
            raise InvalidInput(
                f"{variable} is no address of a proxy that can be used: set it to http://host:port or"
                " socks5://host:port, or unset it"
            )
    for variable, value in _set_variables(_EXCEPTIONS):
        for entry in value.split(","):
            if not _is_usable_exception(entry.strip()):
                raise InvalidInput(
                    f"{variable}: {entry.strip()!r} is not understood: write host names, suffixes such as .example.com"
                    " and single addresses, an IPv6 address without brackets; ranges of IPv6 addresses cannot be used"
                )


def exempt_loopback() -> None:
    """Let this process, and those that it starts, reach its own servers without a proxy, which cannot reach them.

    An exception in brackets, as other tools want it, is written as the HTTP client wants it.
    """
    proxies = urllib.request.getproxies_environment()
    if proxies.keys().isdisjoint({"http", "https", "all"}):
        return
    entries = [_without_brackets(entry.strip()) for entry in proxies.get("no", "").split(",") if entry.strip()]
    entries += [host for host in _LOOPBACK if host not in entries]
    os.environ[_EXCEPTIONS] = os.environ[_EXCEPTIONS.upper()] = ",".join(entries)


def proxy_variable(scheme: str) -> str | None:
    """Return the variable that sets the proxy for a scheme alone, None where there is none."""
    return next((variable for variable, _ in _set_variables(f"{scheme}_proxy")), None)


def _set_variables(*names: str) -> Iterator[tuple[str, str]]:
    """Yield the variables that count: that in small letters wins, even where it is empty."""
    for name in names:
        variable = name if name in os.environ else name.upper()
        if value := os.environ.get(variable):
            yield variable, value


def _is_usable_proxy(value: str) -> bool:
    try:
        proxy = httpx.Proxy(value if "://" in value else f"http://{value}")
    except (httpx.InvalidURL, ValueError):
        return False
    return proxy.url.scheme in ("http", "https", "socks5", "socks5h") and bool(proxy.url.host)


def _is_usable_exception(entry: str) -> bool:
    """Check the pattern that the HTTP client makes of an entry of `no_proxy`."""
    if not entry or entry == "*":
        return True
    pattern = entry if "://" in entry else f"all://[{entry}]" if _is_ipv6(entry) else f"all://*{entry}"
    try:
        httpx.URL(pattern)
    except httpx.InvalidURL:
        return False
    return True


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _without_brackets(entry: str) -> str:
    address = entry.removeprefix("[").removesuffix("]")
    return address if _is_ipv6(address) else entry
