"""Engine: durations, prices, admission and load."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_video._tls import trusted_certificates
from prefect_video.emulator import Emulator, EmulatorSettings, run_emulator
from prefect_video.emulator.engine import Engine
from prefect_video.emulator.errors import ApiError
from prefect_video.emulator.generation import EmulatedGeneration, GenerationRequest, cost_usd
from prefect_video.emulator.rendering.clips import ClipLibrary
from prefect_video.emulator.scheduler import Scheduler
from prefect_video.emulator.state_store import MemoryStateStore, StateStoreError
from prefect_video.emulator.timing import WorkDistribution
from prefect_video.emulator.usage import CounterKey
from tests.support.emulator_client import Client, download

REQUEST = GenerationRequest(model="m", prompt="p", duration=1, aspect_ratio="1:1", resolution="480p")


@given(seed=st.text(max_size=10), duration=st.integers(1, 20))
def test_work_is_six_to_twelve_seconds_a_video_second(seed: str, duration: int) -> None:
    times = WorkDistribution.parse("uniform")
    work = times.work_seconds(seed, duration)
    assert 6 * duration <= work <= 12 * duration
    assert work == times.work_seconds(seed, duration)
    assert WorkDistribution.parse("fixed:3").work_seconds(seed, duration) == 3
    assert WorkDistribution.parse("lognormal:0").work_seconds(seed, duration) == pytest.approx(9 * duration)


@given(st.text(max_size=20))
def test_unknown_times_are_refused(text: str) -> None:
    readable = text == "uniform" or text.startswith(("fixed:", "lognormal:"))
    if not readable:
        with pytest.raises(ValueError, match="times"):
            WorkDistribution.parse(text)


@pytest.mark.parametrize("text", ["", "uniform:1", "fixed", "fixed:", "fixed:x", "fixed:nan", "lognormal:-1"])
def test_times_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write uniform, fixed:SECONDS or lognormal:SIGMA"):
        WorkDistribution.parse(text)


@pytest.mark.parametrize(
    ("duration", "usd"),
    [(1, "0.30"), (4, "1.20"), (5, "1.50"), (9, "2.70"), (10, "2.50"), (14, "3.50"), (15, "3.30"), (20, "4.00")],
)
def test_prices_are_the_guides(duration: int, usd: str) -> None:
    assert cost_usd(duration) == Decimal(usd)


@pytest.mark.parametrize(
    "bad",
    [
        {"keys": ()},
        {"keys": ("a", "a")},
        {"keys": (" a",)},
        {"speed": 0},
        {"times": "fixed:-1"},
        {"times": "lognormal:inf"},
        {"webhook_secrets": {"stranger": "s"}},
        {"colour": "red"},
    ],
)
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EmulatorSettings.model_validate(bad)


def test_settings_do_not_show_secrets() -> None:
    output = repr(EmulatorSettings(keys=("sk-secret",), webhook_secret="whsec_secret"))
    assert "secret" not in output.replace("webhook_secret", "")


async def test_statuses_come_in_order_and_work_is_billed_once(tmp_path: Path) -> None:
    settings = EmulatorSettings(speed=200)
    clips = ClipLibrary(settings, tmp_path)
    engine = Engine(settings, MemoryStateStore(), clips)
    seen: list[tuple[str, str]] = []
    engine.listeners.append(lambda generation, status: seen.append((generation.id, status)))
    clock = asyncio.create_task(engine.run())
    try:
        generation = engine.submit("acct", "sora", REQUEST)
        await asyncio.wait_for(engine.idle.wait(), 20)
        assert [status for _, status in seen] == ["queued", "processing", "completed"]
        assert generation.file_size == (await engine.clip(generation)).size
        assert generation.finished is not None
        assert generation.finished >= generation.ends_at
        report = engine.usage.report(engine.now_concurrency)
        assert (report["billed"], report["billed_usd"], report["now_concurrency"]) == (1, "0.30", 0)
    finally:
        clock.cancel()
        await engine.close()
        await clips.close()


async def test_past_half_the_work_there_is_no_cancelling(tmp_path: Path) -> None:
    engine = Engine(EmulatorSettings(times="fixed:1000"), MemoryStateStore(), ClipLibrary(EmulatorSettings(), tmp_path))
    early, late = engine.submit("acct", "sora", REQUEST), engine.submit("acct", "sora", REQUEST)
    _set_progress(early, share=0.45)
    _set_progress(late, share=0.55)
    assert engine.cancel("acct", early.id).status == "cancelled"
    with pytest.raises(ApiError) as rejection:
        engine.cancel("acct", late.id)
    assert rejection.value.status == 409


def test_a_change_of_speed_applies_to_work_in_progress() -> None:
    with Emulator(EmulatorSettings(port=0, times="fixed:10000", render="plate")) as emulator:
        client = Client.connect(emulator)
        for body in ("0", "-1", "nan", "inf", "fast", ""):
            assert (
                httpx.put(f"{emulator.url}/_emulator/speed", content=body, verify=trusted_certificates()).status_code
                == 400
            )
        in_progress = client.submit_accepted()
        assert (
            httpx.put(f"{emulator.url}/_emulator/speed", content="100000", verify=trusted_certificates()).json()
            == 100_000
        )
        emulator.wait_until_idle()
        assert client.retrieve(in_progress).json()["status"] == "completed"
        assert emulator.usage()["billed"] == 1


async def test_a_step_that_was_due_at_the_old_speed_is_not_taken(tmp_path: Path) -> None:
    engine = Engine(EmulatorSettings(times="fixed:1"), MemoryStateStore(), ClipLibrary(EmulatorSettings(), tmp_path))
    generation = engine.submit("acct", "sora", REQUEST)
    was_due = generation.starts_at
    engine.change_speed(0.001)
    assert generation.starts_at > was_due
    engine._advance(generation.id)
    assert generation.status == "queued"


def _set_progress(generation: EmulatedGeneration, *, share: float) -> None:
    """Move a generation to a share of its work, as of now."""
    work = generation.ends_at - generation.starts_at
    generation.starts_at = time.time() - work * share
    generation.ends_at = generation.starts_at + work


class _FullDisk(MemoryStateStore):
    """State store whose writes fail while `full` is set."""

    def __init__(self) -> None:
        self.full = True
        self.written: list[str] = []

    async def write(
        self, generations: Iterable[EmulatedGeneration], counters: Iterable[tuple[CounterKey, Decimal]]
    ) -> None:
        if self.full:
            raise StateStoreError("disk full")
        self.written.extend(generation.id for generation in generations)


async def test_what_could_not_be_written_stays_pending(tmp_path: Path) -> None:
    store = _FullDisk()
    engine = Engine(EmulatorSettings(), store, ClipLibrary(EmulatorSettings(), tmp_path))
    generation = engine.submit("acct", "sora", REQUEST)
    with pytest.raises(StateStoreError):
        await engine.commit()
    store.full = False
    await engine.commit()
    assert store.written == [generation.id]


def test_import_is_light() -> None:
    code = "import sys, prefect_video.emulator; print(sorted({'av', 'PIL', 'prefect'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=500)
    assert output.stdout.strip() == "[]"


async def test_scheduler_steps_in_order_of_time() -> None:
    steps: list[str] = []
    scheduler = Scheduler(steps.append)
    now = time.time()
    for name, due in [("late", now + 0.05), ("past", now - 5), ("soon", now + 0.01)]:
        scheduler.add(due, name)
    async with asyncio.timeout(60):
        async for _ in scheduler:
            if len(steps) == 3:
                break
    assert steps == ["past", "soon", "late"]


def test_capacity_holds_under_a_stampede() -> None:
    settings = EmulatorSettings(port=0, capacity=7, times="fixed:600")
    with Emulator(settings) as emulator, ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: Client.connect(emulator).submit().status_code, range(40)))
        usage = emulator.usage()
        assert statuses.count(202) == usage["accepted"] == usage["peak_concurrency"] == 7
        assert statuses.count(429) == usage["refused"] == 33


def test_a_thousand_generations_at_once() -> None:
    settings = EmulatorSettings(port=0, capacity=1000, speed=1000, render="plate", times="lognormal:0.5")
    with Emulator(settings) as emulator:
        client = Client.connect(emulator)
        for number in range(1000):
            client.submit_accepted(f"shot {number}")
        emulator.wait_until_idle()
        usage = emulator.usage()
        assert (usage["completed"], usage["billed"], usage["billed_usd"]) == (1000, 1000, "300.00")
        assert set(usage["by_prompt"]) == {f"shot {number}" for number in range(1000)}


async def test_runs_on_the_callers_loop() -> None:
    async with (
        run_emulator(EmulatorSettings(port=0)) as emulator,
        httpx.AsyncClient(verify=trusted_certificates()) as client,
    ):
        response = await client.get(f"{emulator.addresses.url}/_emulator/usage")
        assert response.json()["submitted"] == 0


def test_usage_counts_every_request(emulator: Emulator) -> None:
    client = Client.connect(emulator)
    generation = client.generate(emulator, "Harbour")
    client.list()
    client.cancel(generation["id"])
    download(generation["result"]["video_url"])
    download(generation["result"]["thumbnail_url"])
    usage = emulator.usage()
    assert usage["requests"] == {
        "cancel": 1, "content": 1, "list": 1, "retrieve": 1, "submit": 1, "thumbnail": 1,
    }  # fmt: skip
    assert usage["listed"] == usage["polled"] == usage["downloaded"] == 1
    assert usage["by_prompt"]["Harbour"] == {
        "submitted": 1, "accepted": 1, "refused": 0, "billed": 1, "downloaded": 1, "polled": 1, "billed_usd": "0.30",
    }  # fmt: skip
    assert usage["by_key"]["ator"]["billed_usd"] == "0.30"
    assert download(f"{emulator.url}/_emulator/usage").json() == usage
