"""What monitoring sees: the gauges of money and work, as Prometheus parses them, and the board that shows them."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from prefect_video.emulator import Emulator
from prefect_video.ledger import HoldReason, Ledger, ReceivedEvent, hold_message
from prefect_video.ledger.hold_reasons import find_reason
from prefect_video.service import ledger_metrics
from tests.support.records import claim_one, store_one, submit_one
from tests.support.service_fixtures import Service, run_service
from tests.unit.service.test_jobs import generate

BOARD = Path(__file__).parents[3] / "docs" / "grafana.json"


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request reads the ledger."""
    monkeypatch.setattr(ledger_metrics, "_FRESH_SECONDS", -1.0)


async def scrape(service: Service) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels, by the parser of Prometheus's own client."""
    text = (await service.client.get("/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value for sample in samples}
    assert len(found) == len(samples), "a series is exposed twice"
    return found


async def test_the_gauges_are_what_the_ledger_holds(environment: Path, provider: Emulator) -> None:
    async with run_service() as service, await Ledger.open() as ledger:
        account = service.app.state.sessions.sessions[0].provider.account.id
        empty = await scrape(service)
        assert empty["prefect_video_ledger_up",] == 1
        assert empty["prefect_video_spent_usd", account] == 0
        assert empty["prefect_video_breaker_state", account, "closed"] == 1
        slots = empty["prefect_video_slots", account]

        of_account: dict[str, Any] = {"account": account}
        await store_one(ledger, 1, cost_usd=Decimal("1.25"), **of_account)
        await submit_one(ledger, 2, **of_account)
        held = await submit_one(ledger, 3, **of_account)
        reason = HoldReason.SUBMIT_UNANSWERED
        text = hold_message(reason, job=held.id, shot="a", ledger=None, cause="it is gone")
        await ledger.jobs.hold(held.id, text)
        await claim_one(ledger, 4, **of_account)
        at = datetime.now(UTC) - timedelta(seconds=100)
        event = ReceivedEvent(account=account, event_id="e", generation_id="g", type="video.completed", received_at=at)
        await ledger.events.receive_events([event])
        for _ in range(2):
            await ledger.accounts.record_failure(account, threshold=2, open_seconds=60)

        seen = await scrape(service)
        assert seen["prefect_video_spent_usd", account] == 1.25
        assert seen["prefect_video_reserved_usd", account] == pytest.approx(3 * 2.40)
        assert seen["prefect_video_unfinished_jobs", account, "submitted"] == 2
        assert seen["prefect_video_unfinished_jobs", account, "reserved"] == 1
        assert seen["prefect_video_in_flight", account] == 1, "what is held frees its slot"
        assert seen["prefect_video_slots", account] == slots > 0
        assert seen["prefect_video_held_jobs", "submit_unanswered"] == 1
        assert seen["prefect_video_held_jobs", "video_gone"] == 0
        assert seen["prefect_video_breaker_state", account, "open"] == 1
        assert 100 <= seen["prefect_video_webhook_lag_seconds", account] < 200
        assert 0 < seen["prefect_video_oldest_unfinished_seconds", account] < 100


def rename_table(database: sqlite3.Connection, name: str, new_name: str) -> None:
    # A statement that reads before it writes is refused at once, whatever the timeout, if the service wrote in between.
    database.executescript(f"BEGIN IMMEDIATE; ALTER TABLE {name} RENAME TO {new_name}; COMMIT")


async def test_a_ledger_that_cannot_be_read_is_down_and_hides_no_counter(
    environment: Path, provider: Emulator, sqlite_url: str
) -> None:
    async with run_service() as service:
        await generate(service)
        with contextlib.closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), timeout=60)) as database:
            rename_table(database, "jobs", "elsewhere")
            try:
                seen = await scrape(service)
            finally:
                rename_table(database, "elsewhere", "jobs")
        assert seen["prefect_video_ledger_up",] == 0
        assert seen["prefect_video_jobs_total", "accepted"] == 1


def queries() -> Iterator[str]:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    yield from (item["query"] for item in board["templating"]["list"] if item["type"] == "query")


async def test_every_query_of_the_board_names_a_metric_that_there_is(environment: Path, provider: Emulator) -> None:
    async with run_service() as service:
        text = (await service.client.get("/metrics")).text
    families = list(text_string_to_metric_families(text))
    kinds = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    exposed = {family.name + ending for family in families for ending in kinds.get(family.type, ())}
    named = {name for query in queries() for name in re.findall(r"prefect_video_\w+", query)}
    assert named <= exposed, named - exposed
    gauges = {family.name for family in families if family.type == "gauge" and family.name.startswith("prefect_video")}
    unshown = {name for name in gauges if name not in named and not name.endswith("_created")}
    assert unshown == set(), "the board leaves a gauge out"


@pytest.mark.parametrize("reason", HoldReason)
def test_a_hold_reason_is_found_again_from_its_message(reason: HoldReason) -> None:
    details = dict.fromkeys(
        ("cause", "what", "account", "credentials", "used_account", "used_credentials", "key", "used_key"), "x"
    )
    details |= dict.fromkeys(("deadline", "file", "provider", "reported", "booked"), "y")
    text = hold_message(reason, job="j", shot="sea", ledger=None, generation="g", **details)
    assert find_reason(text) is reason
    assert find_reason("other words") is None
