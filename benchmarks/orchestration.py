"""Cost of a shot in Prefect: empty tasks, a flow written by hand and this package, side by side.

    python -m benchmarks.orchestration [--shots 100,300,1000] [--repeats 3] [--only flow,package] [--profile]

Shots of 1 s at an emulator of 100 x speed with shared clips, 50 in flight, with one Prefect server that the script
starts. Each client runs in a process of its own (`benchmarks.orchestration_clients`): `bare` has as many empty tasks,
`flow` has the same four tasks a shot, httpx, SHA-256 and a rename, no ledger and no checks. Wall is that of the flow
run; CPU is counted until Prefect's client has sent everything, and its server has recorded it. The ratios are those to
`flow`, the exponents those of a power law over the numbers of shots. With repeats the medians count. Exits with 1
unless this package meets its figures.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import psutil

from benchmarks.emulator_process import ROOT, EmulatorProcess
from benchmarks.orchestration_clients import CLIENTS
from benchmarks.punctuality import prefect_server
from benchmarks.punctuality_clients import Order
from benchmarks.torture_worker import Address

AT_ONCE: Final = 50
SPEED: Final = 100
PAUSE_SECONDS: Final = 0.25
"""Between two polls of the flow written by hand."""
MAX_RATIOS: Final = {"wall": 2.0, "client_cpu": 2.0, "server_cpu": 1.15}
MAX_EXPONENT: Final = 1.05
STUCK_SECONDS: Final = 900.0
IDLE_SHARE: Final = 0.25
"""Share of a core below which Prefect's server has nothing left to record."""
IDLE_LOOKS: Final = 3


@dataclass(frozen=True)
class Cost:
    """Cost of one run.

    Attributes:
        wall: Seconds of the flow run.
        client_cpu: Seconds of processor time of the client.
        server_cpu: Seconds of processor time of Prefect's server, with what it records afterwards.
        megabytes: Peak of the client's memory.
        task_runs: Task runs for a shot.
        requests: Requests to Prefect's API for a shot.
    """

    wall: float
    client_cpu: float
    server_cpu: float
    megabytes: float
    task_runs: float
    requests: float


class Bench:
    """The servers that all clients of a run share.

    Args:
        folder: Folder of everything that is written.
        environ: Environment of clients of the Prefect server.
        emulator: The provider.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], emulator: EmulatorProcess) -> None:
        self._folder, self._environ = folder, environ
        self._url = Address(emulator.endpoint).url
        self._api = environ["PREFECT_API_URL"]
        self._server = find_server(self._api)
        self._runs = 0

    def measure(self, name: str, shots: int, *, profile: bool = False) -> Cost:
        """Run one client to its end, and wait until Prefect's server has recorded it."""
        self._runs += 1
        folder = self._folder / f"run-{self._runs}"
        folder.mkdir()
        order = Order(self._url, str(folder), shots, AT_ONCE, self._runs, shot_seconds=1, pause_seconds=PAUSE_SECONDS)
        task_runs, server_cpu = self._count_task_runs(), cpu_of(self._server)
        measured = run_client(name, order, self._environ, profile=profile)
        self._wait_until_idle()
        return Cost(
            wall=measured["wall"],
            client_cpu=measured["client_cpu"],
            server_cpu=cpu_of(self._server) - server_cpu,
            megabytes=measured["megabytes"],
            task_runs=(self._count_task_runs() - task_runs) / shots,
            requests=measured["requests"] / shots,
        )

    def _count_task_runs(self) -> int:
        return int(httpx.post(f"{self._api}/task_runs/count", json={}, timeout=60).raise_for_status().json())

    def _wait_until_idle(self) -> None:
        quiet, deadline = 0, time.monotonic() + STUCK_SECONDS
        while quiet < IDLE_LOOKS and time.monotonic() < deadline:
            before = cpu_of(self._server)
            time.sleep(1.0)
            quiet = quiet + 1 if cpu_of(self._server) - before < IDLE_SHARE else 0


def run_client(name: str, order: Order, environ: Mapping[str, str], *, profile: bool) -> dict[str, float]:
    """Run a client's process; return what it has measured."""
    command = [sys.executable, "-m", "benchmarks.orchestration_clients", name, order.to_json()]
    log = Path(order.folder) / "client.log"
    with log.open("ab") as stream:
        done = subprocess.run(
            [*command, "--profile"] if profile else command,
            cwd=ROOT, env={**os.environ, **environ}, stdout=subprocess.PIPE, stderr=stream,
            text=True, timeout=STUCK_SECONDS, check=False,
        )  # fmt: skip
    files = len(list(order.videos.rglob("*.mp4")))
    if done.returncode or (name != "bare" and files < order.generations):
        raise RuntimeError(f"{name} ended with {done.returncode} and {files} files:\n{log.read_text()[-4000:]}")
    if profile:
        print(Path(order.folder, "profile.txt").read_text(), flush=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def find_server(api: str) -> psutil.Process:
    """Return the process, of those that this script has started, that serves an API."""
    port = httpx.URL(api).port
    for process in psutil.Process().children(recursive=True):
        listening = [link.laddr.port for link in process.net_connections() if link.status == psutil.CONN_LISTEN]
        if port in listening:
            return process
    raise RuntimeError(f"no process of this script listens on port {port}")


def cpu_of(process: psutil.Process) -> float:
    """Return the seconds of processor time of a process."""
    times = process.cpu_times()
    return float(times.user + times.system)


def median_of(costs: Sequence[Cost]) -> Cost:
    """Return the medians of several runs."""
    return Cost(**{name: statistics.median(getattr(cost, name) for cost in costs) for name in vars(costs[0])})


def fit_exponent(costs: Mapping[int, float]) -> float:
    """Fit a power law to costs by the number of shots; return its exponent."""
    line = statistics.linear_regression(
        [math.log(shots) for shots in costs], [math.log(cost) for cost in costs.values()]
    )
    return line.slope


def print_cost(shots: int, name: str, cost: Cost, by_hand: Cost | None) -> bool:
    """Print one row; return True if it is within its limits."""
    ratios = {key: getattr(cost, key) / getattr(by_hand, key) for key in MAX_RATIOS} if by_hand else {}
    met = name != "package" or all(ratios[key] <= limit for key, limit in MAX_RATIOS.items() if ratios)
    shown = "".join(f"{ratio:>7.2f}" for ratio in ratios.values()) or " " * 21
    verdict = "" if name != "package" or not ratios else "ok" if met else "MISSED"
    print(
        f"{shots:>6} {name:<9}{cost.wall:>8.2f}{cost.client_cpu:>8.2f}{cost.server_cpu:>8.2f}{cost.megabytes:>8.0f}"
        f"{cost.task_runs:>8.2f}{cost.requests:>8.2f}   {shown}   {verdict}",
        flush=True,
    )
    return met


def print_exponents(name: str, costs: Mapping[int, Cost]) -> bool:
    """Print how a client's costs grow; return True if they are within their limit."""
    exponents = {key: fit_exponent({shots: getattr(cost, key) for shots, cost in costs.items()}) for key in MAX_RATIOS}
    met = name != "package" or max(exponents.values()) <= MAX_EXPONENT
    print(f"exponents of {name}: " + ", ".join(f"{key} {value:.2f}" for key, value in exponents.items()), flush=True)
    return met


def compare(bench: Bench, options: argparse.Namespace) -> bool:
    """Measure and print all rows; return True if every figure holds."""
    names = options.only.split(",") if options.only else list(CLIENTS)
    sizes = [int(number) for number in options.shots.split(",")]
    bench.measure("bare", 5)
    print(f"{'shots':>6} {'':<9}{'wall s':>8}{'CPU s':>8}{'server':>8}{'RSS MB':>8}{'tasks':>8}{'API':>8}   ", end="")
    print(f"{'wall':>7}{'CPU':>7}{'server':>7}", flush=True)
    costs: dict[str, dict[int, Cost]] = {name: {} for name in names}
    passed = True
    for shots in sizes:
        runs = [{name: bench.measure(name, shots) for name in names} for _ in range(options.repeats)]
        for name in names:
            cost = costs[name][shots] = median_of([run[name] for run in runs])
            by_hand = median_of([run["flow"] for run in runs]) if "flow" in names else None
            passed &= print_cost(shots, name, cost, by_hand)
    if len(sizes) > 1:
        met = [print_exponents(name, costs[name]) for name in names]
        passed &= all(met)
    return passed


def run(options: argparse.Namespace) -> bool:
    """Start the servers and compare, or profile; return True if every figure holds."""
    with tempfile.TemporaryDirectory(prefix="orchestration-") as name:
        folder = Path(name)
        emulator = EmulatorProcess("--render", "plate", "--speed", str(SPEED), "--capacity", str(AT_ONCE))
        try:
            with prefect_server(folder) as environ:
                bench = Bench(folder, {**environ, "PREFECT_HOME": str(folder / "prefect")}, emulator)
                if not options.profile:
                    return compare(bench, options)
                for client in options.only.split(",") if options.only else ["package"]:
                    print(f"== {client}", flush=True)
                    bench.measure(client, int(options.shots.split(",")[0]), profile=True)
                return True
        finally:
            emulator.close()


def main() -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", default="100", help="numbers of shots, with commas")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", help="names of clients, with commas: bare, flow, package")
    parser.add_argument("--profile", action="store_true", help="print the client's hottest functions instead")
    return 0 if run(parser.parse_args()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
