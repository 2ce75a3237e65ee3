"""Webhooks: a burst of deliveries to a receiver, and a project that waits by webhook.

    python -m benchmarks.webhooks [--deliveries 10000] [--rate 200] [--generations 100] [--ledger both]

Provider, receiver and waiting process are three processes. Exits with 1 unless every figure holds.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from sqlalchemy import func, insert, select

from benchmarks.torture import ledgers
from prefect_video.ledger import Job, Ledger, State, history, jobs_table, row_from_request, webhook_events
from prefect_video.pipeline import run_project
from prefect_video.pipeline.steps import build_project_job_requests
from prefect_video.projects import Project
from prefect_video.session import Session, SessionEvent, SessionRef, open_session

KEY, SECRET = "sk-benchmark", "whsec_benchmark"
KINDS = ("generation.queued", "generation.started", "generation.completed")
FORGED_SHARE, DUPLICATE_SHARE = 0.05, 0.10
WORK_SECONDS, AT_ONCE = 31.0, 20


@dataclass(frozen=True)
class Figure:
    """Row of the table.

    Attributes:
        label: Name of the figure.
        value: The measured value, formatted.
        holds: True if it is within its limit.
    """

    label: str
    value: str
    holds: bool


@dataclass(frozen=True)
class Delivery:
    """One POST of a webhook.

    Attributes:
        body: Its body.
        signature: Its signature.
        forged: True if the signature is not that of the provider.
    """

    body: bytes
    signature: str
    forged: bool = False


@contextmanager
def run_provider(*options: str) -> Iterator[dict[str, str]]:
    """Run the emulator in a process of its own, and yield its addresses."""
    command = [sys.executable, "-m", "prefect_video.emulator", "--port", "0", "--key", KEY, "--webhook-secret", SECRET]
    with subprocess.Popen([*command, "--render", "plate", *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def run_receiver() -> Iterator[str]:
    """Run `prefect-video serve` in a process of its own, and yield its address."""
    command = [str(Path(sys.executable).parent / "prefect-video"), "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "Serving on" in line, line
        try:
            yield line.split("Serving on ")[1].split(". ")[0]
        finally:
            process.send_signal(signal.SIGINT)


def set_environment(folder: Path, endpoint: str, ledger: str) -> None:
    """Set the variables that session and receiver share."""
    os.environ |= {
        "SORA_API_KEY": KEY,
        "SORA_API_ENDPOINT": endpoint,
        "SORA_PLAN": "api-tier-3",
        "SORA_WEBHOOK_SECRET": SECRET,
        "PREFECT_VIDEO_LEDGER_URL": ledger,
        "PREFECT_VIDEO_STORE": str(folder / f"videos-{uuid.uuid4().hex}"),
        "PREFECT_VIDEO_SPOOL": str(folder / "spool"),
        "PREFECT_VIDEO_MAX_IN_FLIGHT": str(AT_ONCE),
        "PREFECT_HOME": str(folder),
        "NO_COLOR": "1",
    }
    os.environ.pop("PREFECT_API_URL", None)


def build_project(name: str, count: int, prefix: str) -> Project:
    """Build a project of shots of one second."""
    shots = [{"id": f"{prefix}-{n}", "prompt": f"{prefix} {name} {n}"} for n in range(count)]
    defaults = {"duration": 1, "resolution": "720p"}
    return Project.model_validate({"project": name, "defaults": defaults, "shots": shots})


async def submit_all(session: Session, project: Project) -> list[str]:
    """Submit all shots and return the generations' ids; the jobs are inserted in bulk, the requests are real."""
    job_requests = await build_project_job_requests(session, project)
    at_once = asyncio.Semaphore(20)

    async def send(row: dict[str, Any]) -> dict[str, Any]:
        async with at_once:
            generation = await session.provider.submit(row["shot"], idempotency_key=row["id"], project=row["project"])
        now = datetime.now(UTC)
        return {**row, "generation_id": generation.id, "sent_at": now, "submitted_at": now}

    rows = [row_from_request(job_request, State.SUBMITTED, 1, None, datetime.now(UTC)) for job_request in job_requests]
    sent = await asyncio.gather(*map(send, rows))
    async with session.ledger._database.writing() as connection:
        for start in range(0, len(sent), 500):
            await connection.execute(insert(jobs_table), sent[start : start + 500])
    return [row["generation_id"] for row in sent]


def sign(body: bytes, secret: str = SECRET) -> str:
    """Return the signature of a body."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def build_event(generation_id: str, kind: str) -> bytes:
    """Build the body of an event."""
    body = {
        "event_type": kind,
        "event_id": f"evt_{uuid.uuid4().hex[:24]}",
        "timestamp": int(time.time()),
        "data": {"generation_id": generation_id, "status": kind.partition(".")[2]},
    }
    return json.dumps(body, separators=(",", ":")).encode()


def build_deliveries(count: int, made: list[str], victims: list[str], chance: random.Random) -> list[Delivery]:
    """Build genuine deliveries, some of them duplicated, and forged ones, in random order.

    Args:
        count: Number of deliveries.
        made: Ids of the generations that genuine events are about.
        victims: Ids of the generations that forged events are about.
        chance: Source of randomness.
    """
    forged = round(count * FORGED_SHARE)
    twice = round(count * DUPLICATE_SHARE)
    bodies = [build_event(generation_id, kind) for generation_id in made for kind in KINDS]
    genuine = [Delivery(body, sign(body)) for body in bodies[-(count - forged - twice) :]]
    forgeries = []
    for number in range(forged):
        body = build_event(chance.choice(victims), KINDS[-1])
        # Signed with another secret, with the signature of another body, or not at all.
        signature = (sign(body, "whsec_guessed"), chance.choice(genuine).signature, "")[number % 3]
        forgeries.append(Delivery(body, signature, forged=True))
    everything = [*genuine, *chance.sample(genuine, twice), *forgeries]
    chance.shuffle(everything)
    return everything


async def deliver(
    address: str, deliveries: list[Delivery], rate: float
) -> tuple[list[float], Counter[tuple[bool, int]]]:
    """Post at a steady rate, without waiting for responses.

    Returns:
        Latencies in seconds, and the number of responses by (forged, status).
    """
    latencies: list[float] = []
    answers: Counter[tuple[bool, int]] = Counter()

    async def post(client: aiohttp.ClientSession, delivery: Delivery, at: float) -> None:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        headers = {"X-Sora-Signature": delivery.signature, "Content-Type": "application/json"}
        began = time.perf_counter()
        async with client.post(f"{address}/webhooks/sora", data=delivery.body, headers=headers) as answer:
            await answer.read()
        latencies.append(time.perf_counter() - began)
        answers[delivery.forged, answer.status] += 1

    start = time.perf_counter() + 0.5
    connector = aiohttp.TCPConnector(limit=100)
    async with aiohttp.ClientSession(connector=connector) as client, asyncio.TaskGroup() as group:
        for number, delivery in enumerate(deliveries):
            at = start + number / rate
            if at - time.perf_counter() > 0.5:
                await asyncio.sleep(at - time.perf_counter() - 0.25)
            group.create_task(post(client, delivery, at))
    return latencies, answers


async def read_usage(url: str) -> dict[str, Any]:
    """Return the provider's own account."""
    async with aiohttp.ClientSession() as client, client.get(f"{url}/_emulator/usage") as answer:
        usage: dict[str, Any] = await answer.json()
        return usage


async def wait_until_handled(ledger: Ledger, timeout_seconds: float = 120.0) -> None:
    """Wait until every event is handled."""
    async with asyncio.timeout(timeout_seconds):
        while True:
            async with ledger._database.reading() as connection:
                left = select(func.count()).where(webhook_events.c.handled_at.is_(None))
                if not (await connection.execute(left)).scalar_one():
                    return
            await asyncio.sleep(0.1)


async def count_completions(ledger: Ledger, project: str) -> Counter[int]:
    """Return the number of jobs of a project by the number of times that they were completed."""
    times = func.count(history.c.id)
    query = (
        select(jobs_table.c.id, times)
        .outerjoin(history, (history.c.job_id == jobs_table.c.id) & (history.c.to_state == State.COMPLETED))
        .where(jobs_table.c.project == project)
        .group_by(jobs_table.c.id)
    )
    async with ledger._database.reading() as connection:
        return Counter(number for _, number in await connection.execute(query))


async def measure_storm(folder: Path, count: int, rate: float, ledger: str, name: str) -> list[Figure]:
    """Measure a burst of deliveries."""
    chance = random.Random(4)
    unique = count - round(count * FORGED_SHARE) - round(count * DUPLICATE_SHARE)
    number = -(-unique // len(KINDS))
    with run_provider("--capacity", "100000", "--speed", "100000") as emulator:
        set_environment(folder, emulator["endpoint"], ledger)
        async with await open_session(SessionRef.from_names()) as session:
            made = await submit_all(session, build_project(f"storm-{name}", number, "made"))
            victims = await submit_all(session, build_project(f"victims-{name}", 50, "victim"))
            url = emulator["endpoint"].partition("/v1")[0]
            with run_receiver() as address:
                deliveries = build_deliveries(count, made, victims, chance)
                latencies, answers = await deliver(address, deliveries, rate)
                began = time.perf_counter()
                await wait_until_handled(session.ledger)
                drained = time.perf_counter() - began
            genuine, forged = (
                await count_completions(session.ledger, f"storm-{name}"),
                await count_completions(session.ledger, f"victims-{name}"),
            )
            usage = await read_usage(url)
            async with session.ledger._database.reading() as connection:
                kept = (await connection.execute(select(func.count()).select_from(webhook_events))).scalar_one()
    cuts = statistics.quantiles(latencies, n=1000)
    p50, p99 = cuts[499] * 1000, cuts[989] * 1000
    unexpected = {str(key): n for key, n in answers.items() if key not in ((False, 200), (True, 401))}
    correct = f"{count - sum(unexpected.values())} of {count} {unexpected or ''}"
    return [
        Figure(f"{name}: deliveries answered correctly", correct, not unexpected),
        Figure(f"{name}: genuine events written once", f"{kept} of {unique}", kept == unique),
        Figure(f"{name}: generations completed once", f"{genuine[1]} of {number}", dict(genuine) == {1: number}),
        Figure(f"{name}: status requests", f"{usage['polled']} for {number}", usage["polled"] == number),
        Figure(f"{name}: forged events acted on", str(len(victims) - forged[0]), dict(forged) == {0: len(victims)}),
        Figure(f"{name}: latency p50 / p99 at {rate:g}/s", f"{p50:.1f} / {p99:.1f} ms", p99 < 50),
        Figure(f"{name}: all handled after the last one", f"{drained:.1f} s", drained < 30),
    ]


async def measure_waiting(folder: Path, count: int, ledger: str, name: str) -> list[Figure]:
    """Measure a project that waits by webhook."""
    ideal = -(-count // AT_ONCE) * WORK_SECONDS
    options = ("--capacity", str(AT_ONCE), "--times", f"fixed:{WORK_SECONDS:g}")
    with run_provider(*options) as emulator:
        set_environment(folder, emulator["endpoint"], ledger)
        delays: list[float] = []
        answered: dict[str, float] = {}

        def observe(event: SessionEvent, job: Job) -> None:
            if event is SessionEvent.ANSWERED:
                answered[job.id] = time.perf_counter()
            elif event is SessionEvent.COMPLETED:
                delays.append(time.perf_counter() - answered[job.id] - WORK_SECONDS)

        with run_receiver() as address:
            os.environ["PREFECT_VIDEO_WEBHOOK_URL"] = address
            try:
                async with await open_session(SessionRef.from_names(), observer=observe) as session:
                    report = await run_project(session, build_project(f"waiting-{name}", count, "shot"))
            finally:
                del os.environ["PREFECT_VIDEO_WEBHOOK_URL"]
        usage = await read_usage(emulator["endpoint"].partition("/v1")[0])
    requests = (usage["polled"] + usage["listed"]) / count
    p95 = statistics.quantiles(delays, n=100)[94]
    stored = sum(shot.status == "stored" for shot in report.shots)
    return [
        Figure(f"{name}: stored, billed", f"{stored}, {usage['billed']}", stored == usage["billed"] == count),
        Figure(f"{name}: status requests per generation", f"{requests:.2f}", requests <= 1.2),
        Figure(f"{name}: p95 from completion to noticed", f"{p95:.2f} s", p95 <= 1.5),
        Figure(f"{name}: makespan (ideal {ideal:.1f} s)", f"{report.seconds:.1f} s", report.seconds <= 1.05 * ideal),
    ]


async def measure(options: argparse.Namespace) -> list[Figure]:
    """Measure all figures."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        for kind in ["sqlite", "postgres"] if options.ledger == "both" else [options.ledger]:
            folder = Path(name) / kind
            folder.mkdir()
            with ledgers(kind, folder) as url:
                if options.deliveries:
                    figures += await measure_storm(folder, options.deliveries, options.rate, url, kind)
                if options.generations:
                    figures += await measure_waiting(folder, options.generations, url, kind)
    return figures


def main() -> int:
    """Run the script and print its table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deliveries", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--ledger", choices=["sqlite", "postgres", "both"], default="both")
    figures = asyncio.run(measure(parser.parse_args()))
    for figure in figures:
        print(f"{figure.label:<52}{figure.value:>24}   {'holds' if figure.holds else 'FAILS'}")
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
