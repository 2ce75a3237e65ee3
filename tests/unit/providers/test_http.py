"""The HTTP client at its transport boundary: repeated requests, requests that are never repeated, and delays."""

import asyncio
import contextlib
import gzip
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_video import InvalidInput
from prefect_video.errors import (
    AuthenticationFailed,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    SubmitOutcomeUnknown,
)
from prefect_video.providers.http import ApiClient, HttpSettings, check_endpoint, check_key, retry_after_seconds
from prefect_video.providers.sora import responses
from prefect_video.session import Settings

FAST = HttpSettings(backoff_seconds=0.001, backoff_limit_seconds=0.002, attempts=4)

Answer = Callable[[httpx.Request], httpx.Response]


class Server:
    """Answers at the transport boundary, one answer after the other; the last one again and again."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.requests: list[httpx.Request] = []
        self._answers = list(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def client(server: Server) -> ApiClient:
    return ApiClient(
        provider="sora",
        base_url="https://api.example/v1/sora",
        headers={"Authorization": "Bearer sk-secret"},
        error_from=lambda response: responses.read_error(response, provider="sora"),
        settings=FAST,
        transport=httpx.MockTransport(server),
    )


def build_refusal(status: int, **error: object) -> httpx.Response:
    return httpx.Response(status, json={"error": {"type": "some_error", "message": "no", **error}})


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ReadError("reset"),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        build_refusal(500),
        build_refusal(429),
        build_refusal(503),
    ],
)
async def test_free_requests_are_repeated(trouble: httpx.Response | Exception) -> None:
    server = Server(trouble, trouble, httpx.Response(200, json={}))
    assert (await client(server).send("GET", "/generations")).status_code == 200
    assert len(server.requests) == 3


async def test_they_are_not_repeated_indefinitely() -> None:
    server = Server(httpx.ReadError(""))
    with pytest.raises(ProviderUnavailable, match=r"api\.example \(ReadError\)"):
        await client(server).send("GET", "/generations")
    assert len(server.requests) == FAST.attempts


async def test_what_was_refused_is_not_repeated() -> None:
    server = Server(build_refusal(400))
    with pytest.raises(RequestRejected):
        await client(server).send("GET", "/generations")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("trouble", "kind", "accepted"),
    [
        (httpx.ReadError("reset"), SubmitOutcomeUnknown, None),
        (httpx.WriteError("reset"), SubmitOutcomeUnknown, None),
        (httpx.ReadTimeout("slow"), SubmitOutcomeUnknown, None),
        (httpx.RemoteProtocolError("closed"), SubmitOutcomeUnknown, None),
        (build_refusal(500), SubmitOutcomeUnknown, None),
        (build_refusal(502), SubmitOutcomeUnknown, None),
        (httpx.Response(504, text="<html>"), SubmitOutcomeUnknown, None),
        (httpx.ConnectError("refused"), ProviderUnavailable, False),
        (httpx.ConnectTimeout("slow"), ProviderUnavailable, False),
        (build_refusal(429, retry_after=3), RateLimited, False),
        (build_refusal(422, type="invalid_request_error"), RequestRejected, False),
        (build_refusal(422), SubmitOutcomeUnknown, None),
        (build_refusal(409, type="invalid_request_error"), SubmitOutcomeUnknown, None),
        (httpx.Response(403, text="<html>"), SubmitOutcomeUnknown, None),
        (httpx.Response(403, json={"message": "Forbidden"}), SubmitOutcomeUnknown, None),
        (httpx.Response(301, headers={"location": "https://other.example"}), SubmitOutcomeUnknown, None),
    ],
)
async def test_a_paid_request_is_sent_once_and_tells_whether_it_was_accepted(
    trouble: httpx.Response | Exception, kind: type[Exception], accepted: bool | None
) -> None:
    server = Server(trouble, httpx.Response(202, json={"id": "gen_1"}))
    with pytest.raises(kind) as caught:
        await client(server).send_once("POST", "/generations", json={})
    assert len(server.requests) == 1
    assert type(caught.value) is kind
    assert caught.value.accepted is accepted  # type: ignore[attr-defined]
    assert "sk-secret" not in str(caught.value)


async def test_a_paid_request_ends_before_its_absence_could_be_proven() -> None:
    async def drip(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    api = ApiClient(
        provider="sora",
        base_url="https://api.example",
        headers={},
        error_from=lambda response: responses.read_error(response, provider="sora"),
        settings=replace(FAST, submit_deadline_seconds=0.01),
        transport=httpx.MockTransport(drip),
    )
    with pytest.raises(SubmitOutcomeUnknown, match="TimeoutError"):
        await api.send_once("POST", "/generations", json={})
    assert HttpSettings().submit_deadline_seconds < Settings().settle_seconds


async def test_a_key_that_a_server_quotes_goes_no_further() -> None:
    response = httpx.Response(401, json={"error": {"message": "Incorrect API key provided: sk-secret."}})
    with pytest.raises(AuthenticationFailed, match=r"provided: \[key\]") as caught:
        await client(Server(response)).send("GET", "/generations")
    assert "sk-secret" not in str(caught.value)
    packed = gzip.compress(b'{"status": "failed", "error": "bad key sk-secret"}')
    response = httpx.Response(200, content=packed, headers={"content-encoding": "gzip", "date": "nonsense"})
    assert (await client(Server(response)).send("GET", "/generations")).json()["error"] == "bad key [key]"


@pytest.mark.parametrize("minutes", [-3, 0, 3])
async def test_a_time_as_the_servers_clock_tells_it(minutes: int) -> None:
    server_time = datetime.now(UTC) + timedelta(minutes=minutes)
    api = client(Server(httpx.Response(200, headers={"date": format_datetime(server_time, usegmt=True)}, json={})))
    now = datetime.now(UTC)
    assert api.to_server_time(now) == now
    await api.send("GET", "/generations")
    assert abs(api.to_server_time(now) - now - timedelta(minutes=minutes)) < timedelta(seconds=30)


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_a_date_that_is_nonsense_moves_no_clock(date: str) -> None:
    api = client(Server(httpx.Response(200, headers={"date": date}, json={})))
    await api.send("GET", "/generations")
    now = datetime.now(UTC)
    assert api.to_server_time(now) == now


def test_the_longer_of_header_and_body_is_waited() -> None:
    body = {"error": {"retry_after": 120}}
    assert retry_after_seconds({"retry-after": "30"}, body) == 120
    assert retry_after_seconds({"retry-after": "300"}, body) == 300
    assert retry_after_seconds({}, body) == 120
    assert retry_after_seconds({"retry-after-ms": "1500"}) == 1.5
    assert retry_after_seconds({}) is None


def test_a_date_is_understood() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    delay = retry_after_seconds({"retry-after": soon})
    assert delay is not None
    assert 50 < delay <= 60


@given(st.text(), st.none() | st.booleans() | st.integers() | st.floats() | st.text())
def test_nonsense_is_never_a_delay_that_hurts(header: str, value: object) -> None:
    delay = retry_after_seconds({"retry-after": header}, {"error": {"retry_after": value}})
    assert delay is None or 0 <= delay < float("inf")


@pytest.mark.parametrize("endpoint", ["", "api.example", "ftp://x", "https://", "https://u:p@x/v1", "https://x/?a=1"])
def test_endpoints_that_cannot_be_used_are_refused(endpoint: str) -> None:
    with pytest.raises(InvalidInput):
        check_endpoint(endpoint, named="SORA_API_ENDPOINT")


def test_an_endpoint_loses_its_last_slash() -> None:
    assert check_endpoint(" https://x/v1/sora/ ", named="e") == "https://x/v1/sora"


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "schlüssel"])
def test_keys_that_cannot_travel_are_refused_without_being_printed(key: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_key(key, named="SORA_API_KEY")
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_may_have_been_paid(status: int) -> None:
    server = Server(httpx.Response(status, headers={"location": "/v1/sora/generations/gen_1"}))
    with pytest.raises(SubmitOutcomeUnknown) as raised:
        await client(server).send_once("POST", "/generations")
    assert raised.value.accepted is None
    assert len(server.requests) == 1


async def test_a_quota_is_about_buying_and_no_verdict_on_what_was_bought() -> None:
    used_up = build_refusal(429, code="quota_exceeded")
    with pytest.raises(QuotaExhausted):
        await client(Server(used_up)).send_once("POST", "/generations")
    with pytest.raises(RateLimited) as limited:
        await client(Server(used_up)).send("GET", "/generations/gen_1")
    assert limited.value.retryable


@pytest.mark.parametrize(("keepalive_seconds", "expected"), [(60.0, 1), (0.0, 2)])
async def test_a_connection_that_was_idle_for_long_is_not_used_again(keepalive_seconds: float, expected: int) -> None:
    opened: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        api = ApiClient(
            provider="sora",
            base_url=f"http://127.0.0.1:{port}",
            headers={},
            error_from=lambda response: responses.read_error(response, provider="sora"),
            settings=replace(FAST, keepalive_seconds=keepalive_seconds),
        )
        await api.send("GET", "/videos")
        await api.send_once("GET", "/videos")
        await api.aclose()
    assert len(opened) == expected
    assert HttpSettings().keepalive_seconds < 5
