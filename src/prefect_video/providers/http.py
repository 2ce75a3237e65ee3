"""The HTTP client that every dialect shares: timeouts, connection limits, repeats of what costs nothing.

A paid request is sent exactly once (`ApiClient.send_once`); only requests that cost nothing are repeated
(`ApiClient.send`), with exponential backoff, full jitter and whatever delay the server asks for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import tenacity

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
    read_body,
    usable_number,
)
from prefect_video.retry_policy import retrying

Params = Mapping[str, str | int]
Part = tuple[str | None, str | bytes] | tuple[str | None, bytes, str]
"""A part of a form: file name (None for a plain field), content, and media type of a file."""

_SHORTEST_KEY: Final = 8
_OF_THE_BODY: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})
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
            answer: shorter than `Settings.settle_seconds`.
        max_connections: Open at once to one provider.
        attempts: Tries of a request that costs nothing, the first included.
        backoff_seconds: Upper bound of the first random delay; doubles with each try.
        backoff_limit_seconds: Upper bound of any random delay.
        answer_limit_bytes: The largest answer that is read, after inflation.
    """

    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 30.0
    submit_timeout_seconds: float = 60.0
    submit_deadline_seconds: float = 80.0
    max_connections: int = 20
    attempts: int = 5
    backoff_seconds: float = 0.5
    backoff_limit_seconds: float = 30.0
    answer_limit_bytes: int = 8 * 1024 * 1024


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

    Understands `Retry-After` as seconds and as a date, `retry-after-ms`, and `error.retry_after` of the body. What is
    no number, or a negative one, is not asked for; nothing is longer than `MAX_RETRY_AFTER_SECONDS`.
    """
    asked = [usable_number(headers.get("retry-after")), _date_delay(headers.get("retry-after"))]
    milliseconds = usable_number(headers.get("retry-after-ms"))
    asked.append(milliseconds / 1000 if milliseconds is not None else None)
    error = body.get("error") if isinstance(body, Mapping) else None
    for holder in (error, body):
        if isinstance(holder, Mapping):
            asked.append(usable_number(holder.get("retry_after")))
    longest = max((delay for delay in asked if delay is not None), default=None)
    return None if longest is None else min(longest, MAX_RETRY_AFTER_SECONDS)


def poll_delay_seconds(headers: Mapping[str, str]) -> float | None:
    """The delay that a good answer asks for before the next look, in seconds; None when it asks for none."""
    asked = retry_after_seconds(headers)
    return None if asked is None else min(asked, MAX_POLL_DELAY_SECONDS)


def _date_delay(value: str | None) -> float | None:
    moment = None if usable_number(value) is not None else _date(value)
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
        refuse: Makes the error of an unsuccessful answer, by the dialect's table. Its `accepted` decides about a paid
            request: only False, for a refusal in the dialect's own words, lets it be sent again.
        settings: Timeouts and repeats.
        transport: For tests at the transport boundary.
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
        self._refuse = error_from
        self._key = _key_in(headers)
        self._ahead = timedelta(0)
        self._client = httpx.AsyncClient(
            headers={"Accept-Encoding": ACCEPTED_ENCODINGS, **headers},
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
            ProviderError: What the answer meant, `ProviderUnavailable` when there was none, `InvalidResponse` for one
                that is out of bounds.
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
            SubmitOutcomeUnknown: It was sent and no usable answer came.
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
            raise SubmitOutcomeUnknown(
                f"{self._provider}: the submit was sent and its answer was lost ({_cause(error)})",
                provider=self._provider,
            ) from error
        except InvalidResponse as error:
            raise self._unknown(error) from error
        try:
            return self._successful(response)
        except GenerationEnded:
            raise
        except ProviderError as error:
            # Whatever a gateway, a redirect or a 5xx says, it may say it after the provider had accepted.
            if error.accepted is False and not isinstance(error, ProviderUnavailable):
                raise
            raise self._unknown(error, f" (HTTP {response.status_code})") from error

    def to_server_time(self, moment: datetime) -> datetime:
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
        try:
            return self._successful(response)
        except ProviderError as error:
            error.retry_after = None if error.retry_after is None else min(error.retry_after, MAX_POLL_DELAY_SECONDS)
            raise

    async def _answer(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Sends a request and reads its answer within bounds."""
        sent = self._client.build_request(method, self._base_url + path, **request)
        response = await self._client.send(sent, stream=True)
        try:
            self._note_clock(response)
            body = await read_body(response, limit=self.settings.answer_limit_bytes, provider=self._provider)
        finally:
            await response.aclose()
        # The key is taken out should the server quote it: its words go into logs, reports and rows.
        return httpx.Response(
            response.status_code,
            headers=[(name, value) for name, value in response.headers.multi_items() if name not in _OF_THE_BODY],
            content=body.replace(self._key, b"[key]") if self._key else body,
            request=sent,
        )

    def _note_clock(self, response: httpx.Response) -> None:
        told = _date(response.headers.get("date"))
        if told is not None and abs(ahead := told - datetime.now(UTC)) < _FARTHEST:
            self._ahead = ahead

    def _unknown(self, error: ProviderError, detail: str = "") -> SubmitOutcomeUnknown:
        return SubmitOutcomeUnknown(
            f"{error.message}{detail}: nobody knows whether the submit was accepted",
            provider=self._provider,
            request_id=error.request_id,
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
