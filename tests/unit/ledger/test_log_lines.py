"""Lines of the log about jobs: each says what is durable, as another process reads it at that moment."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from prefect_video.errors import LedgerUnavailable
from prefect_video.ledger import Ledger, State, sqlite_driver
from tests.support.records import a_generation, store_one, submit_one

LOGGER = "prefect_video.ledger.log_lines"


class DurableStates(logging.Handler):
    """Handler that reads the states of all jobs when a line is logged, on a connection of its own."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.found: list[tuple[str, list[str]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        with sqlite3.connect(self._path) as connection:
            states = [row[0] for row in connection.execute("SELECT state FROM jobs")]
        self.found.append((record.getMessage(), states))


@pytest.fixture
def durable(ledger_file: Path, caplog: pytest.LogCaptureFixture) -> Iterator[DurableStates]:
    handler, logger = DurableStates(ledger_file), logging.getLogger(LOGGER)
    caplog.set_level(logging.INFO, logger=LOGGER)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


async def test_a_line_is_logged_once_its_change_is_durable(ledger_file: Path, durable: DurableStates) -> None:
    async with await Ledger.open(str(ledger_file), migrate=True) as ledger:
        await store_one(ledger)
        (job,) = await ledger.jobs.find()
    states = [State.RESERVED, State.SUBMITTED, State.COMPLETED, State.STORED]
    assert [found for _, found in durable.found] == [[state] for state in states]
    for state, (message, _) in zip(states, durable.found, strict=True):
        assert f": {state} (run" in message
        assert job.id in message


async def test_a_line_has_run_shot_job_and_cost_as_fields(ledger_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger=LOGGER)
    async with await Ledger.open(str(ledger_file), migrate=True) as ledger:
        stored = await store_one(ledger, cost_usd=Decimal("2.10"), flow_run_id="5ac0")
    found = [vars(record) for record in caplog.records if record.name == LOGGER]
    assert [line["video_state"] for line in found] == ["reserved", "submitting", "submitted", "completed", "stored"]
    last = {
        "video_project": stored.project,
        "video_shot": stored.shot.id,
        "video_take": stored.take,
        "video_job_id": stored.id,
        "video_state": "stored",
        "video_run_id": "5ac0",
        "video_generation_id": stored.generation_id,
        "video_cost_usd": 2.1,
    }
    assert {name: found[-1][name] for name in last} == last
    assert (found[0]["video_job_id"], found[0]["video_generation_id"]) == (stored.id, None)
    # Prefect would send the line to that run.
    assert "flow_run_id" not in found[-1]


async def test_a_change_that_is_taken_back_leaves_no_line(
    ledger_file: Path, durable: DurableStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await Ledger.open(str(ledger_file), migrate=True) as ledger:
        job = await submit_one(ledger)
        durable.found.clear()

        async def fail(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patched:
            patched.setattr(sqlite_driver.Connection, "commit", fail)
            with pytest.raises(LedgerUnavailable):
                await ledger.jobs.record_completed(job.id, a_generation())
        assert (await ledger.jobs.get(job.id)).state is State.SUBMITTED
        assert durable.found == []
        await ledger.jobs.record_completed(job.id, a_generation())
    assert len(durable.found) == 1
