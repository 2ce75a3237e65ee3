"""Proxies of the environment: a variable that cannot be used is named, before the first connection is opened.

The HTTP client takes a range of addresses in `no_proxy` for one address; `range_mounts` makes it count.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
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
                    f"{variable}: {entry.strip()!r} is not understood: write host names, suffixes such as .example.com,"
                    " single addresses, an IPv6 address without brackets, and ranges of IPv4 addresses such as"
                    " 10.0.0.0/8; ranges of IPv6 addresses cannot be used"
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


def is_in_exempt_range(host: str) -> bool:
    """Return whether a host is an address in a range of `no_proxy`; a name is not looked up for it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in _exempt_ranges())


def range_mounts(certificates: ssl.SSLContext, limits: httpx.Limits) -> dict[str, httpx.AsyncBaseTransport]:
    """Build the transports that let a client reach the ranges of `no_proxy` directly, as its `mounts`.

    Args:
        certificates: The client's trusted certificates.
        limits: The client's limits.
    """
    if not any(_exempt_ranges()):
        return {}
    proxies = urllib.request.getproxies_environment()
    return {
        f"{scheme}://": _RangeTransport(
            direct=httpx.AsyncHTTPTransport(verify=certificates, limits=limits),
            proxied=httpx.AsyncHTTPTransport(verify=certificates, limits=limits, proxy=_with_scheme(proxies[scheme])),
        )
        for scheme in ("http", "https", "all")
        if proxies.get(scheme)
    }


class _RangeTransport(httpx.AsyncBaseTransport):
    """Transport of a proxy that leaves out the ranges of `no_proxy`."""

    def __init__(self, *, direct: httpx.AsyncBaseTransport, proxied: httpx.AsyncBaseTransport) -> None:
        self._direct = direct
        self._proxied = proxied

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        transport = self._direct if is_in_exempt_range(request.url.host) else self._proxied
        return await transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._direct.aclose()
        await self._proxied.aclose()


def _exempt_ranges() -> Iterator[ipaddress.IPv4Network]:
    """Yield the ranges of IPv4 addresses that `no_proxy` holds; none where it exempts everything anyway."""
    entries = [entry.strip() for entry in urllib.request.getproxies_environment().get("no", "").split(",")]
    if "*" not in entries:
        yield from filter(None, map(_parse_range, entries))


def _parse_range(entry: str) -> ipaddress.IPv4Network | None:
    try:
        return ipaddress.IPv4Network(entry, strict=False) if "/" in entry else None
    except ValueError:
        return None


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
        proxy = httpx.Proxy(_with_scheme(value))
    except (httpx.InvalidURL, ValueError):
        return False
    return proxy.url.scheme in ("http", "https", "socks5", "socks5h") and bool(proxy.url.host)


def _with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_usable_exception(entry: str) -> bool:
    """Check the pattern that the HTTP client makes of an entry of `no_proxy`."""
    if not entry or entry == "*":
        return True
    address, slash, _ = entry.partition("/")
    if slash and _is_address(address, version=4):
        return _parse_range(entry) is not None
    pattern = entry if "://" in entry else f"all://[{entry}]" if _is_ipv6(entry) else f"all://*{entry}"
    try:
        httpx.URL(pattern)
    except httpx.InvalidURL:
        return False
    return True


def _is_ipv6(text: str) -> bool:
    return _is_address(text, version=6)


def _is_address(text: str, *, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _without_brackets(entry: str) -> str:
    address = entry.removeprefix("[").removesuffix("]")
    return address if _is_ipv6(address) else entry
