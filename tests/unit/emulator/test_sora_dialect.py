"""Sora dialect: responses and errors of every call."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from prefect_video._tls import trusted_certificates
from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.emulator.engine import month_bounds
from tests.support.emulator_client import Client, download, read_error

LONG: dict[str, Any] = {"times": "fixed:600", "render": "plate"}


@pytest.fixture(scope="module")
def shared() -> Iterator[Emulator]:
    """Run one provider for all tests of rejected requests, which do not change it."""
    with Emulator(EmulatorSettings(port=0, **LONG)) as running:
        yield running


def test_accepted_generation_is_described(emulator: Emulator) -> None:
    before = int(time.time())
    response = Client.connect(emulator).submit("Dawn", duration=5, aspect_ratio="9:16", resolution="720p")
    assert response.status_code == 202
    answer = response.json()
    assert answer["id"].startswith("gen_")
    assert before <= answer.pop("created") <= time.time()
    assert answer.pop("estimated_completion_time") >= before
    assert answer == {
        "id": answer["id"],
        "object": "video_generation",
        "model": "sora-2",
        "status": "queued",
        "parameters": {"duration": 5, "aspect_ratio": "9:16", "resolution": "720p"},
    }


def test_defaults_are_the_contracts() -> None:
    with Emulator(EmulatorSettings(port=0, **LONG)) as emulator:
        answer = Client.connect(emulator).http.post("/generations", json={"model": "m", "prompt": "p"}).json()
        assert answer["parameters"] == {"duration": 10, "aspect_ratio": "16:9", "resolution": "1080p"}


def test_completed_generation_is_described(emulator: Emulator) -> None:
    client = Client.connect(emulator)
    generation = client.generate(emulator, "Harbour", duration=2, metadata={"idempotency_key": "k1", "n": [1]})
    result = generation.pop("result")
    assert generation == {
        "id": generation["id"],
        "object": "video_generation",
        "created": generation["created"],
        "model": "sora-2",
        "status": "completed",
        "prompt": "Harbour",
        "parameters": {"duration": 2, "aspect_ratio": "16:9", "resolution": "480p"},
        "metadata": {"idempotency_key": "k1", "n": [1]},
        "usage": {"seconds_generated": 2, "cost_usd": 0.6},
    }
    assert result["duration"] == 2
    assert result["resolution"] == "854x480"
    assert result["file_size"] > 10_000
    assert 3500 < result["expires_at"] - time.time() <= 3600
    assert result["video_url"].startswith(emulator.cdn)
    assert result["thumbnail_url"].startswith(emulator.cdn)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "x" * 32_001}, "prompt"),
        ({"duration": 0}, "duration"),
        ({"duration": 21}, "duration"),
        ({"duration": "10s"}, "duration"),
        ({"duration": 5.5}, "duration"),
        ({"duration": True}, "duration"),
        ({"aspect_ratio": "4:3"}, "aspect_ratio"),
        ({"resolution": "4k"}, "resolution"),
        ({"webhook_url": "ftp://x"}, "webhook_url"),
        ({"metadata": [1]}, "metadata"),
        ({"seed": 5}, "seed"),
    ],
)
def test_bad_field_is_refused_by_name(shared: Emulator, change: dict[str, Any], named: str) -> None:
    body = {"model": "sora-2", "prompt": "Dawn", **change}
    body = {name: value for name, value in body.items() if value is not None}
    shared.reset()
    response = Client.connect(shared).http.post("/generations", json=body)
    assert response.status_code == 400
    assert read_error(response)["type"] == "invalid_request_error"
    assert named in read_error(response)["message"]
    usage = shared.usage()
    assert (usage["submitted"], usage["accepted"], usage["refused"]) == (1, 0, 1)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"[" * 5000,
        b'{"model": "m", "prompt": "p", "metadata": {"a": NaN}}',
        b'{"model": "m", "prompt": "p", "metadata": {"a": "\\ud800"}}',
    ],
)
def test_body_that_is_no_json_object_is_refused(shared: Emulator, raw: bytes) -> None:
    response = Client.connect(shared).http.post("/generations", content=raw)
    assert response.status_code == 400
    assert read_error(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "sk-emulator", "Basic sk-emulator", "Bearer"])
def test_without_a_key_nothing_opens(shared: Emulator, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in [
        ("POST", ""),
        ("GET", ""),
        ("GET", "/gen_x"),
        ("POST", "/gen_x/cancel"),
    ]:
        response = httpx.request(
            method, f"{shared.endpoint}/generations{path}", headers=headers, verify=trusted_certificates()
        )
        assert response.status_code == 401
        assert read_error(response)["type"] == "authentication_error"


def test_keys_are_separate_accounts() -> None:
    settings = EmulatorSettings(port=0, keys=("key-aaaa", "key-bbbb"), capacity=1, **LONG)
    with Emulator(settings) as emulator:
        first, second = (Client(emulator.endpoint, key) for key in settings.keys)
        generation_id = first.submit_accepted()
        assert second.retrieve(generation_id).status_code == 404
        assert second.cancel(generation_id).status_code == 404
        assert second.list().json()["total_count"] == 0
        assert second.submit().status_code == 202
        by_key = emulator.usage()["by_key"]
        assert {label: lines["accepted"] for label, lines in by_key.items()} == {"aaaa": 1, "bbbb": 1}


def test_unknown_id_and_unknown_route(emulator: Emulator) -> None:
    client = Client.connect(emulator)
    for response in (client.retrieve("gen_nope"), client.cancel("gen_nope"), client.http.get("/nothing")):
        assert response.status_code == 404
        assert read_error(response)["type"] == "not_found_error"
    assert client.http.delete("/generations").status_code == 405


def test_full_account_is_rejected_with_a_wait_in_the_body() -> None:
    with Emulator(EmulatorSettings(port=0, capacity=2, **LONG)) as emulator:
        client = Client.connect(emulator)
        first = client.submit_accepted()
        client.submit_accepted()
        response = client.submit()
        assert response.status_code == 429
        assert read_error(response)["type"] == "rate_limit_error"
        assert 590 <= read_error(response)["retry_after"] <= 600
        assert "retry-after" not in response.headers
        client.cancel(first)
        assert client.submit().status_code == 202
        assert emulator.usage()["peak_concurrency"] == 2
        assert emulator.usage()["now_concurrency"] == 2


def test_retry_after_may_be_set_and_sent_as_header() -> None:
    settings = EmulatorSettings(port=0, capacity=0, retry_after_seconds=1.5, retry_after_header=True)
    with Emulator(settings) as emulator:
        response = Client.connect(emulator).submit()
        assert read_error(response)["retry_after"] == 1.5
        assert response.headers["retry-after"] == "2"


def test_monthly_quota_says_when_it_renews() -> None:
    with Emulator(EmulatorSettings(port=0, monthly_quota=2, **LONG)) as emulator:
        client = Client.connect(emulator)
        for _ in range(2):
            client.cancel(client.submit_accepted())
        error = read_error(client.submit())
        assert error["code"] == "quota_exceeded"
        _, end = month_bounds(datetime.now(UTC))
        assert math.isclose(error["retry_after"], (end - datetime.now(UTC)).total_seconds(), abs_tol=5)


def test_month_ends_with_the_year() -> None:
    start, end = month_bounds(datetime(2026, 12, 31, 23, 59, tzinfo=UTC))
    assert (start, end) == (datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))


def test_policy_and_failure_by_marker_words(emulator: Emulator) -> None:
    client = Client.connect(emulator)
    refused = client.submit("something [POLICY] breaking")
    assert refused.status_code == 400
    assert read_error(refused)["code"] == "content_policy_violation"
    failing = client.submit_accepted("something [fail]")
    emulator.wait_until_idle()
    generation = client.retrieve(failing).json()
    assert generation["status"] == "failed"
    assert generation["error"]["type"] == "generation_error"
    assert "result" not in generation
    usage = emulator.usage()
    assert (usage["accepted"], usage["refused"], usage["failed"], usage["billed"]) == (1, 1, 1, 0)


def test_cancel_while_queued_then_again() -> None:
    with Emulator(EmulatorSettings(port=0, **LONG)) as emulator:
        client = Client.connect(emulator)
        generation_id = client.submit_accepted()
        answer = {"id": generation_id, "status": "cancelled", "cancellation_reason": "user_requested"}
        for _ in range(2):
            response = client.cancel(generation_id)
            assert (response.status_code, response.json()) == (200, answer)
        assert client.retrieve(generation_id).json()["status"] == "cancelled"
        usage = emulator.usage()
        assert (usage["cancelled"], usage["billed"], usage["now_concurrency"]) == (1, 0, 0)


def test_cancel_of_what_is_over_is_refused(emulator: Emulator) -> None:
    client = Client.connect(emulator)
    response = client.cancel(client.generate(emulator)["id"])
    assert response.status_code == 409
    assert emulator.usage()["cancelled"] == 0


def test_list_filters_pages_and_orders() -> None:
    with Emulator(EmulatorSettings(port=0, **LONG)) as emulator:
        client = Client.connect(emulator)
        ids = [client.submit_accepted(f"shot {number}") for number in range(5)]
        client.cancel(ids[1])
        everything = client.list().json()
        assert [item["id"] for item in everything["data"]] == ids[::-1]
        assert (everything["object"], everything["has_more"], everything["total_count"]) == ("list", False, 5)
        assert set(everything["data"][0]) == {"id", "status", "created", "prompt"}
        page = client.list(limit=2, offset=2).json()
        assert [item["prompt"] for item in page["data"]] == ["shot 2", "shot 1"]
        assert page["has_more"] is True
        cancelled = client.list(status="cancelled").json()
        assert [item["id"] for item in cancelled["data"]] == [ids[1]]
        created = everything["data"][-1]["created"]
        assert client.list(created_after=created - 1).json()["total_count"] == 5
        assert client.list(created_after=time.time() + 5).json()["total_count"] == 0
        for query in ({"limit": 0}, {"limit": 101}, {"offset": -1}, {"status": "odd"}, {"page": 1}):
            assert client.list(**query).status_code == 400


def test_completed_list_items_carry_a_working_link(emulator: Emulator) -> None:
    client = Client.connect(emulator)
    client.generate(emulator)
    item = client.list(status="completed").json()["data"][0]
    assert download(item["result"]["video_url"]).status_code == 200


@pytest.mark.parametrize("status", ["404", "405", "501"])
def test_listing_can_be_switched_off(status: str) -> None:
    settings = EmulatorSettings.model_validate({"port": 0, "listing": status})
    with Emulator(settings) as emulator:
        assert Client.connect(emulator).list().status_code == int(status)


def test_hint_and_echo_can_be_switched_off() -> None:
    with Emulator(EmulatorSettings(port=0, hint=False, echo_metadata=False, **LONG)) as emulator:
        client = Client.connect(emulator)
        answer = client.submit(metadata={"a": 1}).json()
        assert "estimated_completion_time" not in answer
        assert "metadata" not in client.retrieve(answer["id"]).json()
