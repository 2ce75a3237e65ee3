"""What waiting costs: status requests, lost time, memory, against an emulator and beside two naive clients.

    python -m benchmarks.waiting [--speed 2] [--generations 100] [--at-once 20] [--waiting 2000]

Every row makes the same number of generations, at most so many at once, against an emulator of its own; all rows run
side by side, but not in step. Times are those of the emulator's journal; requests are counted by its books, lists
included. A speed above 1 shortens the generations and the naive clients' pauses; the poller's own limits stay as
they are. Exits with 1 unless every figure holds.
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
from prefect_video.pipeline.steps import build_project_intents, claim_shots, poll, submit
from prefect_video.providers.sora import SoraProvider
from prefect_video.shots import Project, Shot

FIXED_SECONDS: Final = 31.0
SIGMA: Final = 0.4
SECRET: Final = "whsec_benchmark"
ANNOUNCED_SECONDS: Final = 1.5
"""With webhooks, the 95th percentile of the time from end to notice may be this long, whatever a generation takes."""
SHOT_SECONDS: Final = 4
"""Length of the videos: with times spread log-normally, 9 seconds of work for each second is the median."""

Noticed = dict[str, float]
"""When a client learned that a generation had ended, as Unix time, by the generation's id."""


@dataclass(frozen=True)
class Order:
    """What a client is to do: so many generations, so many at once, at that speed."""

    endpoint: str
    folder: Path
    generations: int
    at_once: int
    speed: float

    def shots(self) -> tuple[Shot, ...]:
        return tuple(
            Shot(id=f"shot-{number}", prompt=f"a lighthouse, view {number}", duration=SHOT_SECONDS, resolution="480p")
            for number in range(self.generations)
        )


Client = Callable[[Order], Awaitable[Noticed]]


@dataclass(frozen=True)
class Row:
    """One line of the table: a client, its emulator's options, and what it has to reach.

    Attributes:
        most_requests: Status requests for a generation.
        most_late: 95th percentile of the time from end to notice, as a part of the generation's time.
        most_makespan: Time for all, as a multiple of the ideal.
    """

    name: str
    client: Client
    options: Sequence[str]
    most_requests: float | None = None
    most_late: float | None = None
    most_makespan: float | None = None


@dataclass(frozen=True)
class Figures:
    """What one row came to."""

    makespan: float
    ideal: float
    requests: float
    late: float

    def keep_to(self, row: Row) -> bool:
        """Whether they are as good as they have to be."""
        limits = (
            (self.requests, row.most_requests),
            (self.late, row.most_late),
            (self.makespan / self.ideal, row.most_makespan),
        )
        return all(limit is None or figure <= limit for figure, limit in limits)


def naive(open_for_seconds: float) -> Client:
    """A client that asks for each generation again and again, after the same pause."""

    async def make_all(order: Order) -> Noticed:
        provider = SoraProvider(api_key="sk-emulator", endpoint=order.endpoint)
        slots = asyncio.Semaphore(order.at_once)
        noticed: Noticed = {}

        async def make(shot: Shot) -> None:
            async with slots:
                told = await provider.submit(shot, idempotency_key=shot.id, project="naive")
                while not told.status.ended:
                    await asyncio.sleep(open_for_seconds / order.speed)
                    told = await provider.retrieve(told.id)
                noticed[told.id] = time.time()

        await asyncio.gather(*(make(shot) for shot in order.shots()))
        await provider.aclose()
        return noticed

    return make_all


async def watched(order: Order, *, webhook_url: str | None = None) -> Noticed:
    """The steps of this package, over a new ledger: submit, then wait in the shared poller."""
    noticed: Noticed = {}
    async with open_session(
        order.endpoint, order.folder, at_once=order.at_once, speed=order.speed, webhook_url=webhook_url
    ) as session:
        job_requests = await build_project_intents(session, Project(name="waiting", shots=order.shots()))
        claims = await claim_shots(session, job_requests, budgets=(), partial=False)

        async def make(job: Job) -> None:
            async with session.in_flight_slots.acquire(0):
                job = await poll(session, await submit(session, job))
            noticed[job.generation_id or ""] = time.time()

        await asyncio.gather(*(make(claim.job) for claim in claims if claim.job))
    return noticed


async def announced(order: Order) -> Noticed:
    """The same, with a webhook receiver in a process of its own."""
    async with receiver(order) as address:
        return await watched(order, webhook_url=address)


@asynccontextmanager
async def receiver(order: Order) -> AsyncIterator[str]:
    """`prefect-video serve` over the order's ledger: its address."""
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


def rows(speed: float) -> list[Row]:
    """The table: fixed times as in the task, then times without any hint."""
    fixed = ("--times", f"fixed:{FIXED_SECONDS}", "--speed", str(speed))
    spread = ("--times", f"lognormal:{SIGMA}", "--no-hint", "--speed", str(speed))
    held = {"most_requests": 2.5, "most_late": 0.05, "most_makespan": 1.05}
    return [
        Row("asks every second", naive(1.0), fixed),
        Row("asks every 15 s", naive(15.0), fixed),
        Row("poller", watched, fixed, **held),
        Row("poller, provider without lists", watched, (*fixed, "--listing", "404"), **held),
        Row(
            "poller with webhooks",
            announced,
            (*fixed, "--webhook-secret", SECRET),
            most_requests=1.2,
            most_late=ANNOUNCED_SECONDS * speed / FIXED_SECONDS,
            most_makespan=1.05,
        ),
        Row("poller, log-normal, no hint", watched, spread, most_requests=5.0, most_late=0.12),
    ]


@asynccontextmanager
async def emulator(folder: Path, options: Sequence[str]) -> AsyncIterator[tuple[str, Path]]:
    """An emulator in a process of its own: its endpoint and its journal, which can be read once it has stopped."""
    journal = folder / "emulator.db"
    command = [sys.executable, "-m", "prefect_video.emulator", "--port", "0", "--render", "plate", "--db", str(journal)]
    process = await asyncio.create_subprocess_exec(*command, *options, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())["endpoint"], journal
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def measure(
    row: Row, folder: Path, *, generations: int, at_once: int, speed: float, after: float = 0.0
) -> Figures:
    """Runs one row, after so many seconds."""
    await asyncio.sleep(after)
    folder.mkdir()
    async with emulator(folder, [*row.options, "--capacity", str(at_once)]) as (endpoint, journal):
        noticed = await row.client(Order(endpoint, folder, generations, at_once, speed))
        async with httpx.AsyncClient() as client:
            usage = (await client.get(f"{endpoint.removesuffix('/v1/sora')}/_emulator/usage")).json()["requests"]
    spans = read_spans(journal)
    late = [(noticed[name] - finished) / (finished - created) for name, (created, finished) in spans.items()]
    return Figures(
        makespan=max(noticed.values()) - min(created for created, _ in spans.values()),
        ideal=ideal_makespan([finished - created for created, finished in spans.values()], at_once),
        requests=(usage.get("retrieve", 0) + usage.get("list", 0)) / generations,
        late=quantiles(late, n=20, method="inclusive")[-1],
    )


def read_spans(journal: Path) -> dict[str, tuple[float, float]]:
    """When each generation was accepted and completed, in order of acceptance."""
    with sqlite3.connect(journal) as connection:
        told = [json.loads(body) for (body,) in connection.execute("SELECT body FROM generations ORDER BY position")]
    return {one["id"]: (one["created"], one["finished"]) for one in told}


def ideal_makespan(seconds: Sequence[float], at_once: int) -> float:
    """How long all take, in this order, when each begins the moment another one ends."""
    free = [0.0] * at_once
    for taken in seconds:
        heapq.heapreplace(free, free[0] + taken)
    return max(free)


async def crowd(folder: Path, waiting: int) -> dict[str, float]:
    """Memory and load of a process in which so many generations wait."""
    folder.mkdir()
    options = ["--times", "fixed:3600", "--capacity", str(waiting)]
    async with emulator(folder, options) as (endpoint, _):
        command = [sys.executable, "-m", "benchmarks.waiting_crowd", endpoint, str(folder), str(waiting)]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        told, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the process with {waiting} waiting ended with {process.returncode}")
    figures: dict[str, float] = json.loads(told)
    return figures


def show(row: Row, figures: Figures) -> bool:
    """Prints one line; whether it holds."""
    held = figures.keep_to(row)
    verdict = "" if row.most_requests is None else "ok" if held else "MISSED"
    print(
        f"{row.name:<34}{figures.makespan:>10.1f} s{figures.makespan / figures.ideal:>8.3f} x"
        f"{figures.requests:>10.2f}{100 * figures.late:>10.1f} %   {verdict}"
    )
    return held


async def run(options: argparse.Namespace) -> bool:
    held = True
    with tempfile.TemporaryDirectory(prefix="waiting-") as name:
        table = rows(options.speed)
        size: dict[str, Any] = {
            "generations": options.generations, "at_once": options.at_once, "speed": options.speed
        }  # fmt: skip
        # Not in step: rows whose generations all end in the same moment would measure each other.
        step = FIXED_SECONDS / options.speed / len(table)
        works = (
            measure(row, Path(name) / str(number), after=number * step, **size) for number, row in enumerate(table)
        )
        measured = await asyncio.gather(*works)
        print(
            f"{options.generations} generations of {FIXED_SECONDS / options.speed:g} s, {options.at_once} at a time\n"
            f"{'':<34}{'makespan':>12}{'of ideal':>10}{'requests':>10}{'late, p95':>12}"
        )
        for row, figures in zip(table, measured, strict=True):
            held &= show(row, figures)
        if options.waiting:
            figures_of_crowd = await crowd(Path(name) / "crowd", options.waiting)
            good = figures_of_crowd["megabytes"] < 200 and figures_of_crowd["load"] < 0.1
            held &= good
            print(
                f"{options.waiting} waiting in one process: {figures_of_crowd['megabytes']:.0f} MB over idle,"
                f" {100 * figures_of_crowd['load']:.1f} % of one core, {figures_of_crowd['asked']:.0f} status requests"
                f"   {'ok' if good else 'MISSED'}"
            )
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=float, default=2.0)
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--waiting", type=int, default=2000, help="0 leaves that part out")
    return 0 if asyncio.run(run(parser.parse_args())) else 1


if __name__ == "__main__":
    raise SystemExit(main())
