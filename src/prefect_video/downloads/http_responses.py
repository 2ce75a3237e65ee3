"""Interpretation of HTTP responses to a download: redirects, content types, versions, ranges."""

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
# S3 and compatible servers answer 400 or 403 to an expired link, others 401, 404 or 410.
_EXPIRED: Final = frozenset({400, 401, 403, 404, 410})
_TRANSIENT: Final = frozenset({408, 416, 425, 429, 500, 502, 503, 504})
UNREADY: Final = frozenset({202, 404, 409, 425})
"""Statuses of hosts that do not have a finished file yet."""
_DENIED: Final = frozenset({401, 403})
_NOT_VIDEO: Final = ("text/", "image/", "application/json", "application/xml", "application/problem+json")
_MAX_ERROR_BODY_BYTES: Final = 8192
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
    """Open the final response behind a link, its body unread; every redirect is checked like the link itself.

    SGLang answers 400 with a text that contains the link to the video in a bucket. That text comes from the API itself
    and only to a request with the key, so the link is followed as a redirect.

    Args:
        client: Follows no redirects by itself.
        url: The link.
        policy: The addresses it may lead to.
        headers: Sent to every host.
        secret_headers: Sent to `secret_origin` only.
        secret_origin: Scheme, host and port.

    Yields:
        The response; it is closed when the block ends.

    Raises:
        UnsafeUrl: The link or a redirect may not be followed.
        IncompleteDownload: A host does not resolve, or a redirect has no target.
        httpx.TransportError: The connection broke.
    """
    target: str | httpx.URL = url
    for _ in range(policy.max_redirects + 1):
        link = await check_url(target, policy, trust_env=client.trust_env)
        secret = secret_headers if link.origin == secret_origin else {}
        request = client.build_request(
            "GET",
            link.connect_url,
            # One request per connection: the pool keys connections by address, and another host at the same
            # address must present a certificate of its own.
            headers={**secret, **headers, "Host": link.host_header, "Connection": "close"},
            extensions={"sni_hostname": link.host},
        )
        try:
            response = await client.send(request, stream=True)
        except httpx.InvalidURL:
            # httpx parses a redirect's target even when it does not follow it. The cause quotes the target.
            raise _build_redirect_error(link) from None
        try:
            # The jar is keyed by address too: a cookie kept here would be sent to another host behind it.
            client.cookies.clear()
            if response.status_code in _REDIRECTS:
                target = _resolve_redirect(link, response)
            elif secret and response.status_code == 400 and (linked := await _find_link_in_detail(response)):
                target = linked
            else:
                yield response
                return
        finally:
            await response.aclose()
    raise UnsafeUrl(f"{redact(url)} refused: more than {policy.max_redirects} redirects")


def raise_for_status(response: httpx.Response, where: str) -> None:
    """Raise unless the status is that of a file: 200 or 206.

    Args:
        response: The final response, its body unread.
        where: The redacted link, for the message.

    Raises:
        LinkExpired: The link has expired.
        IncompleteDownload: The response is anything else than a file.
    """
    status = response.status_code
    if status in _EXPIRED:
        raise LinkExpired(
            f"{where}: the link has expired (HTTP {status}); retrieve the generation for a fresh one",
            denied=status in _DENIED,
        )
    if status not in (200, 206):
        error = IncompleteDownload(f"{where}: answered HTTP {status} instead of a video")
        error.retryable = status in _TRANSIENT
        error.retry_after = _parse_retry_after(response)
        raise error


def describe_foreign_body(response: httpx.Response) -> str:
    """Return what the body of a response is instead of a video, as far as its headers explain it.

    Headers do not decide: object stores and gateways put `aws-chunked`, `UTF-8` or `text/plain` on whole videos.
    """
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type.startswith(_NOT_VIDEO):
        return f"answered {content_type} instead of a video"
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        return f"the body is {encoding}-encoded, which the request declined"
    return "the body is not an MP4, nor any other video"


def parse_version(response: httpx.Response) -> Version:
    """Return the version of the remote file that a response describes."""
    etag = response.headers.get("ETag", "").strip()
    return Version(
        # A weak tag promises the same meaning, not the same bytes.
        etag=etag if etag and not etag.startswith("W/") else None,
        last_modified=response.headers.get("Last-Modified"),
        total=_parse_total_bytes(response),
    )


def parse_first_byte(response: httpx.Response) -> int | None:
    """Return the position in the file of the first byte of a 206 response; None where the header does not say."""
    match = _match_content_range(response)
    return int(match[1]) if match and match[1] else None


def _parse_total_bytes(response: httpx.Response) -> int | None:
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None
    match = _match_content_range(response)
    return int(match[3]) if match and match[3] != "*" else None


def _match_content_range(response: httpx.Response) -> re.Match[str] | None:
    return _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())


async def _find_link_in_detail(response: httpx.Response) -> str | None:
    """Return the only link in the `detail` of an error response; None where there is none or more than one."""
    length = response.headers.get("Content-Length", "")
    if not (length.isdecimal() and int(length) <= _MAX_ERROR_BODY_BYTES):
        return None
    try:
        detail = json.loads(await response.aread())["detail"]
    except (ValueError, TypeError, KeyError):
        return None
    links = _LINK.findall(detail) if isinstance(detail, str) else []
    return links[0] if len(links) == 1 else None


def _resolve_redirect(link: CheckedLink, response: httpx.Response) -> httpx.URL:
    location = response.headers.get("Location")
    if not location:
        raise IncompleteDownload(f"{redact(link.url)}: answered a redirect without a target")
    try:
        return link.url.join(location)
    except (httpx.InvalidURL, ValueError):
        raise _build_redirect_error(link) from None


def _build_redirect_error(link: CheckedLink) -> UnsafeUrl:
    """Return the error for an unreadable redirect; raise it without its cause, which quotes the secret target."""
    return UnsafeUrl(f"{redact(link.url)} refused: it redirects to something that is no readable URL")


def _parse_retry_after(response: httpx.Response) -> float | None:
    """Return the `Retry-After` in seconds, given as a number or as a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        retry_at = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    aware = retry_at if retry_at.tzinfo else retry_at.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
