"""Faults as a client sees them, and the rules that inject them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_video._tls import trusted_certificates
from prefect_video.emulator import Emulator, EmulatorSettings, FaultRule, load_faults
from prefect_video.emulator.faults.rules import ALLOWED_OPERATIONS, FaultRules, parse_faults
from tests.support.emulator_client import Client, download, read_error

SLOW_TO_FINISH = EmulatorSettings(port=0, times="fixed:600")
QUICK = EmulatorSettings(port=0, speed=200, render="plate")


@pytest.fixture
def waiting() -> Iterator[Emulator]:
    """Run a provider whose generations stay unfinished."""
    with Emulator(SLOW_TO_FINISH) as running:
        yield running


@pytest.fixture
def quick() -> Iterator[Emulator]:
    """Run a provider whose generations complete almost at once."""
    with Emulator(QUICK) as running:
        yield running


def _count_submits(emulator: Emulator) -> tuple[int, int, int]:
    usage = emulator.usage()
    return usage["submitted"], usage["accepted"], usage["refused"]


def test_rate_limited(waiting: Emulator) -> None:
    waiting.add_fault(operation="submit", kind="rate_limited", retry_after=7)
    response = Client.connect(waiting).submit()
    assert (response.status_code, read_error(response)["retry_after"]) == (429, 7)
    assert _count_submits(waiting) == (1, 0, 1)


def test_error_before_and_after_acceptance(waiting: Emulator) -> None:
    waiting.add_fault(operation="submit", kind="error_before")
    waiting.add_fault(operation="submit", kind="error_after")
    client = Client.connect(waiting)
    before, after = client.submit("one"), client.submit("two")
    for response in (before, after):
        assert response.status_code == 500
        assert "generation_id" not in read_error(response)
    assert read_error(before) == read_error(after)
    assert [item["prompt"] for item in client.list().json()["data"]] == ["two"]
    assert _count_submits(waiting) == (2, 1, 1)


def test_a_repeated_submit_is_accepted_twice_and_answered_once(waiting: Emulator) -> None:
    waiting.add_fault(operation="submit", kind="repeated")
    client = Client.connect(waiting)
    answered = client.submit("one").json()["id"]
    assert waiting.usage()["accepted"] == 2
    newest, other = (item["id"] for item in client.list().json()["data"])
    assert (newest, other != newest) == (answered, True)


def test_generation_error_names_a_failed_generation(waiting: Emulator) -> None:
    waiting.add_fault(operation="submit", kind="generation_error")
    client = Client.connect(waiting)
    response = client.submit()
    assert (response.status_code, read_error(response)["type"]) == (500, "generation_error")
    generation = client.retrieve(read_error(response)["generation_id"]).json()
    assert generation["status"] == "failed"
    assert generation["error"]["type"] == "generation_error"
    assert _count_submits(waiting) == (1, 1, 0)
    assert waiting.usage()["billed"] == 0


@pytest.mark.parametrize(("kind", "accepted"), [("reset_before", 0), ("reset_after", 1)])
def test_reset(waiting: Emulator, kind: str, accepted: int) -> None:
    waiting.add_fault(operation="submit", kind=kind)
    client = Client.connect(waiting)
    with pytest.raises(httpx.NetworkError):
        client.submit()
    assert client.list().json()["total_count"] == accepted
    assert _count_submits(waiting) == (1, accepted, 1 - accepted)


def test_hang_is_a_timeout_after_acceptance(waiting: Emulator) -> None:
    waiting.add_fault(operation="submit", kind="hang")
    client = Client(waiting.endpoint, waiting.key, timeout_seconds=0.3)
    with pytest.raises(httpx.ReadTimeout):
        client.submit()
    assert client.list().json()["total_count"] == 1


def test_hang_ends_in_a_reset(waiting: Emulator) -> None:
    waiting.add_fault(operation="list", kind="hang", seconds=0.05)
    with pytest.raises(httpx.NetworkError):
        Client.connect(waiting).list()


def test_delay(waiting: Emulator) -> None:
    waiting.add_fault(operation="submit", kind="delay", seconds=0.3)
    started = time.monotonic()
    assert Client.connect(waiting).submit().status_code == 202
    assert time.monotonic() - started >= 0.3


def test_unknown_status(quick: Emulator) -> None:
    client = Client.connect(quick)
    generation_id = client.generate(quick)["id"]
    quick.add_fault(operation="retrieve", kind="unknown_status", status="dreaming")
    quick.add_fault(operation="list", kind="unknown_status")
    assert client.retrieve(generation_id).json()["status"] == "dreaming"
    assert client.retrieve(generation_id).json()["status"] == "completed"
    assert client.list().json()["data"][0]["status"] == "moderating"


def test_not_found_on_a_known_id(quick: Emulator) -> None:
    client = Client.connect(quick)
    generation = client.generate(quick)
    for operation in ("retrieve", "cancel", "content"):
        quick.add_fault(operation=operation, kind="not_found")
    response = client.retrieve(generation["id"])
    assert (response.status_code, read_error(response)["type"]) == (404, "not_found_error")
    assert client.cancel(generation["id"]).status_code == 404
    assert download(generation["result"]["video_url"]).status_code == 404
    assert client.retrieve(generation["id"]).status_code == 200


@pytest.mark.parametrize("status", [404, 405, 501])
def test_list_off(waiting: Emulator, status: int) -> None:
    waiting.add_fault(operation="list", kind="list_off", http_status=status)
    assert Client.connect(waiting).list().status_code == status
    assert Client.connect(waiting).list().status_code == 200


def test_wrong_content(quick: Emulator) -> None:
    client = Client.connect(quick)
    url = client.generate(quick)["result"]["video_url"]
    for operation in ("content", "submit"):
        quick.add_fault(operation=operation, kind="wrong_content")
    for response in (download(url), client.submit()):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/html")
    assert _count_submits(quick) == (2, 1, 1)


def test_expired_links(quick: Emulator) -> None:
    client = Client.connect(quick)
    generation_id = client.generate(quick)["id"]
    quick.add_fault(operation="retrieve", kind="expired_link")
    dead = client.retrieve(generation_id).json()["result"]
    assert dead["expires_at"] < time.time()
    assert download(dead["video_url"]).status_code == 403
    alive = client.retrieve(generation_id).json()["result"]["video_url"]
    quick.add_fault(operation="content", kind="expired_link")
    assert download(alive).status_code == 403
    assert download(alive).status_code == 200


def test_truncated_download_breaks_off(quick: Emulator) -> None:
    result = Client.connect(quick).generate(quick)["result"]
    quick.add_fault(operation="content", kind="truncated", fraction=0.25)
    received = bytearray()
    with httpx.stream("GET", result["video_url"], verify=trusted_certificates()) as response:
        assert int(response.headers["content-length"]) == result["file_size"]
        with pytest.raises(httpx.RemoteProtocolError):
            _collect(response, received)
    assert len(received) == int(result["file_size"] * 0.25)
    assert quick.usage()["download_bytes"] == len(received)
    rest = download(result["video_url"], Range=f"bytes={len(received)}-").content
    assert received + rest == download(result["video_url"]).content


def _collect(response: httpx.Response, into: bytearray) -> None:
    for chunk in response.iter_raw():
        into.extend(chunk)


def test_truncated_json_breaks_off(waiting: Emulator) -> None:
    waiting.add_fault(operation="submit", kind="truncated")
    with pytest.raises(httpx.RemoteProtocolError):
        Client.connect(waiting).submit()
    assert _count_submits(waiting) == (1, 1, 0)


def test_short_file_looks_complete(quick: Emulator) -> None:
    result = Client.connect(quick).generate(quick)["result"]
    quick.add_fault(operation="content", kind="short_file")
    response = download(result["video_url"])
    assert response.status_code == 200
    assert len(response.content) == int(response.headers["content-length"]) == result["file_size"] // 2


def test_slow_body_trickles(quick: Emulator) -> None:
    result = Client.connect(quick).generate(quick)["result"]
    rate = result["file_size"] * 2
    quick.add_fault(operation="content", kind="slow", bytes_per_second=rate)
    started = time.monotonic()
    assert len(download(result["video_url"]).content) == result["file_size"]
    assert time.monotonic() - started > 0.4


def test_emulator_stops_while_answers_hang_or_trickle() -> None:
    with Emulator(QUICK) as emulator:
        client = Client(emulator.endpoint, emulator.key, timeout_seconds=0.2)
        url = Client.connect(emulator).generate(emulator)["result"]["video_url"]
        emulator.add_fault(operation="submit", kind="hang", seconds=3600)
        emulator.add_fault(operation="content", kind="slow", bytes_per_second=10)
        with pytest.raises(httpx.ReadTimeout):
            client.submit()
        started = time.monotonic()
        with httpx.stream("GET", url, verify=trusted_certificates()) as response:
            assert response.status_code == 200
            emulator.stop()
            assert time.monotonic() - started < 60, "it would trickle for hours"
            with pytest.raises(httpx.HTTPError):
                response.read()


def test_error_after_cancelling(waiting: Emulator) -> None:
    client = Client.connect(waiting)
    generation_id = client.submit_accepted()
    waiting.add_fault(operation="cancel", kind="error_after")
    assert client.cancel(generation_id).status_code == 500
    assert client.retrieve(generation_id).json()["status"] == "cancelled"


def test_rule_counts_and_matches(waiting: Emulator) -> None:
    client = Client.connect(waiting)
    waiting.add_fault(operation="submit", kind="error_before", times=2, after=1, match={"prompt": "storm"})
    prompts = ["calm", "a storm", "calm", "a storm", "stormy", "storm"]
    assert [client.submit(prompt).status_code for prompt in prompts] == [202, 202, 202, 500, 500, 202]
    assert [(rule["seen"], rule["fired"]) for rule in waiting.faults()] == [(3, 2)]
    generation_id = client.submit_accepted()
    waiting.add_fault(
        FaultRule.model_validate(
            {"operation": "retrieve", "kind": "not_found", "times": None, "match": {"generation_id": generation_id}}
        )
    )
    other = client.submit_accepted()
    assert [client.retrieve(i).status_code for i in (generation_id, other, generation_id)] == [404, 200, 404]
    waiting.clear_faults()
    assert client.retrieve(generation_id).status_code == 200


def test_rules_over_http(waiting: Emulator) -> None:
    url = f"{waiting.url}/_emulator/faults"
    rule = {"operation": "submit", "kind": "error_before", "times": None}
    assert httpx.post(url, json=rule, verify=trusted_certificates()).status_code == 201
    assert len(httpx.post(url, json=[rule, rule], verify=trusted_certificates()).json()) == 3
    listed = httpx.get(url, verify=trusted_certificates()).json()
    assert (listed[0]["kind"], listed[0]["times"], listed[0]["fired"]) == ("error_before", None, 0)
    assert Client.connect(waiting).submit().status_code == 500
    assert httpx.delete(url, verify=trusted_certificates()).json() == []
    assert Client.connect(waiting).submit().status_code == 202


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"operation": "submit", "kind": "nonsense"}, "kind"),
        ({"operation": "webhook", "kind": "hang"}, "hang"),
        ({"operation": "submit", "kind": "hang", "minutes": 1}, "minutes"),
        ({"operation": "submit", "kind": "hang", "times": 0}, "times"),
        ([{"kind": "hang"}], "operation"),
        ("hang", "0"),
    ],
)
def test_bad_rule_is_refused_by_name(waiting: Emulator, document: Any, named: str) -> None:
    response = httpx.post(f"{waiting.url}/_emulator/faults", json=document, verify=trusted_certificates())
    assert response.status_code == 400
    assert named in read_error(response)["message"]
    assert waiting.faults() == []


def test_rules_from_files(tmp_path: Path) -> None:
    rules = [{"operation": "submit", "kind": "delay", "seconds": 0.5}]
    as_json, as_yaml = tmp_path / "faults.json", tmp_path / "faults.yaml"
    as_json.write_text(json.dumps(rules))
    as_yaml.write_text("- operation: submit\n  kind: delay\n  seconds: 0.5\n")
    assert load_faults(as_json) == load_faults(as_yaml) == tuple(parse_faults(rules))
    for broken in ("{", "- kind: hang\n", "- operation: submit\n  kind: hang\n  - x"):
        as_yaml.write_text(broken)
        with pytest.raises(ValueError, match=r"faults\.yaml"):
            load_faults(as_yaml)


def test_every_kind_is_documented() -> None:
    from prefect_video.emulator.faults import rules as faults

    table = [line for line in (faults.__doc__ or "").splitlines() if line.startswith("| ")]
    assert {line.split("|")[1].strip() for line in table} - {"kind", "---"} == set(ALLOWED_OPERATIONS)


@given(times=st.none() | st.integers(1, 5), after=st.integers(0, 5), requests=st.integers(0, 20))
def test_a_rule_fires_after_its_skips_and_as_often_as_it_may(times: int | None, after: int, requests: int) -> None:
    rules = FaultRules([FaultRule(operation="list", kind="error_before", times=times, after=after)])
    fired = [rules.match("list") is not None for _ in range(requests)]
    expected = [index >= after and (times is None or index < after + times) for index in range(requests)]
    assert fired == expected
    assert rules.match("submit") is None
