"""Spans as an OpenTelemetry exporter gets them: one trace from the request to the stored file, and no cost without."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from prefect_video import Project, Shot, run_project
from prefect_video.emulator import Emulator
from prefect_video.pipeline.steps import spans
from tests.support.service_fixtures import open_environment_session, run_service
from tests.unit.service.test_jobs import free_port, generate, wait_for_status


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """An SDK that keeps all spans, for one test; the API itself lets it be set once a process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def own_spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    spans = [span for span in exporter.get_finished_spans() if span.instrumentation_scope.name == "prefect_video"]
    found = {span.name: span for span in spans}
    assert len(found) == len(spans), [span.name for span in spans]
    return found


async def test_a_shot_is_a_span_for_each_step_with_job_and_cost(
    environment: Path, provider: Emulator, exporter: InMemorySpanExporter
) -> None:
    film = Project(name="film", shots=(Shot(id="sea", prompt="the sea", duration=1, resolution="480p"),))
    async with await open_environment_session() as session:
        with trace.get_tracer("a program").start_as_current_span("its own"):
            report = await run_project(session, film)
    found = own_spans(exporter)
    assert list(found) == ["submit", "poll", "download", "store"]
    asset = report.shots[0].asset
    assert asset is not None
    stored = dict(found["store"].attributes or {})
    assert stored["prefect_video.shot"] == "sea"
    assert stored["prefect_video.provider"] == "sora"
    assert stored["prefect_video.state"] == "stored"
    assert stored["prefect_video.generation"] == asset.generation_id
    assert stored["prefect_video.cost_usd"] == pytest.approx(float(provider.usage()["billed_usd"]))
    assert len({span.attributes["prefect_video.job"] for span in found.values() if span.attributes}) == 1
    program = next(span for span in exporter.get_finished_spans() if span.name == "its own")
    assert {span.parent and span.parent.span_id for span in found.values()} == {program.context.span_id}


async def test_a_step_that_fails_says_so_and_quotes_no_traceback(
    environment: Path, provider: Emulator, exporter: InMemorySpanExporter
) -> None:
    film = Project(name="film", shots=(Shot(id="sea", prompt="[policy] the sea", duration=1, resolution="480p"),))
    async with await open_environment_session() as session:
        report = await run_project(session, film)
    assert report.has_failed
    failed = own_spans(exporter)["submit"]
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "ContentPolicyError"
    assert failed.events == ()


async def test_one_trace_leads_from_the_request_to_the_stored_file(
    environment: Path, provider: Emulator, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await free_port()
    monkeypatch.setenv("PREFECT_VIDEO_WEBHOOK_URL", f"http://127.0.0.1:{port.getsockname()[1]}")
    async with run_service(port, collect=True) as service:
        job = (await generate(service)).json()
        assert (await wait_for_status(service, job["job_id"], "completed", "failed"))["status"] == "completed"
        async with asyncio.timeout(60):
            # The row is stored a moment before the step ends.
            while "store" not in own_spans(exporter):
                await asyncio.sleep(0.01)
    found = own_spans(exporter)
    assert {"generate", "submit", "download", "store"} <= set(found)
    assert len({span.context.trace_id for span in found.values()}) == 1


async def test_a_restart_between_the_request_and_the_file_keeps_the_trace(
    environment: Path, provider: Emulator, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_service(collect=False) as service:
        job = (await generate(service)).json()
        await wait_for_status(service, job["job_id"], "processing", "completed")
    # What a new process has not.
    monkeypatch.setattr(spans, "_traces", OrderedDict())
    async with run_service(collect=True, sweep_seconds=0.1) as service:
        with trace.get_tracer("another program").start_as_current_span("another trace"):
            await wait_for_status(service, job["job_id"], "completed")
        async with asyncio.timeout(60):
            while "store" not in {span.name for span in exporter.get_finished_spans()}:
                await asyncio.sleep(0.01)
    ours = [span for span in exporter.get_finished_spans() if span.instrumentation_scope.name == "prefect_video"]
    assert {"generate", "submit", "download", "store"} <= {span.name for span in ours}
    assert len({span.context.trace_id for span in ours}) == 1


def test_no_part_of_the_domain_loads_opentelemetry() -> None:
    code = (
        "import sys, prefect_video, prefect_video.pipeline.steps, prefect_video.pipeline.shot_run;"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
