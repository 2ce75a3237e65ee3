"""Protection against server-side request forgery: a link is fetched only over http(s) and from permitted addresses.

A link comes from a provider's response, so it is not trusted: it could point at a metadata service or an intranet.
Every address that a host resolves to must pass, and the caller connects to the address that was checked, so that the
name cannot be pointed elsewhere in between (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import urllib.request
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import httpx

from prefect_video._proxies import is_in_exempt_range
from prefect_video.errors import IncompleteDownload, UnsafeUrl
from prefect_video.shots import is_web_address

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(rb"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_GLOBAL_IPV6: Final = ipaddress.IPv6Network("2000::/3")
"""The only part of IPv6 in which public hosts are: what is outside of it and of `_KINDS` is refused."""
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_METADATA: Final = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")
)


class AddressKind(StrEnum):
    """Network scope of an address; decides whether a link may lead to it."""

    GLOBAL = "public"
    LOOPBACK = "loopback"
    PRIVATE = "private"
    LINK_LOCAL = "link-local"
    METADATA = "cloud metadata"
    SPECIAL = "reserved, multicast or translated"


def _networks(*texts: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


_KINDS: Final = {
    AddressKind.LOOPBACK: _networks("127.0.0.0/8", "::1/128"),
    AddressKind.LINK_LOCAL: _networks("169.254.0.0/16", "fe80::/10"),
    # 198.18.0.0/15, for benchmarks, is what local proxies answer for every name.
    AddressKind.PRIVATE: _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15", "fc00::/7"),
    AddressKind.SPECIAL: _networks(
        "0.0.0.0/8",
        "100.64.0.0/10",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    ),
}
"""Networks that are not public, from IANA's registries. A table of our own, as `ipaddress` differs by Python version.

A second notation of an IPv4 address is refused whatever it stands for, as its only use in a link is to hide an address:
6to4 (`2002::/16`), Teredo (in `2001::/23`), and, outside of `_GLOBAL_IPV6`, NAT64 and the mapped and compatible ones.
"""


@dataclass(frozen=True)
class LinkPolicy:
    """Rules for the addresses that a link may lead to.

    Attributes:
        trusted_host: Host of the provider's endpoint. If it is on loopback or in a private network, links to addresses
            of that same kind are allowed; a link-local or metadata address only if the endpoint has exactly that one.
        max_redirects: Most redirects that are followed; each target is checked like the first link.
        max_bytes: Largest body that is fetched.
    """

    trusted_host: str | None = None
    max_redirects: int = 5
    max_bytes: int = 8 * 2**30


@dataclass(frozen=True)
class CheckedLink:
    """Link that may be fetched, with the address to connect to.

    Attributes:
        url: The link; a bearer secret until it expires.
        host: Its host name or address, as sent in `Host` and checked in the certificate.
        address: The checked address to connect to; None where the environment has proxies, which need the name.
    """

    url: httpx.URL = field(repr=False)
    host: str
    address: str | None

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: the only place that a secret header may be sent to."""
        return origin(self.url)

    @property
    def connect_url(self) -> httpx.URL:
        """The URL with the host replaced by the checked address."""
        return self.url if self.address is None else self.url.copy_with(host=self.address)

    @property
    def host_header(self) -> str:
        """Value of the `Host` header."""
        return self.url.netloc.decode("ascii")


def origin(url: str | httpx.URL) -> tuple[str, str, int]:
    """Return scheme, host and port of a URL, with the scheme's default port where it names none.

    Raises:
        UnsafeUrl: It is not an http(s) URL.
    """
    parsed = _parse(url)
    return parsed.scheme, parsed.raw_host.decode("ascii"), parsed.port or _DEFAULT_PORTS[parsed.scheme]


def redact(url: str | httpx.URL) -> str:
    """Return a link without user info, query and fragment, for logs and messages."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError):
        return "<unreadable link>"
    shown = f"{parsed.scheme}://{_format_host(parsed)}{parsed.path}" if parsed.host else f"{parsed.scheme}:…"
    return shown + ("?…" if parsed.query else "")


def classify(address: _Address) -> AddressKind:
    """Return the network scope of an address, the same under every Python version."""
    if address in _METADATA:
        return AddressKind.METADATA
    for kind, networks in _KINDS.items():
        if any(address.version == network.version and address in network for network in networks):
            return kind
    return AddressKind.GLOBAL if address.version == 4 or address in _GLOBAL_IPV6 else AddressKind.SPECIAL


async def check_url(url: str | httpx.URL, policy: LinkPolicy, *, trust_env: bool = True) -> CheckedLink:
    """Check a link and pin it to an address.

    Args:
        url: The link.
        policy: The addresses it may lead to.
        trust_env: True if the client that will fetch it uses the environment's proxies. A proxy resolves names
            itself, so only links with a literal address can be checked then.

    Raises:
        UnsafeUrl: The link may not be fetched; the message names the host and the reason.
        IncompleteDownload: The host does not resolve now.
    """
    parsed = _parse(url)
    host = parsed.raw_host.decode("ascii")
    port = parsed.port or _DEFAULT_PORTS[parsed.scheme]
    has_proxy = trust_env and not urllib.request.getproxies().keys().isdisjoint({parsed.scheme, "all"})
    proxied = has_proxy and not (urllib.request.proxy_bypass(host) or is_in_exempt_range(host))
    addresses = _parse_literal(host) if proxied else await _resolve_host(host, port)
    trusted = await _resolve_trusted(policy, addresses)
    for address in addresses:
        kind = classify(address)
        if kind is not AddressKind.GLOBAL and not _is_allowed(address, kind, trusted):
            raise UnsafeUrl(
                f"link to {host} refused: it leads to {address}, a {kind} address,"
                " while the provider's endpoint is not at one"
            )
    # `no_proxy` matches names, so the client must see the name wherever proxies are set.
    return CheckedLink(parsed, host, None if has_proxy else str(addresses[0]))


def _parse(url: str | httpx.URL) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
        netloc = parsed.netloc.decode("ascii")
    except (httpx.InvalidURL, TypeError, ValueError):
        # Not chained: the cause quotes the secret link.
        raise UnsafeUrl("link refused: it is not a readable URL") from None
    if parsed.scheme not in _DEFAULT_PORTS:
        raise UnsafeUrl(f"link to {parsed.host or 'no host'} refused: scheme {parsed.scheme!r} is not http or https")
    if not parsed.host or not netloc:
        raise UnsafeUrl("link refused: it names no host")
    if not _HOST.fullmatch(parsed.raw_host):
        raise UnsafeUrl("link refused: its host is neither a name nor an address")
    if parsed.userinfo:
        raise UnsafeUrl(f"link to {parsed.host} refused: it carries user info")
    if parsed.port is not None and not 0 < parsed.port < 2**16:
        raise UnsafeUrl(f"link to {parsed.host} refused: there is no port {parsed.port}")
    return parsed


def _format_host(url: httpx.URL) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return host if url.port is None else f"{host}:{url.port}"


def _without_translations(addresses: list[_Address]) -> list[_Address]:
    """Leave out the NAT64 form of IPv4 addresses that are there too: a DNS64 resolver adds it to each of them."""
    numbers = {int(address) for address in addresses if address.version == 4}
    return [
        address
        for address in addresses
        if address.version == 4 or address not in _NAT64 or int(address) & 0xFFFFFFFF not in numbers
    ]


def _parse_literal(host: str) -> list[_Address]:
    """Return the address that a host is a literal of, in any notation that resolvers accept (`127.1`, `0x7f000001`)."""
    try:
        return [ipaddress.ip_address(host.partition("%")[0])]
    except ValueError:
        pass
    try:
        return [ipaddress.IPv4Address(socket.inet_aton(host))]
    except (OSError, UnicodeError):
        return [ipaddress.IPv4Address("127.0.0.1")] if _is_localhost(host) else []


def _is_localhost(host: str) -> bool:
    name = host.rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost")


async def _resolve_host(host: str, port: int) -> list[_Address]:
    try:
        # An address in its usual notation needs no resolver, which would ask in a thread.
        return [ipaddress.ip_address(host.partition("%")[0])]
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise IncompleteDownload(f"host {host} of the link does not resolve: {error}") from error
    # A zone index (fe80::1%eth0) is no part of the address.
    addresses = [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in found]
    if not addresses:
        raise IncompleteDownload(f"host {host} of the link does not resolve to any address")
    # IPv4 first: many machines that run this have no IPv6 route.
    return sorted(_without_translations(list(dict.fromkeys(addresses))), key=lambda address: address.version)


async def _resolve_trusted(policy: LinkPolicy, addresses: list[_Address]) -> list[_Address]:
    """Return the addresses of the provider's endpoint; resolved only for a link to an address that is not public."""
    if policy.trusted_host is None or all(classify(address) is AddressKind.GLOBAL for address in addresses):
        return []
    return await _resolve_host(policy.trusted_host.strip("[]"), 0)


def _is_allowed(address: _Address, kind: AddressKind, trusted: list[_Address]) -> bool:
    if kind in (AddressKind.LOOPBACK, AddressKind.PRIVATE):
        return any(classify(endpoint) is kind for endpoint in trusted)
    return kind in (AddressKind.LINK_LOCAL, AddressKind.METADATA) and address in trusted


def show_source(source: str) -> str:
    """Return a path as it is, and a URL without what may be secret, for messages."""
    return redact(source) if is_web_address(source) else source
