"""Cost of polling: status requests, delay and memory, against an emulator and beside two naive clients.

    python -m benchmarks.waiting [--speed 2] [--generations 100] [--at-once 20] [--waiting 2000]

Every row runs the same number of generations, at most `--at-once` at a time, against an emulator of its own; all rows
run side by side, with staggered starts. Times are read from the emulator's state, requests from its usage, lists
included. A speed above 1 shortens the generations and the naive clients' pauses, not the poller's limits. Exits with 1
unless every figure holds.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import httpx

from benchmarks.waiting_crowd import open_session
from prefect_video.ledger import Job
from prefect_video.pipeline.steps import build_project_job_requests, claim_shots, poll, submit
from prefect_video.projects import Project
from prefect_video.providers.sora import SoraProvider
from prefect_video.shots import Shot

FIXED_SECONDS: Final = 31.0
SIGMA: Final = 0.4
SECRET: Final = "whsec_benchmark"
WEBHOOK_SECONDS: Final = 1.5
"""Limit, with webhooks, of the 95th percentile of the time from end to notice, for generations of any length."""
SHOT_SECONDS: Final = 4
"""Length of the videos; with log-normal times, the median is 9 seconds of work for each second."""

Noticed = dict[str, float]
"""Unix time at which a client learned that a generation had ended, by the generation's id."""


@dataclass(frozen=True)
class Order:
    """Task of a client.

    Attributes:
        endpoint: Base URL of its emulator.
        folder: Folder of its files.
        generations: Number of generations.
        at_once: Most generations at a time.
        speed: Speed of the emulator.
    """

    endpoint: str
    folder: Path
    generations: int
    at_once: int
    speed: float

    def build_shots(self) -> tuple[Shot, ...]:
        """Build the shots."""
        return tuple(
            Shot(id=f"shot-{number}", prompt=f"a lighthouse, view {number}", duration=SHOT_SECONDS, resolution="480p")
            for number in range(self.generations)
        )


Client = Callable[[Order], Awaitable[Noticed]]


@dataclass(frozen=True)
class Row:
    """Row of the table: a client, its emulator's options, and the limits of its figures.

    Attributes:
        name: Label.
        client: The client.
        options: Options of the emulator.
        max_requests: Limit of the status requests for a generation.
        max_delay: Limit of the 95th percentile of the time from end to notice, as a share of the generation's time.
        max_makespan: Limit of the time for all, as a multiple of the ideal.
    """

    name: str
    client: Client
    options: Sequence[str]
    max_requests: float | None = None
    max_delay: float | None = None
    max_makespan: float | None = None


@dataclass(frozen=True)
class Figures:
    """Figures of one row.

    Attributes:
        makespan: Seconds for all generations.
        ideal: Least possible seconds for all generations.
        requests: Status requests for a generation.
        delay: 95th percentile of the time from end to notice, as a share of the generation's time.
    """

    makespan: float
    ideal: float
    requests: float
    delay: float

    def meet(self, row: Row) -> bool:
        """Return True if every figure is within the row's limits."""
        limits = (
            (self.requests, row.max_requests),
            (self.delay, row.max_delay),
            (self.makespan / self.ideal, row.max_makespan),
        )
        return all(limit is None or figure <= limit for figure, limit in limits)


def build_naive_client(pause_seconds: float) -> Client:
    """Return a client that polls each generation at a constant interval."""

    async def make_all(order: Order) -> Noticed:
        provider = SoraProvider(api_key="sk-emulator", endpoint=order.endpoint)
        slots = asyncio.Semaphore(order.at_once)
        noticed: Noticed = {}

        async def make(shot: Shot) -> None:
            async with slots:
                generation = await provider.submit(shot, idempotency_key=shot.id, project="naive")
                while not generation.status.ended:
                    await asyncio.sleep(pause_seconds / order.speed)
                    generation = await provider.retrieve(generation.id)
                noticed[generation.id] = time.time()

        await asyncio.gather(*(make(shot) for shot in order.build_shots()))
        await provider.aclose()
        return noticed

    return make_all


async def poll_all(order: Order, *, webhook_url: str | None = None) -> Noticed:
    """Run the steps of this package over a new ledger: submit, then wait in the shared poller."""
    noticed: Noticed = {}
    async with open_session(
        order.endpoint, order.folder, at_once=order.at_once, speed=order.speed, webhook_url=webhook_url
    ) as session:
        job_requests = await build_project_job_requests(session, Project(name="waiting", shots=order.build_shots()))
        claims = await claim_shots(session, job_requests, budgets=(), partial=False)

        async def make(job: Job) -> None:
            async with session.in_flight_slots.acquire(0):
                job = await poll(session, await submit(session, job))
            noticed[job.generation_id or ""] = time.time()

        await asyncio.gather(*(make(claim.job) for claim in claims if claim.job))
    return noticed


async def poll_with_webhooks(order: Order) -> Noticed:
    """Run the same steps with a webhook receiver in a process of its own."""
    async with serve_webhooks(order) as address:
        return await poll_all(order, webhook_url=address)


@asynccontextmanager
async def serve_webhooks(order: Order) -> AsyncIterator[str]:
    """Run `prefect-video serve` over the order's ledger, and yield its address."""
    settings = {
        "SORA_API_KEY": "sk-emulator",
        "SORA_API_ENDPOINT": order.endpoint,
        "SORA_PLAN": "emulator",
        "SORA_WEBHOOK_SECRET": SECRET,
        "PREFECT_VIDEO_LEDGER_URL": f"sqlite:///{order.folder / 'ledger.db'}",
        "PREFECT_VIDEO_STORE": (order.folder / "store").as_uri(),
        "PREFECT_HOME": str(order.folder),
        "NO_COLOR": "1",
    }
    command = [str(Path(sys.executable).parent / "prefect-video"), "serve", "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **settings}, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        yield line.split("Serving on ")[1].split(". ")[0]
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.wait()


def build_rows(speed: float) -> list[Row]:
    """Build the table: fixed times first, then random times that the provider gives no estimate of."""
    fixed = ("--times", f"fixed:{FIXED_SECONDS}", "--speed", str(speed))
    spread = ("--times", f"lognormal:{SIGMA}", "--no-hint", "--speed", str(speed))
    limits = {"max_requests": 2.5, "max_delay": 0.05, "max_makespan": 1.05}
    return [
        Row("polls every second", build_naive_client(1.0), fixed),
        Row("polls every 15 s", build_naive_client(15.0), fixed),
        Row("poller", poll_all, fixed, **limits),
        Row("poller, provider without lists", poll_all, (*fixed, "--listing", "404"), **limits),
        Row(
            "poller with webhooks",
            poll_with_webhooks,
            (*fixed, "--webhook-secret", SECRET),
            max_requests=1.2,
            max_delay=WEBHOOK_SECONDS * speed / FIXED_SECONDS,
            max_makespan=1.05,
        ),
        Row("poller, log-normal, no hint", poll_all, spread, max_requests=5.0, max_delay=0.12),
    ]


@asynccontextmanager
async def emulator(folder: Path, options: Sequence[str]) -> AsyncIterator[tuple[str, Path]]:
    """Run an emulator in a process of its own; yield its endpoint and its database, readable once it has stopped."""
    database = folder / "emulator.db"
    command = [
        sys.executable,
        "-m",
        "prefect_video.emulator",
        "--port",
        "0",
        "--render",
        "plate",
        "--db",
        str(database),
    ]
    process = await asyncio.create_subprocess_exec(*command, *options, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())["endpoint"], database
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def measure(
    row: Row, folder: Path, *, generations: int, at_once: int, speed: float, delay_seconds: float = 0.0
) -> Figures:
    """Run one row after a delay."""
    await asyncio.sleep(delay_seconds)
    folder.mkdir()
    async with emulator(folder, [*row.options, "--capacity", str(at_once)]) as (endpoint, database):
        noticed = await row.client(Order(endpoint, folder, generations, at_once, speed))
        async with httpx.AsyncClient() as client:
            requests = (await client.get(f"{endpoint.removesuffix('/v1/sora')}/_emulator/usage")).json()["requests"]
    spans = read_spans(database)
    delays = [(noticed[name] - finished) / (finished - created) for name, (created, finished) in spans.items()]
    return Figures(
        makespan=max(noticed.values()) - min(created for created, _ in spans.values()),
        ideal=compute_ideal_makespan([finished - created for created, finished in spans.values()], at_once),
        requests=(requests.get("retrieve", 0) + requests.get("list", 0)) / generations,
        delay=quantiles(delays, n=20, method="inclusive")[-1],
    )


def read_spans(database: Path) -> dict[str, tuple[float, float]]:
    """Return the Unix times of acceptance and completion by generation, in order of acceptance."""
    with sqlite3.connect(database) as connection:
        generations = [
            json.loads(body) for (body,) in connection.execute("SELECT body FROM generations ORDER BY position")
        ]
    return {generation["id"]: (generation["created"], generation["finished"]) for generation in generations}


def compute_ideal_makespan(durations: Sequence[float], at_once: int) -> float:
    """Return the time for all generations, in this order, if each begins the moment another one ends."""
    ends = [0.0] * at_once
    for duration in durations:
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)


async def measure_crowd(folder: Path, waiting: int) -> dict[str, float]:
    """Measure memory and load of a process that polls that many generations."""
    folder.mkdir()
    options = ["--times", "fixed:3600", "--capacity", str(waiting)]
    async with emulator(folder, options) as (endpoint, _):
        command = [sys.executable, "-m", "benchmarks.waiting_crowd", endpoint, str(folder), str(waiting)]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the process that polls {waiting} generations ended with {process.returncode}")
    figures: dict[str, float] = json.loads(output)
    return figures


def print_row(row: Row, figures: Figures) -> bool:
    """Print one row; return True if its figures are within their limits."""
    passed = figures.meet(row)
    verdict = "" if row.max_requests is None else "ok" if passed else "MISSED"
    print(
        f"{row.name:<34}{figures.makespan:>10.1f} s{figures.makespan / figures.ideal:>8.3f} x"
        f"{figures.requests:>10.2f}{100 * figures.delay:>10.1f} %   {verdict}"
    )
    return passed


async def run(options: argparse.Namespace) -> bool:
    """Measure and print all rows; return True if every figure holds."""
    passed = True
    with tempfile.TemporaryDirectory(prefix="waiting-") as name:
        table = build_rows(options.speed)
        size: dict[str, Any] = {
            "generations": options.generations, "at_once": options.at_once, "speed": options.speed
        }  # fmt: skip
        # Staggered: rows whose generations all end at the same moment would slow each other down.
        step = FIXED_SECONDS / options.speed / len(table)
        works = (
            measure(row, Path(name) / str(number), delay_seconds=number * step, **size)
            for number, row in enumerate(table)
        )
        measured = await asyncio.gather(*works)
        print(
            f"{options.generations} generations of {FIXED_SECONDS / options.speed:g} s, {options.at_once} at a time\n"
            f"{'':<34}{'makespan':>12}{'of ideal':>10}{'requests':>10}{'delay, p95':>12}"
        )
        for row, figures in zip(table, measured, strict=True):
            passed &= print_row(row, figures)
        if options.waiting:
            crowd_figures = await measure_crowd(Path(name) / "crowd", options.waiting)
            is_within = crowd_figures["megabytes"] <= 64 and crowd_figures["load"] <= 0.02
            passed &= is_within
            print(
                f"{options.waiting} waiting in one process: {crowd_figures['megabytes']:.0f} MB over idle,"
                f" {100 * crowd_figures['load']:.1f} % of one core, {crowd_figures['requests']:.0f} status requests"
                f"   {'ok' if is_within else 'MISSED'}"
            )
    return passed


def main() -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=float, default=2.0)
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--waiting", type=int, default=2000, help="0 skips that part")
    return 0 if asyncio.run(run(parser.parse_args())) else 1


if __name__ == "__main__":
    raise SystemExit(main())
