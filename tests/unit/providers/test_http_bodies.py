"""Bodies of responses: whatever a server sends, it is read within bounds or rejected by one error."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import resource
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.errors import InvalidResponse, RateLimited, SubmitOutcomeUnknown
from prefect_video.providers.http import HttpSettings, retry_after_seconds
from prefect_video.providers.http_bodies import (
    MAX_POLL_DELAY_SECONDS,
    MAX_RETRY_AFTER_SECONDS,
    decode_json,
    read_body,
    usable_number,
)
from prefect_video.providers.responses import parse_timestamp
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.shots import Shot

LIMIT = 10_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


class Pieces(httpx.AsyncByteStream):
    """A body that comes piece by piece."""

    def __init__(self, body: bytes, size: int) -> None:
        self._pieces = [body[start : start + size] for start in range(0, len(body), size)]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def read(body: bytes, *, encoding: str = "", size: int = 999, limit: int = LIMIT) -> bytes:
    headers = {"content-encoding": encoding} if encoding else {}
    response = httpx.Response(200, headers=headers, stream=Pieces(body, size))
    return asyncio.run(read_body(response, limit=limit, provider="sora"))


@given(st.binary(max_size=3 * LIMIT), st.integers(1, 5000), st.booleans())
def test_a_body_is_read_whole_or_refused(body: bytes, size: int, packed: bool) -> None:
    sent = gzip.compress(body) if packed else body
    try:
        read_back = read(sent, encoding="gzip" if packed else "", size=size)
    except InvalidResponse:
        assert max(len(body), len(sent)) > LIMIT or body.lstrip()[:1] in (b"[", b"{")
        return
    assert read_back == body
    assert len(body) <= LIMIT


@given(st.binary(max_size=300), st.sampled_from(["gzip", "br", "zstd", "deflate", "gzip, gzip", "\x7f"]))
def test_damaged_and_unknown_encodings_are_unreadable(body: bytes, encoding: str) -> None:
    if encoding == "gzip" and not body:
        assert read(body, encoding=encoding) == b""
        return
    with pytest.raises(InvalidResponse) as unreadable:
        read(body, encoding=encoding)
    assert unreadable.value.accepted is None


@given(st.binary(max_size=200) | JSON.map(json.dumps).map(str.encode))
def test_whatever_is_decoded_can_be_kept_and_counted_with(content: bytes) -> None:
    try:
        document = decode_json(content)
    except ValueError:
        return
    kept = json.dumps(document, allow_nan=False, ensure_ascii=False)
    assert "\x00" not in kept
    kept.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b"[" * 200_000 + b"]" * 200_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b" \n" + b"[" * 101 + b"]" * 101,
        b'{"a": "\\"[", "b": ' + b"[" * 150,
    ],
)
def test_deep_nesting_is_refused_before_anything_walks_through_it(content: bytes) -> None:
    with pytest.raises(ValueError, match="levels deep"):
        decode_json(content)
    with pytest.raises(InvalidResponse, match="levels deep"):
        read(content, limit=10**7)


def test_brackets_in_text_are_no_nesting_and_cost_no_time() -> None:
    assert decode_json(json.dumps({"prompt": "[{" * 5_000}).encode())["prompt"].startswith("[{")
    began = time.perf_counter()
    for hostile in (b'["' + b'\\"' * 2_000_000, b"[" + b'"[' * 2_000_000, b"[" + b'"\\' * 2_000_001):
        with pytest.raises(ValueError, match=r"delimiter|Unterminated|levels deep"):
            decode_json(hostile)
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "-" + "9" * 5_000])
def test_what_is_no_number_is_none(text: str) -> None:
    assert decode_json(f'{{"n": {text}, "id": 12345678901234567890}}'.encode()) == {
        "n": None,
        "id": 12345678901234567890,
    }


def test_text_that_no_database_takes_is_cleaned() -> None:
    assert decode_json(b'{"a\\u0000": ["\\ud800", "\\ud83d\\ude00"]}') == {"a\ufffd": ["\ufffd", "\U0001f600"]}


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("9" * 500) | st.just(10**400))
def test_waits_are_clamped(value: Any) -> None:
    for delay in (
        retry_after_seconds({}, {"error": {"retry_after": value}}),
        retry_after_seconds({"retry-after": str(value)[:400]}),
        retry_after_seconds({"retry-after-ms": str(value)[:400]}),
    ):
        assert delay is None or 0 <= delay <= MAX_RETRY_AFTER_SECONDS
    number = usable_number(value)
    assert number is None or (math.isfinite(number) and number >= 0)


async def test_no_odd_number_keeps_a_paid_generation_from_being_looked_at() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        body = {"id": "gen_1", "status": "processing"}
        return httpx.Response(200, headers={"retry-after": "1e12", "date": "x"}, json=body)

    at = httpx.MockTransport(answer)
    provider = SoraProvider(api_key="k", endpoint="https://x/v1", transport=at)
    assert (await provider.retrieve("gen_1")).retry_after == MAX_POLL_DELAY_SECONDS
    refused = httpx.Response(429, json={"error": {"type": "x", "message": "no", "retry_after": 1e12}})
    once = HttpSettings(attempts=1)
    at = httpx.MockTransport(lambda _: refused)
    provider = SoraProvider(api_key="k", endpoint="https://x/v1", transport=at, settings=once)
    with pytest.raises(RateLimited) as limited:
        await provider.retrieve("gen_1")
    assert limited.value.retry_after == MAX_POLL_DELAY_SECONDS


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 +2359", "x" * 9_999])
def test_dates_that_overflow_are_no_wait_that_hurts(date: str) -> None:
    assert (retry_after_seconds({"retry-after": date}) or 0.0) <= MAX_RETRY_AFTER_SECONDS


@given(st.floats() | st.integers() | st.text() | st.datetimes().map(lambda time: time.isoformat() + "+14:00"))
def test_a_moment_can_be_counted_with(value: Any) -> None:
    parsed = parse_timestamp(value)
    assert parsed is None or 1970 <= parsed.year <= 3001


async def test_a_small_answer_that_inflates_to_gigabytes_takes_no_memory() -> None:
    with Emulator(EmulatorSettings(port=0, speed=500, render="plate")) as emulator:
        emulator.add_fault(operation="submit", kind="inflated", inflates_to=1_500_000_000)
        quick = HttpSettings(attempts=1, submit_timeout_seconds=60)
        provider = SoraProvider(api_key=emulator.key, endpoint=emulator.endpoint, plan="emulator", settings=quick)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        shot = Shot(id="a", prompt="a cat", duration=1, resolution="480p")
        with pytest.raises(SubmitOutcomeUnknown, match="larger than"):
            await provider.submit(shot, idempotency_key="k", project="film")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
        assert emulator.usage()["accepted"] == 1
        await provider.aclose()
