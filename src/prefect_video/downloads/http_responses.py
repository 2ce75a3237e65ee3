"""What a server's answer to a download means: redirects, kinds of content, versions, parts."""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import httpx

from prefect_video.downloads.partial_file import Version
from prefect_video.downloads.url_safety import CheckedLink, LinkPolicy, check_url, redact
from prefect_video.errors import IncompleteDownload, LinkExpired, UnsafeUrl

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# S3 and its likes answer 400 or 403 to a link whose time has run out; others 401, 404 or 410.
_EXPIRED: Final = frozenset({400, 401, 403, 404, 410})
_PASSING: Final = frozenset({408, 416, 425, 429, 500, 502, 503, 504})
_NOT_VIDEO: Final = ("text/", "image/", "application/json", "application/xml", "application/problem+json")
_LARGEST_REFUSAL_BYTES: Final = 8192
_LINK: Final = re.compile(r"https?://[^\s\"'<>]+")
_CONTENT_RANGE: Final = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@asynccontextmanager
async def open_following_redirects(
    client: httpx.AsyncClient,
    url: str,
    policy: LinkPolicy,
    *,
    headers: Mapping[str, str],
    secret_headers: Mapping[str, str],
    secret_origin: tuple[str, str, int],
) -> AsyncIterator[httpx.Response]:
    """The last answer behind a link, unread; every redirect is checked like the link itself.

    SGLang says in the words of a 400 that the video lies in a bucket, and where: told by the API itself, to whoever has
    the key, that is a redirect like any other.

    Args:
        client: Follows no redirects of its own.
        url: The link.
        policy: What it may lead to.
        headers: Sent to every host.
        secret_headers: Sent to `secret_origin` only.
        secret_origin: Scheme, host and port.

    Raises:
        UnsafeUrl: The link or a redirect may not be followed.
        IncompleteDownload: A host does not resolve, or a redirect leads nowhere.
        httpx.TransportError: The connection broke.
    """
    target: str | httpx.URL = url
    for _ in range(policy.max_redirects + 1):
        link = await check_url(target, policy, trust_env=client.trust_env)
        secret = secret_headers if link.origin == secret_origin else {}
        request = client.build_request(
            "GET",
            link.connect_url,
            # One connection, one request: the pool knows connections by address, and the next host at
            # this address must be asked for a certificate of its own.
            headers={**secret, **headers, "Host": link.host_header, "Connection": "close"},
            extensions={"sni_hostname": link.host},
        )
        try:
            response = await client.send(request, stream=True)
        except httpx.InvalidURL:
            # httpx reads a redirect's target even when it is not to follow it.
            raise _unreadable_redirect(link) from None
        try:
            # Cookies are kept by address too, so none may outlive its answer.
            client.cookies.clear()
            if response.status_code in _REDIRECTS:
                target = _next_target(link, response)
            elif secret and response.status_code == 400 and (told := await _link_in_words(response)):
                target = told
            else:
                yield response
                return
        finally:
            await response.aclose()
    raise UnsafeUrl(f"{redact(url)} refused: more than {policy.max_redirects} redirects")


def raise_for_response(response: httpx.Response, where: str) -> None:
    """Lets only a video pass: 200 or 206, unencoded, of a type that a video may have.

    Raises:
        LinkExpired: The link has died.
        IncompleteDownload: Anything else.
    """
    status = response.status_code
    if status in _EXPIRED:
        raise LinkExpired(f"{where}: the link has died (HTTP {status}); retrieve the generation for a fresh one")
    if status not in (200, 206):
        broken = IncompleteDownload(f"{where}: answered HTTP {status} instead of a video")
        broken.retryable = status in _PASSING
        broken.retry_after = _retry_after(response)
        raise broken
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind.startswith(_NOT_VIDEO):
        raise IncompleteDownload(f"{where}: answered {kind} instead of a video")
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise IncompleteDownload(f"{where}: the body is {coding}-encoded although that was declined")


def version_of(response: httpx.Response) -> Version:
    """Which version of the file an answer is about."""
    etag = response.headers.get("ETag", "").strip()
    return Version(
        # A weak tag does not promise the same bytes.
        etag=etag if etag and not etag.startswith("W/") else None,
        last_modified=response.headers.get("Last-Modified"),
        total=_total(response),
    )


def first_byte(response: httpx.Response) -> int | None:
    """Where the part in a 206 answer begins."""
    match = _content_range(response)
    return int(match[1]) if match and match[1] else None


def _total(response: httpx.Response) -> int | None:
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None
    match = _content_range(response)
    return int(match[3]) if match and match[3] != "*" else None


def _content_range(response: httpx.Response) -> re.Match[str] | None:
    return _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())


async def _link_in_words(response: httpx.Response) -> str | None:
    """The one link in the `detail` of a refusal."""
    length = response.headers.get("Content-Length", "")
    if not (length.isdecimal() and int(length) <= _LARGEST_REFUSAL_BYTES):
        return None
    try:
        detail = json.loads(await response.aread())["detail"]
    except (ValueError, TypeError, KeyError):
        return None
    links = _LINK.findall(detail) if isinstance(detail, str) else []
    return links[0] if len(links) == 1 else None


def _next_target(link: CheckedLink, response: httpx.Response) -> httpx.URL:
    location = response.headers.get("Location")
    if not location:
        raise IncompleteDownload(f"{redact(link.url)}: answered a redirect that leads nowhere")
    try:
        return link.url.join(location)
    except (httpx.InvalidURL, ValueError):
        raise _unreadable_redirect(link) from None


def _unreadable_redirect(link: CheckedLink) -> UnsafeUrl:
    """To be raised without its cause, which quotes the target."""
    return UnsafeUrl(f"{redact(link.url)} refused: it redirects to something that is no readable URL")


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the server asks to wait, given as a number or as a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
