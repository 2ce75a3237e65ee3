"""The HTTP client that every dialect shares: timeouts, connection limits, repeats of what costs nothing.

A paid request is sent exactly once (`ApiClient.send_once`); only requests that cost nothing are repeated
(`ApiClient.send`), with exponential backoff, full jitter and whatever delay the server asks for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import tenacity

from prefect_video.certificates import trusted_certificates
from prefect_video.errors import (
    GenerationEnded,
    InvalidInput,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    SubmitUnknown,
)
from prefect_video.retry_policy import retrying

Params = Mapping[str, str | int]
Part = tuple[str | None, str | bytes] | tuple[str | None, bytes, str]
"""A part of a form: file name (None for a plain field), content, and media type of a file."""

_SHORTEST_KEY: Final = 8
_FARTHEST: Final = timedelta(days=1)
"""A server's date that is farther from ours tells of no clock."""


@dataclass(frozen=True)
class HttpSettings:
    """How patient the client is.

    Attributes:
        connect_timeout_seconds: To open a connection.
        read_timeout_seconds: Between two bytes of an answer.
        submit_timeout_seconds: Between two bytes of the answer to a paid request; after it the outcome is unknown.
        submit_deadline_seconds: For a paid request as a whole, from the wait for a connection to the last byte of its
            answer: shorter than `StudioSettings.settle_seconds`.
        max_connections: Open at once to one provider.
        attempts: Tries of a request that costs nothing, the first included.
        backoff_seconds: Upper bound of the first random delay; doubles with each try.
        backoff_limit_seconds: Upper bound of any random delay.
    """

    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 30.0
    submit_timeout_seconds: float = 60.0
    submit_deadline_seconds: float = 80.0
    max_connections: int = 20
    attempts: int = 5
    backoff_seconds: float = 0.5
    backoff_limit_seconds: float = 30.0


def check_endpoint(endpoint: str, *, named: str) -> str:
    """A usable base URL without a trailing slash.

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
    """A key that can travel in a header.

    Raises:
        InvalidInput: It is empty or holds spaces, line breaks or non-ASCII characters.
    """
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidInput(f"{named}: the key is empty or holds characters that no key has; copy it again")
    return key


def retry_after_seconds(headers: Mapping[str, str], body: Any = None) -> float | None:
    """The longest delay that headers or an error body ask for, in seconds; None when neither does.

    Understands `Retry-After` as seconds and as a date, `retry-after-ms`, and `error.retry_after` of the body.
    """
    asked = [_number(headers.get("retry-after")), _date_delay(headers.get("retry-after"))]
    milliseconds = _number(headers.get("retry-after-ms"))
    asked.append(milliseconds / 1000 if milliseconds is not None else None)
    error = body.get("error") if isinstance(body, Mapping) else None
    for holder in (error, body):
        if isinstance(holder, Mapping):
            asked.append(_number(holder.get("retry_after")))
    return max((delay for delay in asked if delay is not None), default=None)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _date_delay(value: str | None) -> float | None:
    moment = None if _number(value) is not None else _date(value)
    return None if moment is None else max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _date(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class ApiClient:
    """One account's connection to one API.

    Args:
        provider: Name for errors.
        base_url: Address that paths are appended to.
        headers: Sent with every request; the key is in here and nowhere else.
        refuse: Makes the error of an unsuccessful answer, by the dialect's table.
        settings: Timeouts and repeats.
        transport: For tests at the transport boundary.
    """

    def __init__(
        self,
        *,
        provider: str,
        base_url: str,
        headers: Mapping[str, str],
        refuse: Callable[[httpx.Response], ProviderError],
        settings: HttpSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.settings = settings or HttpSettings()
        self._provider = provider
        self._base_url = base_url
        self._refuse = refuse
        self._key = _key_in(headers)
        self._ahead = timedelta(0)
        self._client = httpx.AsyncClient(
            headers=dict(headers),
            follow_redirects=False,
            timeout=httpx.Timeout(self.settings.read_timeout_seconds, connect=self.settings.connect_timeout_seconds),
            limits=httpx.Limits(
                max_connections=self.settings.max_connections,
                max_keepalive_connections=self.settings.max_connections,
            ),
            transport=transport,
            verify=trusted_certificates(),
        )

    async def send(self, method: str, path: str, *, params: Params | None = None, json: Any = None) -> httpx.Response:
        """Sends a request that costs nothing, repeating it on resets, timeouts, 429 and 5xx.

        Raises:
            ProviderError: What the answer meant, or `ProviderUnavailable` when there was none.
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
            # A quota is about buying: what costs nothing can be asked again, and what is paid is not given up for it.
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
        """Sends a paid request, exactly once.

        Args:
            method: HTTP method.
            path: Appended to the base URL.
            params: The query.
            json: The body, as JSON.
            form: The body as `multipart/form-data`, where a dialect wants that.
            headers: Besides those of the client.

        Raises:
            ProviderUnavailable: No connection could be opened, so nothing was sent.
            SubmitUnknown: It was sent and no usable answer came.
            ProviderError: What the answer meant.
        """
        connect = self.settings.connect_timeout_seconds
        try:
            async with asyncio.timeout(self.settings.submit_deadline_seconds):
                response = await self._answer(
                    method,
                    path,
                    params=params,
                    json=json,
                    files=list(form) if form is not None else None,
                    headers=headers,
                    timeout=httpx.Timeout(self.settings.submit_timeout_seconds, connect=connect, pool=connect),
                )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise self._unavailable(error) from error
        except (httpx.RequestError, TimeoutError) as error:
            raise SubmitUnknown(
                f"{self._provider}: the submit was sent and its answer was lost ({_cause(error)})",
                provider=self._provider,
            ) from error
        try:
            return self._successful(response)
        except GenerationEnded:
            raise
        except ProviderError as error:
            # Whatever a 5xx says, a gateway may have said it after the provider had accepted; a 303 says so itself.
            if _is_refusal(response.status_code) and not isinstance(error, ProviderUnavailable):
                raise
            raise SubmitUnknown(
                f"{error.message} (HTTP {response.status_code}): nobody knows whether the submit was accepted",
                provider=self._provider,
                request_id=error.request_id,
            ) from error

    def by_their_clock(self, moment: datetime) -> datetime:
        """A time of this machine's clock as the server's would have told it, going by the date of its last answer."""
        return moment + self._ahead

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._client.aclose()

    async def _send_free(self, method: str, path: str, params: Params | None, json: Any) -> httpx.Response:
        try:
            response = await self._answer(method, path, params=params, json=json)
        except httpx.RequestError as error:
            raise self._unavailable(error) from error
        return self._successful(response)

    async def _answer(self, method: str, path: str, **request: Any) -> httpx.Response:
        response = await self._client.request(method, self._base_url + path, **request)
        told = _date(response.headers.get("date"))
        if told is not None and abs(ahead := told - datetime.now(UTC)) < _FARTHEST:
            self._ahead = ahead
        return self._without_key(response)

    def _without_key(self, response: httpx.Response) -> httpx.Response:
        """The answer, with the key taken out should the server quote it: its words go into logs, reports and rows."""
        if not self._key or self._key not in response.content:
            return response
        of_the_body = ("content-encoding", "content-length", "transfer-encoding")
        return httpx.Response(
            response.status_code,
            headers=[(name, value) for name, value in response.headers.multi_items() if name not in of_the_body],
            content=response.content.replace(self._key, b"[key]"),
            request=response.request,
        )

    def _successful(self, response: httpx.Response) -> httpx.Response:
        if not response.is_success:
            raise self._refuse(response)
        return response

    def _unavailable(self, error: httpx.RequestError) -> ProviderUnavailable:
        host = urlsplit(self._base_url).netloc
        return ProviderUnavailable(
            f"{self._provider}: no answer from {host} ({_cause(error)})", provider=self._provider
        )


def _key_in(headers: Mapping[str, str]) -> bytes:
    key = headers.get("Authorization", "").rpartition(" ")[2]
    # A shorter one is no secret, and may be a part of any word.
    return key.encode() if len(key) >= _SHORTEST_KEY else b""


def _cause(error: httpx.RequestError | TimeoutError) -> str:
    # Some transport errors have an empty message; their class still says what happened.
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _is_refusal(status: int) -> bool:
    """Whether a paid request was turned down for certain: a 4xx, or a redirect that was to be repeated elsewhere."""
    return 400 <= status < 500 or status in (301, 307, 308)
