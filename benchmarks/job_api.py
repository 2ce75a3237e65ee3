"""Job API: requests at a steady rate, and again with the service killed and restarted; none is lost or paid twice.

    python -m benchmarks.job_api [--rate 50] [--seconds 60] [--limit-ms 500]

Provider, service and client are three processes. A client repeats what was not answered with the same key, as clients
do. Exits with 1 unless every request was answered, each was accepted once by the provider, and 95 % of the answers of
the steady part came within the limit. After the restart, what clients repeat comes on top of the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from benchmarks.emulator_process import EmulatorProcess

TOKEN: Final = "a-token-of-the-benchmark"
SECRET: Final = "whsec_" + base64.b64encode(b"a secret of the benchmark").decode()
GIVE_UP_SECONDS: Final = 120.0
"""Without an answer to a request, and without another accepted generation."""


@dataclass(frozen=True)
class Answer:
    """Answered request.

    Attributes:
        job_id: The job.
        seconds: How long the answer took, from the first attempt on.
        attempts: Attempts until an answer.
    """

    job_id: str
    seconds: float
    attempts: int


class ServiceProcess:
    """The service in a process of its own, always at the same port."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        # What ends a generation frees its slot: without webhooks the next one would wait for a sweep.
        os.environ["PREFECT_VIDEO_WEBHOOK_URL"] = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start the service, and wait until it serves."""
        command = [str(Path(sys.executable).with_name("prefect-video")), "serve", "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert "Serving on" in line, line

    def kill(self) -> None:
        """Kill the service without warning."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the service."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)


async def request(client: httpx.AsyncClient, name: str) -> Answer:
    """Request one video, again and again with the same key until there is an answer."""
    body = {"prompt": f"video {name}", "duration": 1, "resolution": "480p", "project": "benchmark"}
    began = time.monotonic()
    for attempt in range(1, 1_000):
        with contextlib.suppress(httpx.TransportError):
            answer = await client.post("/v1/jobs", json=body, headers={"Idempotency-Key": f"request-{name}"})
            if answer.status_code in (200, 202):
                return Answer(answer.json()["job_id"], time.monotonic() - began, attempt)
            assert answer.status_code == 503, answer.text
        if time.monotonic() - began > GIVE_UP_SECONDS:
            break
        await asyncio.sleep(0.2)
    raise TimeoutError(f"request {name} was never answered")


async def send_all(service: ServiceProcess, part: str, rate: float, seconds: float, *, restarts: bool) -> list[Answer]:
    """Send requests at a rate, and kill and restart the service in the middle where that is wanted."""
    limits = httpx.Limits(max_connections=200)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"http://127.0.0.1:{service.port}"
    total = int(rate * seconds)
    restart: asyncio.Task[None] | None = None
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=30) as client:
        began, tasks = time.monotonic(), []
        for number in range(total):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            tasks.append(asyncio.create_task(request(client, f"{part}-{number}")))
            if restarts and number == total // 2:
                service.kill()
                restart = asyncio.create_task(asyncio.to_thread(service.start))
        answers = await asyncio.gather(*tasks)
    if restart is not None:
        await restart
    return answers


def wait_for_accepted(provider: EmulatorProcess, number: int) -> int:
    """Wait until the provider has accepted so many generations, or no more; return how many it has at the end."""
    accepted, until = 0, 0.0
    while accepted < number and (not accepted or time.monotonic() < until):
        time.sleep(0.5)
        if (now := int(provider.usage()["accepted"])) > accepted:
            accepted, until = now, time.monotonic() + GIVE_UP_SECONDS
    return accepted


def print_part(label: str, answers: Sequence[Answer]) -> float:
    """Print a row: answers, those to repeated requests, median and 95th percentile; return that one, in ms."""
    times = sorted(answer.seconds * 1_000 for answer in answers)
    repeated = sum(answer.attempts > 1 for answer in answers)
    p95 = times[int(len(times) * 0.95)]
    print(f"{label:<14}{len(answers):>9}{repeated:>10}{times[len(times) // 2]:>9.0f}{p95:>9.0f}", flush=True)
    return p95


def main() -> int:
    """Run the benchmark and print its table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rate", type=float, default=50.0)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--limit-ms", type=float, default=500.0)
    chosen = options.parse_args()
    provider = EmulatorProcess(
        "--key", "sk-benchmark", "--webhook-secret", SECRET, "--render", "plate", "--speed", "1000"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "SORA_API_KEY": "sk-benchmark",
            "SORA_API_ENDPOINT": provider.endpoint,
            "SORA_PLAN": "emulator",
            "SORA_WEBHOOK_SECRET": SECRET,
            "PREFECT_VIDEO_STORE": f"{folder}/videos",
            "PREFECT_VIDEO_SPOOL": f"{folder}/spool",
            "PREFECT_VIDEO_LEDGER_URL": f"sqlite:///{folder}/ledger.db",
            "PREFECT_VIDEO_SETTLE_SECONDS": "2",
            "PREFECT_VIDEO_SERVICE_API_TOKEN": TOKEN,
            "PREFECT_VIDEO_SERVICE_SWEEP_SECONDS": "2",
        }
        service = ServiceProcess()
        print(f"{'':<14}{'answered':>9}{'repeated':>10}{'p50 ms':>9}{'p95 ms':>9}")
        steady = asyncio.run(send_all(service, "steady", chosen.rate, chosen.seconds, restarts=False))
        p95 = print_part("steady", steady)
        # The restart is to be measured, and not what the first part has left to do.
        wait_for_accepted(provider, len(steady))
        restarted = asyncio.run(send_all(service, "restarted", chosen.rate, chosen.seconds, restarts=True))
        print_part("with a restart", restarted)
        jobs = len({answer.job_id for answer in (*steady, *restarted)})
        accepted = wait_for_accepted(provider, jobs)
        service.close()
    provider.close()
    print(f"jobs {jobs}, accepted by the provider {accepted}")
    holds = jobs == len(steady) + len(restarted) == accepted and p95 < chosen.limit_ms
    print("holds" if holds else "does not hold")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
