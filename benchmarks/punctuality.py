"""Punctuality: from the first request to the last file, against the ideal and beside other clients.

    python -m benchmarks.punctuality [--generations 60] [--at-once 20] [--seconds 15] [--server both] [--only sdk,sora]

Each client runs alone, in a process of its own, against an emulator of its own; this package twice on one ledger: from
an empty one, and with what the first run has taught. `wall` is the whole process, `made` the time from the first
accepted request to the last file, both as multiples of the ideal. Requests are status requests, lists included. CPU and
RSS are those of the process and its children; with `--server up` Prefect's server runs already, and is not counted. Of
the peers, `sdk` is a loop around the openai SDK, and `flow` is written by hand (`benchmarks.punctuality_clients`).
Exits with 1 unless this package meets its figures.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import httpx
import psutil

from benchmarks.emulator_process import ROOT, EmulatorProcess
from benchmarks.punctuality_clients import Order
from benchmarks.torture_worker import Address
from benchmarks.waiting import read_spans

MAX_FIRST: Final = 1.05
MAX_SECOND: Final = 1.03
MAX_REQUESTS: Final = 2.5
PACKAGE: Final = ("openai", "sora")
PEERS: Final = ("sdk", "flow")
STARTUP: Final = {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600"}
"""In an empty home the embedded server migrates its database first; on a slow machine Prefect gives up before."""
SAMPLE_SECONDS: Final = 0.25
STUCK_SECONDS: Final = 900.0


@dataclass(frozen=True)
class Figures:
    """Figures of one run.

    Attributes:
        wall: Seconds of the whole process.
        began: Unix time of its start.
        last_file: Unix time of the last file.
        requests: Status requests for a generation.
        cpu: Seconds of processor time.
        megabytes: Peak of the memory of the process and its children.
    """

    wall: float
    began: float
    last_file: float
    requests: float
    cpu: float
    megabytes: float

    def made(self, accepted: Iterable[float]) -> float:
        """Return the seconds from the first of the accepted requests to the last file."""
        return self.last_file - min(moment for moment in accepted if moment > self.began)


def measure(name: str, order: Order, emulator: EmulatorProcess, environ: Mapping[str, str]) -> Figures:
    """Run one client to its end."""
    before = count_requests(emulator)
    began = time.time()
    command = [sys.executable, "-m", "benchmarks.punctuality_clients", name, order.to_json()]
    with (Path(order.folder) / "client.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environ}, stdout=log, stderr=log)
        cpu, megabytes = watch(psutil.Process(process.pid), process)
    wall = time.time() - began
    files = [path.stat().st_mtime for path in order.videos.rglob("*.mp4") if path.stat().st_mtime > began]
    if process.returncode or len(files) < order.generations:
        raise RuntimeError(f"{name} ended with {process.returncode} and {len(files)} files, see {order.folder}")
    requests = (count_requests(emulator) - before) / order.generations
    return Figures(wall, began, max(files), requests, cpu, megabytes)


def watch(root: psutil.Process, process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Wait for a process; return the processor seconds and the peak megabytes of it and its children."""
    times: dict[int, float] = {}
    peak, deadline = 0, time.monotonic() + STUCK_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        size = 0
        try:
            for member in (root, *root.children(recursive=True)):
                used = member.cpu_times()
                times[member.pid] = used.user + used.system
                size += member.memory_info().rss
        except psutil.NoSuchProcess:
            pass
        peak = max(peak, size)
        time.sleep(SAMPLE_SECONDS)
    if process.returncode is None:
        process.kill()
        process.wait()
    return sum(times.values()), peak / 1e6


def count_requests(emulator: EmulatorProcess) -> int:
    """Return the status requests that the provider has counted."""
    requests = emulator.usage()["requests"]
    return int(requests.get("retrieve", 0) + requests.get("list", 0))


@contextmanager
def prefect_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run a Prefect server; yield the environment of its clients."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {"PREFECT_HOME": str(folder / "server"), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, env={**os.environ, **environ}, stdout=log, stderr=log)
    try:
        asyncio.run(wait_until_healthy(environ["PREFECT_API_URL"]))
        yield environ
    finally:
        process.terminate()
        process.wait()


async def wait_until_healthy(url: str) -> None:
    """Wait until a Prefect server answers."""
    async with asyncio.timeout(120), httpx.AsyncClient() as client:
        while True:
            try:
                if (await client.get(f"{url}/health")).is_success:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.2)


def measure_client(
    name: str, folder: Path, options: argparse.Namespace, environ: Mapping[str, str]
) -> list[tuple[Figures, float]]:
    """Measure one client, this package twice; with the seconds from the first request to the last file."""
    folder.mkdir()
    database = folder / "emulator.db"
    emulator = EmulatorProcess(
        "--db", str(database), "--render", "plate", "--times", f"fixed:{options.seconds}",
        "--capacity", str(options.at_once),
    )  # fmt: skip
    try:
        url = Address(emulator.endpoint).url
        order = Order(url, str(folder), options.generations, options.at_once, run=1)
        runs = (1, 2) if name in PACKAGE else (1,)
        home = {"PREFECT_HOME": str(folder / "prefect"), **STARTUP, **environ}
        measured = [measure(name, replace(order, run=run), emulator, home) for run in runs]
    finally:
        emulator.close()
    accepted = [created for created, _ in read_spans(database).values()]
    return [(figures, figures.made(accepted)) for figures in measured]


def print_figures(label: str, figures: Figures, made: float, ideal: float, limit: float | None) -> bool:
    """Print one row; return True if it is within its limits."""
    met = limit is None or (made <= limit * ideal and figures.requests <= MAX_REQUESTS)
    verdict = "" if limit is None else "ok" if met else "MISSED"
    print(
        f"{label:<34}{figures.wall / ideal:>8.2f}{made / ideal:>8.3f}{figures.requests:>10.2f}"
        f"{figures.cpu:>8.1f}{figures.megabytes:>8.0f}   {verdict}",
        flush=True,
    )
    return met


def run(options: argparse.Namespace) -> bool:
    """Measure and print all rows; return True if every figure holds."""
    ideal = math.ceil(options.generations / options.at_once) * options.seconds
    names = options.only.split(",") if options.only else [*PEERS, *PACKAGE]
    servers = ["up", "none"] if options.server == "both" else [options.server]
    print(f"{options.generations} generations of {options.seconds:g} s, {options.at_once} at once: ideal {ideal:g} s")
    print(f"{'':<34}{'wall':>8}{'made':>8}{'requests':>10}{'CPU s':>8}{'RSS MB':>8}")
    passed = True
    with tempfile.TemporaryDirectory(prefix="punctuality-") as folder:
        for server in servers:
            with ExitStack() as stack:
                environ = stack.enter_context(prefect_server(Path(folder))) if server == "up" else {}
                for name in names:
                    if name == "sdk" and server != servers[0]:
                        continue
                    measured = measure_client(name, Path(folder) / f"{name}-{server}", options, environ)
                    for number, (figures, made) in enumerate(measured):
                        limit = (MAX_FIRST, MAX_SECOND)[number] if name in PACKAGE and server == "up" else None
                        label = name if name == "sdk" else f"{name}, server {server}"
                        label += ", second run" if number else ""
                        passed &= print_figures(label, figures, made, ideal, limit)
    return passed


def main() -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=60)
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--server", choices=["up", "none", "both"], default="both")
    parser.add_argument("--only", help="names of clients, with commas: sdk, flow, openai, sora")
    return 0 if run(parser.parse_args()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
