from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_video.downloads.url_safety import AddressKind, LinkPolicy, check_url, classify, origin, redact
from prefect_video.errors import IncompleteDownload, UnsafeUrl

ANYWHERE = LinkPolicy()


def resolve_by_table(monkeypatch: pytest.MonkeyPatch, table: dict[str, list[str]]) -> None:
    """Make host names resolve to the addresses in a table, and addresses to themselves."""

    async def resolve(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        addresses = table.get(host) or [str(ipaddress.ip_address(host))]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/a.mp4",
        "gopher://example.com/",
        "javascript:alert(1)",
        "//example.com/a.mp4",
        "/a.mp4",
        "",
        "http://",
        "https:///a.mp4",
        "https://user@8.8.8.8/a.mp4",
        "https://user:pass@8.8.8.8/a.mp4",
        "https://8.8.8.8:0/a.mp4",
        "https://8.8.8.8:99999/a.mp4",
        "https://exa mple.com/",
        "https://8.8.8.8\\@127.0.0.1/",
        "https://8.8.8.8\r\nHost: x/",
        "https://8.8.8.8%2f@127.0.0.1/",
    ],
)
async def test_what_is_no_plain_web_link_is_refused(url: str) -> None:
    with pytest.raises(UnsafeUrl):
        await check_url(url, LinkPolicy(trusted_host="127.0.0.1"))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:8.8.8.8]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[2002:a00:1::]",
        "[2002:100::]",
        "[2002:808:808::]",
        "[2001::f7f7:f7f7]",
        "[64:ff9b::808:808]",
        "[64:ff9b:1::808:808]",
        "[::808:808]",
        "[5f00::1]",
        "192.88.99.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "169.254.1.1",
        "100.100.100.200",
        "100.64.0.1",
        "192.0.0.192",
        "[fe80::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fec0::1]",
        "0.0.0.0",
        "[::]",
        "224.0.0.1",
        "[ff02::1]",
        "240.0.0.1",
        "255.255.255.255",
        "198.18.0.1",
    ],
)
async def test_addresses_inside_are_refused(host: str) -> None:
    with pytest.raises((UnsafeUrl, IncompleteDownload)) as caught:
        await check_url(f"http://{host}/a.mp4?signature=hush", ANYWHERE, trust_env=False)
    assert "hush" not in str(caught.value)


async def test_a_public_link_is_pinned_to_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_by_table(monkeypatch, {"cdn.example.com": ["93.184.216.34", "93.184.216.35"]})
    link = await check_url("https://cdn.example.com:8443/a.mp4?s=hush", ANYWHERE, trust_env=False)
    assert link.address == "93.184.216.34"
    assert str(link.connect_url) == "https://93.184.216.34:8443/a.mp4?s=hush"
    assert link.host_header == "cdn.example.com:8443"
    assert link.origin == ("https", "cdn.example.com", 8443)
    assert "hush" not in repr(link)


async def test_one_bad_address_among_good_ones_refuses_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_by_table(monkeypatch, {"rebind.example.com": ["93.184.216.34", "10.0.0.1"]})
    with pytest.raises(UnsafeUrl, match=r"rebind\.example\.com refused: it leads to 10\.0\.0\.1, a private"):
        await check_url("https://rebind.example.com/", ANYWHERE, trust_env=False)


@pytest.mark.parametrize(
    ("trusted", "link", "allowed"),
    [
        ("127.0.0.1", "127.0.0.2", True),
        ("127.0.0.1", "[::1]", True),
        ("127.0.0.1", "10.0.0.1", False),
        ("127.0.0.1", "169.254.169.254", False),
        ("10.0.0.1", "192.168.7.7", True),
        ("10.0.0.1", "127.0.0.1", False),
        ("10.0.0.1", "169.254.169.254", False),
        ("10.0.0.1", "[fd00:ec2::254]", False),
        ("10.0.0.1", "224.0.0.1", False),
        ("169.254.7.7", "169.254.7.7", True),
        ("169.254.7.7", "169.254.7.8", False),
        ("169.254.7.7", "169.254.169.254", False),
        ("8.8.8.8", "10.0.0.1", False),
        ("8.8.8.8", "127.0.0.1", False),
        ("10.0.0.1", "8.8.8.8", True),
    ],
)
async def test_a_provider_inside_may_point_to_its_own_kind(trusted: str, link: str, allowed: bool) -> None:
    policy = LinkPolicy(trusted_host=trusted)
    if allowed:
        assert (await check_url(f"http://{link}/a.mp4", policy, trust_env=False)).address
    else:
        with pytest.raises(UnsafeUrl):
            await check_url(f"http://{link}/a.mp4", policy, trust_env=False)


async def test_a_name_that_does_not_resolve_may_be_tried_again() -> None:
    with pytest.raises(IncompleteDownload, match=r"nowhere\.invalid") as caught:
        await check_url("https://nowhere.invalid/a.mp4?s=hush", ANYWHERE, trust_env=False)
    assert caught.value.retryable


async def test_a_proxy_resolves_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example.com:3128")
    monkeypatch.setenv("no_proxy", "")
    link = await check_url("https://cdn.invalid/a.mp4", ANYWHERE)
    assert link.address is None
    assert str(link.connect_url) == "https://cdn.invalid/a.mp4"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # Exempt from proxying, so checked here, and reached by its name, by which it is exempt.
    with pytest.raises(UnsafeUrl):
        await check_url("https://127.0.0.1/", ANYWHERE)
    link = await check_url("https://127.0.0.1/", LinkPolicy(trusted_host="127.0.0.1"))
    assert link.address is None
    for inside in ("https://10.0.0.1/", "https://localhost/", "https://0x7f.1/", "https://[::1]/"):
        with pytest.raises(UnsafeUrl):
            await check_url(inside, ANYWHERE)


def test_the_python_version_has_no_say_in_what_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    def disagree(self: object) -> bool:
        raise AssertionError("what it answers differs by version")

    for version in (ipaddress.IPv4Address, ipaddress.IPv6Address):
        for name in [name for name in dir(version) if name.startswith("is_")]:
            monkeypatch.setattr(version, name, property(disagree))
    special = ("2002:100::", "2001:0:1::", "64:ff9b::808:808", "::ffff:8.8.8.8", "ff02::1", "192.88.99.1")
    assert {classify(ipaddress.ip_address(text)) for text in special} == {AddressKind.SPECIAL}
    public = ("8.8.8.8", "2606:4700::1111", "2a00:1450::1")
    assert {classify(ipaddress.ip_address(text)) for text in public} == {AddressKind.GLOBAL}


async def test_a_resolver_that_adds_translations_hides_no_public_host(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"cdn.example.com": ["64:ff9b::5db8:d822", "93.184.216.34"], "odd.example.com": ["64:ff9b::5db8:d822"]}
    resolve_by_table(monkeypatch, table)
    link = await check_url("https://cdn.example.com/a.mp4", ANYWHERE, trust_env=False)
    assert link.address == "93.184.216.34"
    with pytest.raises(UnsafeUrl, match="a reserved, multicast or translated address"):
        await check_url("https://odd.example.com/a.mp4", ANYWHERE, trust_env=False)


@given(st.ip_addresses())
def test_only_what_the_registry_calls_public_is_public(address: Any) -> None:
    if classify(address) is AddressKind.GLOBAL:
        assert address.is_global
        inside = (address.is_multicast, address.is_loopback, address.is_link_local, address.is_unspecified)
        assert not any(inside)


@given(st.ip_addresses(v=4).filter(lambda address: classify(address) is not AddressKind.GLOBAL))
def test_no_ipv6_spelling_makes_an_inner_address_public(inner: ipaddress.IPv4Address) -> None:
    number = int(inner)
    spellings = [
        int(ipaddress.IPv6Address("::ffff:0:0")) | number,
        int(ipaddress.IPv6Address("64:ff9b::")) | number,
        int(ipaddress.IPv6Address("2002::")) | number << 80,
        int(ipaddress.IPv6Address("2001::")) | (number ^ 0xFFFFFFFF),
    ]
    assert all(classify(ipaddress.IPv6Address(spelling)) is not AddressKind.GLOBAL for spelling in spellings)


@given(
    st.text(max_size=40)
    | st.builds(
        "{}://{}{}{}{}".format,
        st.sampled_from(["http", "https", "HTTP", "file", "ws", ""]),
        st.sampled_from(["", "user@", "user:pw@", "@", "%40"]),
        st.sampled_from(["127.0.0.1", "[::1]", "10.1", "0", "8.8.8.8", "[::ffff:a00:1]", "a\tb", "ⓔxample。com"]),
        st.sampled_from(["", ":80", ":0", ":x", ":70000"]),
        st.text(alphabet="/\\@#?%:.ab\r\n\0é", max_size=12),
    )
)
@settings(max_examples=300)
def test_no_spelling_of_a_link_gets_inside(url: str) -> None:
    async def check() -> None:
        loop = asyncio.get_running_loop()
        real_getaddrinfo = loop.getaddrinfo

        async def literal_only(host: str, port: int, **more: Any) -> Any:
            return await real_getaddrinfo(host, port, flags=socket.AI_NUMERICHOST, type=socket.SOCK_STREAM)

        loop.getaddrinfo = literal_only  # type: ignore[method-assign, assignment]
        link = await check_url(url, ANYWHERE, trust_env=False)
        assert link.url.scheme in ("http", "https")
        assert link.address is not None
        assert classify(ipaddress.ip_address(link.address)) is AddressKind.GLOBAL

    with contextlib.suppress(UnsafeUrl, IncompleteDownload):
        asyncio.run(check())


@given(st.text(max_size=60), st.text(alphabet="abc123", min_size=12, max_size=20))
def test_redacting_leaves_no_query_and_never_fails(path: str, secret: str) -> None:
    assert f"s={secret}" not in redact(f"https://user:{secret}@cdn.example.com/a.mp4?s={secret}#{path}")
    redact(path)


def test_an_origin_has_its_schemes_port() -> None:
    assert origin("https://Cdn.Example.com/x") == ("https", "cdn.example.com", 443)
    assert origin("http://cdn.example.com:443/x") != origin("https://cdn.example.com/x")
