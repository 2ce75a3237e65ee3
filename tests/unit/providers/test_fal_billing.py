"""Faults that fal finds in a request after accepting it: never bought again, and never assumed to be free."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from prefect_video.ledger import Ledger, State
from prefect_video.pipeline.entry_points import run_project
from prefect_video.polling.poller import Poller
from prefect_video.polling.schedule import PollSchedule
from prefect_video.projects import Project
from prefect_video.providers.fal.provider import FalProvider
from prefect_video.session import Session, Settings
from prefect_video.storage import open_store
from tests.support.providers.fal import FAST, QUEUE, SHOT

INVALID = httpx.Response(
    422, json={"detail": [{"loc": ["body", "duration"], "msg": "too long", "type": "value_error"}]}
)
BROKEN = httpx.Response(500, json={"detail": "oops", "error_type": "internal_error"})


@pytest.mark.parametrize(
    ("result", "kind", "bought", "usd"), [(INVALID, "GenerationInvalid", 1, None), (BROKEN, "GenerationFailed", 2, 0)]
)
async def test_an_invalid_request_is_bought_once_and_counts_as_spent(
    result: httpx.Response, kind: str, bought: int, usd: int | None, tmp_path: Path
) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            sent.append(request)
            return httpx.Response(200, json={"request_id": f"r{len(sent)}"})
        return httpx.Response(200, json={"status": "COMPLETED"}) if request.url.path.endswith("/status") else result

    provider = FalProvider(
        api_key="k",
        queue_url=QUEUE,
        usd_per_second=Decimal("0.5"),
        settings=FAST,
        transport=httpx.MockTransport(answer),
    )
    provider.capabilities = replace(provider.capabilities, seconds_per_video_second=(0.0, 0.001))
    store = (tmp_path / "store").as_uri()
    session = Session(
        provider=provider,
        ledger=await Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}"),
        store=open_store(store),
        store_name=store,
        settings=Settings.from_environment(spool=tmp_path / "spool"),
    )
    session.poller = Poller(provider, schedule=PollSchedule(shortest_seconds=0.005))
    async with session:
        report = await run_project(session, Project(name="film", shots=(SHOT,), budget_usd=Decimal(10)))
        jobs = await session.ledger.jobs.find(limit=None)
    assert report.shots[0].status == "failed"
    assert len(sent) == bought
    assert {(job.state, job.error_type, job.actual_usd) for job in jobs} == {(State.FAILED, kind, usd)}
    assert {job.reserved_usd for job in jobs} == {Decimal(1)}
