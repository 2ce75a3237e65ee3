"""HTTP client of all dialects: timeouts, connection limits, and repeats of requests that cost nothing.

A paid request is sent exactly once (`ApiClient.send_once`); only requests that cost nothing are repeated
(`ApiClient.send`), with exponential back-off, full jitter and at least the delay that the server requests.
"""

from __future__ import annotations

import asyncio
import json as json_format
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import tenacity

from prefect_video._proxies import check_proxies, range_mounts
from prefect_video._redaction import Redaction, redaction_for
from prefect_video._tls import trusted_certificates
from prefect_video.errors import (
    GenerationEnded,
    InvalidInput,
    InvalidResponse,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    SubmitOutcomeUnknown,
)
from prefect_video.providers.http_bodies import (
    ACCEPTED_ENCODINGS,
    MAX_POLL_DELAY_SECONDS,
    MAX_RETRY_AFTER_SECONDS,
    decode_json,
    read_body,
    usable_number,
)
from prefect_video.retry_policy import retrying

Params = Mapping[str, str | int]
Part = tuple[str | None, str | bytes] | tuple[str | None, bytes, str]
"""Part of a form: file name (None for a plain field), content, and media type of a file."""

_ENCODING_HEADERS: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})
_MAX_CLOCK_OFFSET: Final = timedelta(days=1)
"""A server's date that is farther from ours is no reading of a clock, but a cached or made-up one."""
_STALE_SECONDS: Final = 5.0
"""Time by which a response must be dated before others of the same server for it to come from a cache."""
_STALE: Final = "prefect_video.is_stale"
"""Extension of a response that a cache has kept."""


@dataclass(frozen=True)
class HttpSettings:
    """Timeouts, repeats and limits of the client.

    Attributes:
        connect_timeout_seconds: Time to open a connection.
        read_timeout_seconds: Time between two bytes of a response.
        submit_timeout_seconds: Time between two bytes of the response to a paid request; after it the outcome is
            unknown.
        submit_deadline_seconds: Time for a paid request as a whole, from the wait for a connection to the last byte of
            its response. Shorter than `Settings.settle_seconds`, after which a submit is searched for.
        max_connections: Open connections to one provider.
        keepalive_seconds: Idle time after which a connection is not used again. Common servers close theirs after 5 s,
            and a paid request that meets the close gets no answer.
        attempts: Attempts of a request that costs nothing, the first included.
        backoff_seconds: Upper bound of the first random delay; doubles with each attempt.
        backoff_limit_seconds: Upper bound of any random delay.
        answer_limit_bytes: Size of the largest response that is read, after inflation.
    """

    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 30.0
    submit_timeout_seconds: float = 60.0
    submit_deadline_seconds: float = 80.0
    max_connections: int = 40
    keepalive_seconds: float = 2.0
    attempts: int = 5
    backoff_seconds: float = 0.5
    backoff_limit_seconds: float = 30.0
    answer_limit_bytes: int = 8 * 1024 * 1024


def check_endpoint(endpoint: str, *, named: str) -> str:
    """Return a base URL without a trailing slash.

    Args:
        endpoint: The URL as configured.
        named: Name of the setting, for the message.

    Raises:
        InvalidInput: It is not an http(s) URL with a host, or it holds credentials.
    """
    parts = urlsplit(endpoint.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(f"{named}: {endpoint!r} is not an http(s) URL such as https://host/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidInput(f"{named}: give the address alone, without credentials, query or fragment")
    return endpoint.strip().rstrip("/")


def check_key(key: str, *, named: str) -> str:
    """Return a key that can be sent in a header.

    Args:
        key: The key as configured.
        named: Name of the setting, for the message.

    Raises:
        InvalidInput: It is empty or holds spaces, line breaks or non-ASCII characters.
    """
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidInput(f"{named}: the key is empty or holds characters that no key has; copy it again")
    return key


def retry_after_seconds(headers: Mapping[str, str], body: Any = None) -> float | None:
    """Return the longest delay that headers or an error body request, in seconds; None when neither does.

    `Retry-After` may be seconds or a date; `retry-after-ms` and the body's `error.retry_after` count too. Values that
    are no number, or negative, are ignored; none is longer than `MAX_RETRY_AFTER_SECONDS`.
    """
    requested = [usable_number(headers.get("retry-after")), _delay_until(headers.get("retry-after"))]
    milliseconds = usable_number(headers.get("retry-after-ms"))
    requested.append(milliseconds / 1000 if milliseconds is not None else None)
    error = body.get("error") if isinstance(body, Mapping) else None
    for holder in (error, body):
        if isinstance(holder, Mapping):
            requested.append(usable_number(holder.get("retry_after")))
    longest = max((delay for delay in requested if delay is not None), default=None)
    return None if longest is None else min(longest, MAX_RETRY_AFTER_SECONDS)


def poll_delay_seconds(headers: Mapping[str, str]) -> float | None:
    """Return the delay that a successful response requests before the next poll, in seconds; None when it does not."""
    requested = retry_after_seconds(headers)
    return None if requested is None else min(requested, MAX_POLL_DELAY_SECONDS)


def _delay_until(value: str | None) -> float | None:
    """Return the seconds until a header's date, 0 for a past one; None where the header is no date."""
    moment = None if usable_number(value) is not None else _parse_date(value)
    return None if moment is None else max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _parse_date(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class ApiClient:
    """HTTP client of one account at one API.

    Args:
        provider: Name of the provider, for errors.
        base_url: Address to which paths are appended.
        headers: Sent with every request; the key is in here and nowhere else.
        error_from: Builds the error of an unsuccessful response, by the dialect's table. Its `accepted` decides about
            a paid request: only False, for a rejection that keeps to the dialect's contract, allows another send.
        settings: Timeouts and repeats.
        transport: For tests at the transport boundary.

    Raises:
        InvalidInput: A variable of the environment cannot be used.
    """

    def __init__(
        self,
        *,
        provider: str,
        base_url: str,
        headers: Mapping[str, str],
        error_from: Callable[[httpx.Response], ProviderError],
        settings: HttpSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.settings = settings or HttpSettings()
        self._provider = provider
        self._base_url = base_url
        self._error_from = error_from
        self._redaction = redaction_for(headers.get("Authorization"))
        self._clock_offset = timedelta(0)
        self.clock_offset: timedelta | None = None
        """Offset of the server's clock from this machine's by its last `Date`, however large; None without one."""
        check_proxies()
        self._dates: deque[float] = deque(maxlen=20)
        limits = httpx.Limits(
            max_connections=self.settings.max_connections,
            max_keepalive_connections=self.settings.max_connections,
            keepalive_expiry=self.settings.keepalive_seconds,
        )
        self._client = httpx.AsyncClient(
            # A cached list may lack what was accepted since.
            headers={"Accept-Encoding": ACCEPTED_ENCODINGS, "Cache-Control": "no-cache", **headers},
            # A redirect would take the key to another host, and send a paid request twice.
            follow_redirects=False,
            timeout=httpx.Timeout(self.settings.read_timeout_seconds, connect=self.settings.connect_timeout_seconds),
            limits=limits,
            transport=transport,
            mounts=range_mounts(trusted_certificates(), limits) if transport is None else None,
            verify=trusted_certificates(),
        )

    async def send(self, method: str, path: str, *, params: Params | None = None, json: Any = None) -> httpx.Response:
        """Send a request that costs nothing, and repeat it on resets, timeouts, 429 and 5xx.

        Raises:
            ProviderError: The response was unsuccessful; `ProviderUnavailable` when there was none, `InvalidResponse`
                for one that is too large, nested too deeply or damaged.
        """
        settings = self.settings
        attempt = retrying(
            settings.backoff_seconds,
            settings.backoff_limit_seconds,
            stop=tenacity.stop_after_attempt(settings.attempts),
        )
        try:
            response: httpx.Response = await attempt(self._send_free, method, path, params, json)
        except QuotaExhausted as error:
            # A quota is about buying. A free request can be sent again, and a paid generation must not be given up
            # because the quota of the month is used up.
            raise RateLimited(
                error.message, provider=error.provider, request_id=error.request_id, retry_after=error.retry_after
            ) from error
        return response

    async def send_once(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        json: Any = None,
        form: Sequence[tuple[str, Part]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a paid request, exactly once.

        Args:
            method: HTTP method.
            path: Appended to the base URL.
            params: The query.
            json: The body, as JSON.
            form: The body, as `multipart/form-data`.
            headers: Headers besides those of the client.

        Raises:
            ProviderUnavailable: No connection could be opened, so that nothing was sent.
            SubmitOutcomeUnknown: It was sent and got no usable response.
            ProviderError: The response rejects the request; nothing was accepted.
        """
        multipart = list(form) if form is not None else None
        connect = self.settings.connect_timeout_seconds
        timeout = httpx.Timeout(self.settings.submit_timeout_seconds, connect=connect, pool=connect)
        # A context, not a function around the request: the stack of a paid request stays nine calls deep.
        async with self._submit_errors():
            response = await self._request(
                method, path, params=params, json=json, files=multipart, headers=headers, timeout=timeout
            )
        try:
            return self._raise_for_status(response)
        except GenerationEnded:
            # Accepted for certain, and over already.
            raise
        except ProviderError as error:
            # A gateway's response, a redirect or a 5xx may have come after the provider had accepted.
            if error.accepted is False and not isinstance(error, ProviderUnavailable):
                raise
            raise self._outcome_unknown(error, f" (HTTP {response.status_code})") from error

    def to_server_time(self, moment: datetime) -> datetime:
        """Convert a time of this machine's clock to the server's, by the `Date` of its last response."""
        return moment + self._clock_offset

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _send_free(self, method: str, path: str, params: Params | None, json: Any) -> httpx.Response:
        try:
            response = await self._request(method, path, params=params, json=json)
        except httpx.RequestError as error:
            raise self._unavailable(error) from self._redaction.cause(error)
        try:
            return self._raise_for_status(response)
        except ProviderError as error:
            # A paid generation is waited for, so that a delay of days, as for a quota, is not obeyed here.
            error.retry_after = None if error.retry_after is None else min(error.retry_after, MAX_POLL_DELAY_SECONDS)
            raise

    @asynccontextmanager
    async def _submit_errors(self) -> AsyncIterator[None]:
        """Limit a paid request to its deadline, and say of each error if anything can have been sent.

        Raises:
            ProviderUnavailable: No connection could be opened, so that nothing was sent.
            SubmitOutcomeUnknown: It was sent and got no readable response.
        """
        try:
            async with asyncio.timeout(self.settings.submit_deadline_seconds):
                yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            # The only errors that prove that no byte of the request has left.
            raise self._unavailable(error) from self._redaction.cause(error)
        except (httpx.RequestError, TimeoutError) as error:
            raise SubmitOutcomeUnknown(
                f"{self._provider}: the submit was sent and its answer was lost ({self._describe_cause(error)})",
                provider=self._provider,
            ) from self._redaction.cause(error)
        except InvalidResponse as error:
            raise self._outcome_unknown(error) from error

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request and read its response within bounds."""
        request = self._client.build_request(method, self._base_url + path, **options)
        response = await self._client.send(request, stream=True)
        try:
            is_stale = self._is_stale(response)
            if not is_stale:
                self._record_clock(response)
            body = await read_body(response, limit=self.settings.answer_limit_bytes, provider=self._provider)
        finally:
            await response.aclose()
        # A server may quote the key, and its messages go into logs, reports and the ledger.
        return httpx.Response(
            response.status_code,
            headers=[
                (name, self._redaction.text(value))
                for name, value in response.headers.multi_items()
                if name not in _ENCODING_HEADERS
            ],
            content=_redact_body(body, self._redaction),
            request=request,
            extensions={_STALE: is_stale},
        )

    def _is_stale(self, response: httpx.Response) -> bool:
        """Return whether a response comes from a cache: it has an age, or its date stands still."""
        if (usable_number(response.headers.get("age")) or 0) > 0:
            return True
        server_time = _parse_date(response.headers.get("date"))
        if server_time is None:
            return False
        # Against the monotonic clock, which cannot be set.
        date = server_time.timestamp() - time.monotonic()
        self._dates.append(date)
        return date < max(self._dates) - _STALE_SECONDS

    def _record_clock(self, response: httpx.Response) -> None:
        server_time = _parse_date(response.headers.get("date"))
        if server_time is None:
            return
        self.clock_offset = server_time - datetime.now(UTC)
        if abs(self.clock_offset) < _MAX_CLOCK_OFFSET:
            self._clock_offset = self.clock_offset

    def _outcome_unknown(self, error: ProviderError, detail: str = "") -> SubmitOutcomeUnknown:
        return SubmitOutcomeUnknown(
            f"{error.message}{detail}: it is unknown whether the submit was accepted",
            provider=self._provider,
            generation_id=error.generation_id,
            request_id=error.request_id,
        )

    def _raise_for_status(self, response: httpx.Response) -> httpx.Response:
        if not response.is_success:
            raise self._error_from(response)
        return response

    def _unavailable(self, error: httpx.RequestError) -> ProviderUnavailable:
        host = urlsplit(self._base_url).netloc
        return ProviderUnavailable(
            f"{self._provider}: no answer from {host} ({self._describe_cause(error)})", provider=self._provider
        )

    def _describe_cause(self, error: httpx.RequestError | TimeoutError) -> str:
        # Some transport errors have no message, but their class is meaningful; others quote the server's bytes.
        message = self._redaction.text(str(error))
        return f"{type(error).__name__}: {message}" if message else type(error).__name__


def is_stale(response: httpx.Response) -> bool:
    """Return whether a response was served from a cache that ignores `Cache-Control: no-cache`."""
    return bool(response.extensions.get(_STALE, False))


def _redact_body(body: bytes, redaction: Redaction) -> bytes:
    """Return a body without the key, found after decoding: in JSON it may be escaped in many ways."""
    try:
        document = decode_json(body)
    except ValueError:
        text = body.decode(errors="replace")
        redacted = redaction.text(text)
        return body if redacted == text else redacted.encode()
    cleaned = redaction.document(document)
    return body if cleaned == document else json_format.dumps(cleaned).encode()
