"""What monitoring sees: the gauges of money and work, as Prometheus parses them, and the board that shows them."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from prefect_video.emulator import Emulator
from prefect_video.ledger import HoldReason, Ledger, ReceivedEvent, hold_message
from prefect_video.ledger.hold_reasons import find_reason
from prefect_video.service import ledger_metrics
from prefect_video.service.metrics import Metrics
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
        assert (empty["prefect_video_queued_jobs", account], empty["prefect_video_quota_exhausted", account]) == (0, 0)

        of_account: dict[str, Any] = {"account": account}
        await store_one(ledger, 1, cost_usd=Decimal("1.25"), **of_account)
        await submit_one(ledger, 2, **of_account)
        held = await submit_one(ledger, 3, **of_account)
        reason = HoldReason.SUBMIT_UNANSWERED
        text = hold_message(reason, job=held.id, shot="a", ledger=None, cause="it is gone")
        await ledger.jobs.hold(held.id, text)
        waiting = await claim_one(ledger, 4, **of_account)
        assert await ledger.accounts.acquire_slot(waiting.id, slots=1) is None
        at = datetime.now(UTC) - timedelta(seconds=100)
        event = ReceivedEvent(account=account, event_id="e", generation_id="g", type="video.completed", received_at=at)
        await ledger.events.receive_events([event])
        for _ in range(2):
            await ledger.accounts.record_failure(account, threshold=2, open_seconds=60)

        seen = await scrape(service)
        assert seen["prefect_video_queued_jobs", account] == 1
        assert seen["prefect_video_quota_exhausted", account] == 0
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

        await ledger.accounts.record_quota(account, datetime.now(UTC) + timedelta(hours=1))
        assert (await scrape(service))["prefect_video_quota_exhausted", account] == 1


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


def expressions() -> list[str]:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def variables() -> list[tuple[str, str]]:
    """Return the metric and the label that each variable of the board takes its values from."""
    listed = json.loads(BOARD.read_text(encoding="utf-8"))["templating"]["list"]
    queries = [item["query"] for item in listed if item["type"] == "query"]
    found = [re.fullmatch(r"label_values\((\w+), (\w+)\)", query) for query in queries]
    return [(match[1], match[2]) for match in found if match]


def labels_by_metric(expression: str) -> dict[str, set[str]]:
    """Parse a query of PromQL; return each metric in it with the labels that it is chosen or grouped by."""
    labels: dict[str, set[str]] = {}
    groups: set[str] = set()

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            groups.update(node.modifier.labels)
        if isinstance(node, promql_parser.VectorSelector | promql_parser.MatrixSelector):
            selector = node.vector_selector if isinstance(node, promql_parser.MatrixSelector) else node
            labels.setdefault(selector.name, set()).update(item.name for item in selector.matchers.matchers)

    promql_parser.walk(promql_parser.parse(re.sub(r"\$\w+", "value", expression)), visit)
    return {name: own | groups for name, own in labels.items()}


async def exposed_labels(service: Service) -> dict[str, set[str]]:
    """Return the labels of each metric under the name of its samples, also of a counter that has none yet."""
    counters = [item for item in vars(Metrics()).values() if isinstance(item, Counter)]
    found = {f"{counter._name}_total": set(counter._labelnames) for counter in counters}
    for family in text_string_to_metric_families((await service.client.get("/metrics")).text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


async def test_every_query_of_the_board_is_of_metrics_and_labels_that_there_are(
    environment: Path, provider: Emulator
) -> None:
    async with run_service() as service:
        exposed = await exposed_labels(service)
        text = (await service.client.get("/metrics")).text
    shown: set[str] = set()
    for expression in expressions():
        for name, labels in labels_by_metric(expression).items():
            assert name in exposed, expression
            assert labels <= exposed[name], expression
            shown.add(name)
    assert [label in exposed[name] for name, label in variables()] == [True]
    gauges = {family.name for family in text_string_to_metric_families(text) if family.type == "gauge"}
    unshown = {name for name in gauges - shown if name.startswith("prefect_video") and not name.endswith("_created")}
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
