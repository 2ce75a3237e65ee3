"""Names that command the page or terminal that shows them: what flows write for Prefect, and the log of each process."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from prefect import flow
from prefect.artifacts import Artifact

from prefect_video import Shot
from prefect_video.flows import spend_report
from prefect_video.flows.suspension import _describe
from prefect_video.flows.verify import _publish_flaws
from prefect_video.ledger import Ledger
from prefect_video.pipeline import ShotTakes, Verification
from prefect_video.pipeline.verification import AssetFlaw
from prefect_video.service import ServiceSettings, create_app
from prefect_video.session import SessionRef
from prefect_video.tasks import artifact_key, use_session
from tests.support.records import an_asset, store_one

HOSTILE: Final = "sea\r\nerror: paid \x1b[31mtwice\x1b]0;owned\x07\u2028\u202e\u200b"
CLEAN: Final = "sea error: paid \\u001b[31mtwice\\u001b]0;owned\\u0007\\u2028\\u202e\\u200b"


async def read_rows(key: str) -> list[dict[str, Any]]:
    """Read the rows of a table artifact."""
    shown = await Artifact.aget(key=key)
    assert shown is not None
    rows: list[dict[str, Any]] = json.loads(str(shown.data))
    return rows


@pytest.mark.parametrize("by", ["project", "model"])
async def test_a_spend_report_shows_hostile_names_and_does_not_obey_them(
    session: Path, by: Literal["project", "model"]
) -> None:
    shot = Shot(id="opening", prompt="Dawn", model=HOSTILE)
    async with await Ledger.open(migrate=True) as ledger:
        await store_one(ledger, project=HOSTILE, shot=shot)
    (line,) = await spend_report(by=by)
    assert line.key == HOSTILE
    assert [row[by] for row in await read_rows(artifact_key("spend", by))] == [CLEAN]


async def test_a_verification_shows_hostile_names_and_does_not_obey_them(prefect_api: str) -> None:
    flaw = AssetFlaw(
        job_id="job-1",
        project=HOSTILE,
        shot=HOSTILE,
        uri=f"file:///videos/{HOSTILE}",
        problem="missing",
        detail=HOSTILE,
        error=HOSTILE,
    )
    store = f"file:///{HOSTILE}"
    found = Verification(store=store, store_id=None, outage=None, assets=1, flaws=(flaw,), unknown_files=())

    @flow
    async def run() -> None:
        await _publish_flaws(found)

    await run()
    key = artifact_key("verified", store)
    (row,) = await read_rows(key)
    assert [row[name] for name in ("project", "shot", "detail", "error")] == [CLEAN] * 4
    assert row["video"] == f"file:///videos/{CLEAN}"
    shown = await Artifact.aget(key=key)
    assert str(shown and shown.description).startswith(f"Videos of file:///{CLEAN}, ")


async def test_a_question_about_hostile_names_is_one_line_a_shot(session: Path) -> None:
    async with await Ledger.open(migrate=True) as ledger:
        job = await store_one(ledger)
    named = job.model_copy(update={"asset": an_asset(uri=f"file:///videos/{HOSTILE}")})
    shot = job.shot.model_copy(update={"id": HOSTILE, "prompt": HOSTILE, "model": HOSTILE})
    question = _describe(HOSTILE, [ShotTakes(shot, {1: named}, None)])
    assert question.split("\n") == [
        f"**{CLEAN}** waits for approval:",
        "",
        f"- **{CLEAN}**: {CLEAN}; take 1: `file:///videos/{CLEAN}`",
    ]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Log what this package says as in a process in which nothing has cleaned a record yet."""
    factory, written = logging.getLogRecordFactory(), io.StringIO()
    handler, logger = logging.StreamHandler(written), logging.getLogger("prefect_video.test")
    logging.setLogRecordFactory(logging.LogRecord)
    logger.addHandler(handler)
    try:
        yield written
    finally:
        logger.removeHandler(handler)
        logging.setLogRecordFactory(factory)


async def test_a_process_of_a_flow_logs_clean_lines(session: Path, log: io.StringIO) -> None:
    async with use_session(SessionRef.from_names()):
        logging.getLogger("prefect_video.test").error("shot %s", HOSTILE)
    assert log.getvalue() == f"shot {CLEAN}\n"


async def test_the_service_logs_clean_lines_whatever_server_runs_it(session: Path, log: io.StringIO) -> None:
    app = create_app(ServiceSettings.from_environment(announce=False))
    async with app.router.lifespan_context(app):
        logging.getLogger("prefect_video.test").error("shot %s", HOSTILE)
    assert log.getvalue() == f"shot {CLEAN}\n"
