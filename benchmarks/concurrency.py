"""One limit for an account across processes, and what an outage costs: the provider's books are the judge.

    python -m benchmarks.concurrency [--ledger both] [--down-seconds 60] [--only shared|killed|outage]

`shared`: three workers with a project each share an account limit of 10 at a provider that would take 50. `killed`:
the same, one worker is killed with SIGKILL while all of the limit is in use; what it had in common with the others they
take over, the rest is left to a collector and to a new worker. `outage`: the provider is killed for a while midway and
is met afterwards by bursts of 429 and 500, as it was before. Exits with 1 unless the peak is exactly 10 (`outage`: at
most 10), everything is stored and nothing was billed twice.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.concurrency_worker import PLAN_SLOTS, Order, work
from benchmarks.torture import ledgers
from benchmarks.torture_verdict import Shelf, Verdict, judge
from benchmarks.workers import KILLED, End, Worker
from prefect_video.shots import Project, Shot

ROOT: Final = Path(__file__).parents[1]
SLOTS: Final = 10
WORKERS: Final = 3
STUCK_SECONDS: Final = 400.0
LAUNCHES_LIMIT: Final = 5
_STILL: Final = 0.001
"""A speed at which nothing ends."""

BURST: Final[Sequence[Mapping[str, Any]]] = (
    {"operation": "submit", "kind": "rate_limited", "retry_after": 0.5, "times": 4},
    {"operation": "submit", "kind": "error_before", "times": 3},
    {"operation": "submit", "kind": "error_after", "times": 3},
    {"operation": "submit", "kind": "rate_limited", "retry_after": 0.5, "times": 4},
    {"operation": "retrieve", "kind": "rate_limited", "retry_after": 0.2, "times": 4},
    {"operation": "retrieve", "kind": "error_before", "times": 4},
    {"operation": "list", "kind": "error_before", "times": 4},
)
"""The 429s and 500s of one bad moment, each at most as often as it says."""


class Provider:
    """An emulator in a process of its own, which can be killed and comes back with its books at the same address."""

    def __init__(self, folder: Path, *options: str) -> None:
        journal = str(folder / "emulator.db")
        self._options = ("--db", journal, "--render", "plate", "--capacity", str(PLAN_SLOTS), *options)
        ready = self._start("--port", "0")
        self.endpoint: str = ready["endpoint"]
        ports = [str(httpx.URL(ready[name]).port) for name in ("endpoint", "cdn")]
        self._ports = ("--port", ports[0], "--cdn-port", ports[1])
        self._client = httpx.Client(base_url=self.endpoint.removesuffix("/v1/sora"), timeout=30)

    def usage(self) -> dict[str, Any]:
        """What was paid."""
        usage: dict[str, Any] = self._client.get("/_emulator/usage").raise_for_status().json()
        return usage

    def misbehave(self, seconds: float) -> None:
        """Has one bad moment of so many seconds."""
        self._client.post("/_emulator/faults", json=list(BURST)).raise_for_status()
        time.sleep(seconds)
        self._client.delete("/_emulator/faults").raise_for_status()

    def change_speed(self, speed: float) -> None:
        """Has it go on at another speed."""
        self._client.put("/_emulator/speed", json=speed).raise_for_status()

    def settle(self) -> None:
        """Waits until nothing is being made."""
        while self.usage()["now_concurrency"]:
            time.sleep(0.1)

    def kill(self) -> None:
        """Ends it without warning."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def revive(self) -> None:
        """Starts it again."""
        self._start(*self._ports)

    def stop(self) -> None:
        """Ends it for good."""
        self._client.close()
        self.kill()

    def _start(self, *ports: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "prefect_video.emulator", *ports, *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout is not None
        ready: dict[str, Any] = json.loads(self._process.stdout.readline())
        return ready


@dataclass
class Site:
    """One ledger, one store and one provider, and the workers on them."""

    provider: Provider
    ledger: str
    folder: Path
    settings: Mapping[str, Any]
    _all: list[Worker] = field(default_factory=list)

    def start(self, project: Project | None) -> Worker:
        """Starts a worker; it collects when there is no project."""
        order = Order(
            endpoint=self.provider.endpoint,
            ledger=self.ledger,
            folder=self.folder,
            project=project,
            settings=self.settings,
        )
        worker = Worker(work, order, log=self.folder / "workers.log")
        self._all.append(worker)
        return worker

    def finish(self, project: Project) -> int:
        """Runs a project again until all of it is stored; how often it took.

        Raises:
            RuntimeError: It is not done after many runs.
        """
        for launches in range(LAUNCHES_LIMIT):
            if self.start(project).end(STUCK_SECONDS).status == 0:
                return launches + 1
        raise RuntimeError(f"{project.name} is not done after {LAUNCHES_LIMIT} more runs, see {self.folder}")

    def await_accepted(self, count: int) -> None:
        """Until the provider has accepted so many."""
        until = time.monotonic() + STUCK_SECONDS
        while self.provider.usage()["accepted"] < count:
            if time.monotonic() > until:
                raise TimeoutError(f"{count} generations were not accepted in {STUCK_SECONDS:.0f} s")
            time.sleep(0.05)

    def verdict(self, projects: Sequence[Project]) -> Verdict:
        """The books held against the store."""
        self.provider.settle()
        shots = {shot.prompt: shot for project in projects for shot in project.shots}
        shelf = Shelf(self.folder / "store")
        shelf.inspect(shots)
        return judge(self.provider.usage(), shelf, dict.fromkeys(shots, 1), self.ledger)

    def close(self) -> None:
        """Ends what is left."""
        for worker in self._all:
            worker.close()
        self.provider.stop()


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    verdict: Verdict
    peak: int
    held_peak: bool
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return self.verdict.holds and self.held_peak and not self.problems


@contextmanager
def site(kind: str, *options: str, **settings: Any) -> Iterator[Site]:
    """Everything for one run; the folder is kept when it breaks off."""
    folder = Path(tempfile.mkdtemp(prefix="concurrency-"))
    with ledgers(kind, folder) as url:
        opened = Site(Provider(folder, *options), url, folder, {"account_slots": SLOTS, **settings})
        try:
            yield opened
        finally:
            opened.close()
    shutil.rmtree(folder, ignore_errors=True)


def failures(ends: Sequence[End]) -> list[str]:
    """What is not stored, and why."""
    shots = [shot for end in ends for shot in end.said.get("shots", ())]
    return [f"{shot['id']}: {shot['status']}: {shot['error']}" for shot in shots if shot["status"] != "stored"]


def parts(shots: int, in_common: int = 0) -> list[Project]:
    """A project for each worker, the last shots of each the same."""

    def shot(name: str) -> Shot:
        return Shot(id=name, prompt=f"a lighthouse, view {name}", duration=1, resolution="480p")

    shared = [shot(f"common-{number}") for number in range(in_common)]
    return [
        Project(name=f"part-{part}", shots=(*(shot(f"own-{part}-{n}") for n in range(shots - in_common)), *shared))
        for part in range(WORKERS)
    ]


def shared(kind: str, *, shots: int = 22, speed: float = 8.0) -> Outcome:
    """Three workers, one limit."""
    projects = parts(shots)
    with site(kind, "--speed", str(speed), lease_seconds=2.0, settle_seconds=1.0) as here:
        ends = [worker.end(STUCK_SECONDS) for worker in [here.start(project) for project in projects]]
        verdict = here.verdict(projects)
        peak = here.provider.usage()["peak_concurrency"]
    return Outcome(verdict, peak, peak <= SLOTS, problems=failures(ends))


def killed(kind: str, *, shots: int = 24, in_common: int = 6, speed: float = 8.0) -> Outcome:
    """Three workers, one limit, and one of them dies while all of the limit is in use."""
    projects = parts(shots, in_common)
    with site(kind, "--speed", str(_STILL), "--no-hint", lease_seconds=2.0, settle_seconds=1.0) as here:
        # The first comes first, so that the rows in common are its own.
        victim = here.start(projects[0])
        here.await_accepted(1)
        others = [here.start(project) for project in projects[1:]]
        here.await_accepted(SLOTS)
        victim.kill()
        here.provider.change_speed(speed)
        status = victim.end(STUCK_SECONDS).status
        collector = here.start(None)
        ends = [worker.end(STUCK_SECONDS) for worker in (collector, *others)]
        launches = here.finish(projects[0])
        verdict = here.verdict(projects)
        peak = here.provider.usage()["peak_concurrency"]
    collected = len(ends[0].said.get("collected", ()))
    problems = failures(ends)
    if status != KILLED:
        problems.append(f"the worker had ended with {status} before it was killed")
    return Outcome(
        verdict, peak, peak <= SLOTS, [f"{collected} rows seen by collect, {launches} more launch(es)"], problems
    )


def outage(
    kind: str,
    *,
    shots: int = 14,
    down_seconds: float = 60.0,
    burst_seconds: float = 3.0,
    breaker_seconds: float = 10.0,
    settle_seconds: float = 3.0,
    speed: float = 4.0,
) -> Outcome:
    """The provider dies midway, comes back, and errs in bursts before and after."""
    projects = parts(shots)
    settings = {"lease_seconds": 5.0, "settle_seconds": settle_seconds, "breaker_seconds": breaker_seconds}
    with site(kind, "--speed", str(speed), **settings) as here:
        workers = [here.start(project) for project in projects]
        here.await_accepted(SLOTS // 2)
        here.provider.misbehave(burst_seconds)
        here.provider.kill()
        time.sleep(down_seconds)
        here.provider.revive()
        back = time.time()
        here.provider.misbehave(burst_seconds)
        here.await_accepted(shots * WORKERS // 2)
        here.provider.misbehave(burst_seconds)
        ends = [worker.end(STUCK_SECONDS) for worker in workers]
        first = failures(ends)
        done = max(end.said.get("ended", 0.0) for end in ends) - back
        for project, end in zip(projects, ends, strict=True):
            if end.status:
                here.finish(project)
        verdict = here.verdict(projects)
        peak = here.provider.usage()["peak_concurrency"]
    notes = [f"down for {down_seconds:.0f} s; all workers done {done:.1f} s after it was back"]
    notes += [f"left to a second run: {line}" for line in first]
    return Outcome(verdict, peak, peak <= SLOTS, notes)


def main() -> int:
    """Reads the options, runs, and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.concurrency", description=__doc__.splitlines()[0])
    parser.add_argument("--ledger", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--down-seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=["shared", "killed", "outage"])
    options = parser.parse_args()
    runs: dict[str, Callable[[str], Outcome]] = {
        "shared": shared,
        "killed": killed,
        "outage": lambda kind: outage(kind, down_seconds=options.down_seconds),
    }
    held = True
    print(f"{'':20}{'peak':>6}{'submits':>9}{'billed':>8}{'twice':>7}{'not stored':>12}{'stale':>7}{'time':>8}")
    for name in [options.only] if options.only else runs:
        for kind in ["sqlite", "postgres"] if options.ledger == "both" else [options.ledger]:
            began = time.monotonic()
            outcome = runs[name](kind)
            verdict = outcome.verdict
            # A limit that is never reached would prove nothing; an outage leaves no time to reach it.
            well = outcome.holds and (name == "outage" or outcome.peak == SLOTS)
            held &= well
            print(
                f"{name + ', ' + kind:20}{outcome.peak:>6}{verdict.submitted:>9}"
                f"{f'{verdict.billed}/{verdict.expected}':>8}{verdict.billed_twice:>7}"
                f"{verdict.not_billed + verdict.billed_and_not_stored:>12}{verdict.stale_reservations:>7}"
                f"{time.monotonic() - began:>6.0f} s   {'ok' if well else 'MISSED'}"
            )
            for line in (*outcome.notes, *(f"PROBLEM: {problem}" for problem in outcome.problems)):
                print(f"    {line}", flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
