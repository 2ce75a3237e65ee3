"""One account limit across processes, and the cost of an outage, judged by the provider's usage.

    python -m benchmarks.concurrency [--ledger both] [--down-seconds 60] [--only shared|killed|outage]

`shared`: three workers with a project each share an account limit of 10 at a provider that would accept 50. `killed`:
the same, and one worker is killed with SIGKILL while all of the limit is in use; the others take over the jobs that
they share with it, a collector and a new worker finish the rest. `outage`: the provider is killed midway for a while,
and answers bursts of 429 and 500 before and afterwards. Exits with 1 unless the peak is exactly 10 (`outage`: at most
10), everything is stored and nothing was billed twice.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.concurrency_worker import PLAN_SLOTS, Order, work
from benchmarks.emulator_process import EmulatorProcess
from benchmarks.torture import ledgers
from benchmarks.torture_verdict import Shelf, Verdict, judge
from benchmarks.workers import KILLED, End, Worker
from prefect_video.projects import Project
from prefect_video.shots import Shot

SLOTS: Final = 10
WORKERS: Final = 3
STUCK_SECONDS: Final = 400.0
LAUNCHES_LIMIT: Final = 5
_STILL: Final = 0.001
"""Speed at which no generation ends."""

BURST: Final[Sequence[Mapping[str, Any]]] = (
    {"operation": "submit", "kind": "rate_limited", "retry_after": 0.5, "times": 4},
    {"operation": "submit", "kind": "error_before", "times": 3},
    {"operation": "submit", "kind": "error_after", "times": 3},
    {"operation": "submit", "kind": "rate_limited", "retry_after": 0.5, "times": 4},
    {"operation": "retrieve", "kind": "rate_limited", "retry_after": 0.2, "times": 4},
    {"operation": "retrieve", "kind": "error_before", "times": 4},
    {"operation": "list", "kind": "error_before", "times": 4},
)
"""Faults of one burst of 429s and 500s."""


@dataclass
class Site:
    """One ledger, one store and one provider, with the workers that share them."""

    provider: EmulatorProcess
    ledger: str
    folder: Path
    settings: Mapping[str, Any]
    _workers: list[Worker] = field(default_factory=list)

    def start(self, project: Project | None) -> Worker:
        """Start a worker; without a project it collects."""
        order = Order(
            endpoint=self.provider.endpoint,
            ledger=self.ledger,
            folder=self.folder,
            project=project,
            settings=self.settings,
        )
        worker = Worker(work, order, log=self.folder / "workers.log")
        self._workers.append(worker)
        return worker

    def finish(self, project: Project) -> int:
        """Run a project again until all of it is stored, and return the number of runs.

        Raises:
            RuntimeError: It is not done after many runs.
        """
        for launches in range(LAUNCHES_LIMIT):
            if self.start(project).end(STUCK_SECONDS).status == 0:
                return launches + 1
        raise RuntimeError(f"{project.name} is not done after {LAUNCHES_LIMIT} more runs, see {self.folder}")

    def wait_until_accepted(self, count: int) -> None:
        """Wait until the provider has accepted that many generations.

        Raises:
            TimeoutError: It took too long.
        """
        deadline = time.monotonic() + STUCK_SECONDS
        while self.provider.usage()["accepted"] < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} generations were not accepted in {STUCK_SECONDS:.0f} s")
            time.sleep(0.05)

    def verdict(self, projects: Sequence[Project]) -> Verdict:
        """Compare the provider's usage with the store."""
        self.provider.wait_until_idle()
        shots = {shot.prompt: shot for project in projects for shot in project.shots}
        shelf = Shelf(self.folder / "store")
        shelf.inspect(shots)
        return judge(self.provider.usage(), shelf, dict.fromkeys(shots, 1), self.ledger)

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.close()
        self.provider.close()


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run.

    Attributes:
        verdict: Comparison of usage and store.
        peak: Most generations in progress at once.
        held_peak: True if the peak is within the limit.
        notes: Lines to print.
        problems: Descriptions of failures.
    """

    verdict: Verdict
    peak: int
    held_peak: bool
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()

    @property
    def holds(self) -> bool:
        """True if every promise was kept."""
        return self.verdict.holds and self.held_peak and not self.problems


@contextmanager
def site(kind: str, *options: str, **settings: Any) -> Iterator[Site]:
    """Open everything for one run; the folder is kept if the run fails."""
    folder = Path(tempfile.mkdtemp(prefix="concurrency-"))
    with ledgers(kind, folder) as url:
        opened = Site(open_provider(folder, *options), url, folder, {"account_slots": SLOTS, **settings})
        try:
            yield opened
        finally:
            opened.close()
    shutil.rmtree(folder, ignore_errors=True)


def open_provider(folder: Path, *options: str) -> EmulatorProcess:
    """Start an emulator that keeps its state over a restart and would accept more than the account's limit."""
    state = str(folder / "emulator.db")
    return EmulatorProcess("--db", state, "--render", "plate", "--capacity", str(PLAN_SLOTS), *options)


def list_failures(ends: Sequence[End]) -> list[str]:
    """Describe every shot that is not stored."""
    shots = [shot for end in ends for shot in end.report.get("shots", ())]
    return [f"{shot['id']}: {shot['status']}: {shot['error']}" for shot in shots if shot["status"] != "stored"]


def build_projects(shots: int, in_common: int = 0) -> list[Project]:
    """Build a project for each worker; the last shots are common to all."""

    def build_shot(name: str) -> Shot:
        return Shot(id=name, prompt=f"a lighthouse, view {name}", duration=1, resolution="480p")

    shared = [build_shot(f"common-{number}") for number in range(in_common)]
    return [
        Project(
            name=f"part-{part}", shots=(*(build_shot(f"own-{part}-{n}") for n in range(shots - in_common)), *shared)
        )
        for part in range(WORKERS)
    ]


def shared(kind: str, *, shots: int = 22, speed: float = 8.0) -> Outcome:
    """Run three workers under one limit."""
    projects = build_projects(shots)
    with site(kind, "--speed", str(speed), lease_seconds=2.0, settle_seconds=1.0) as here:
        ends = [worker.end(STUCK_SECONDS) for worker in [here.start(project) for project in projects]]
        verdict = here.verdict(projects)
        peak = here.provider.usage()["peak_concurrency"]
    return Outcome(verdict, peak, peak <= SLOTS, problems=list_failures(ends))


def killed(kind: str, *, shots: int = 24, in_common: int = 6, speed: float = 8.0) -> Outcome:
    """Run three workers under one limit, and kill one of them while all of the limit is in use."""
    projects = build_projects(shots, in_common)
    with site(kind, "--speed", str(_STILL), "--no-hint", lease_seconds=2.0, settle_seconds=1.0) as here:
        # Started first, so that the common jobs are owned by the worker that will be killed.
        victim = here.start(projects[0])
        here.wait_until_accepted(1)
        survivors = [here.start(project) for project in projects[1:]]
        here.wait_until_accepted(SLOTS)
        victim.kill()
        here.provider.set_speed(speed)
        status = victim.end(STUCK_SECONDS).status
        collector = here.start(None)
        ends = [worker.end(STUCK_SECONDS) for worker in (collector, *survivors)]
        launches = here.finish(projects[0])
        verdict = here.verdict(projects)
        peak = here.provider.usage()["peak_concurrency"]
    collected = len(ends[0].report.get("collected", ()))
    problems = list_failures(ends)
    if status != KILLED:
        problems.append(f"the worker had ended with {status} before it was killed")
    return Outcome(
        verdict, peak, peak <= SLOTS, [f"{collected} jobs seen by collect, {launches} more launch(es)"], problems
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
    """Kill the provider midway, restart it, and inject bursts of errors before and after."""
    projects = build_projects(shots)
    settings = {"lease_seconds": 5.0, "settle_seconds": settle_seconds, "breaker_seconds": breaker_seconds}
    with site(kind, "--speed", str(speed), **settings) as here:
        workers = [here.start(project) for project in projects]
        here.wait_until_accepted(SLOTS // 2)
        here.provider.inject_faults(BURST, burst_seconds)
        here.provider.kill()
        time.sleep(down_seconds)
        here.provider.restart()
        restarted_at = time.time()
        here.provider.inject_faults(BURST, burst_seconds)
        here.wait_until_accepted(shots * WORKERS // 2)
        here.provider.inject_faults(BURST, burst_seconds)
        ends = [worker.end(STUCK_SECONDS) for worker in workers]
        first_failures = list_failures(ends)
        done_seconds = max(end.report.get("ended", 0.0) for end in ends) - restarted_at
        for project, end in zip(projects, ends, strict=True):
            if end.status:
                here.finish(project)
        verdict = here.verdict(projects)
        peak = here.provider.usage()["peak_concurrency"]
    notes = [f"down for {down_seconds:.0f} s; all workers done {done_seconds:.1f} s after the restart"]
    notes += [f"left to a second run: {line}" for line in first_failures]
    return Outcome(verdict, peak, peak <= SLOTS, notes)


def main() -> int:
    """Run the script and print its table; return the exit status."""
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
            # A limit that is never reached proves nothing; but an outage leaves no time to reach it.
            passed = outcome.holds and (name == "outage" or outcome.peak == SLOTS)
            held &= passed
            print(
                f"{name + ', ' + kind:20}{outcome.peak:>6}{verdict.submitted:>9}"
                f"{f'{verdict.billed}/{verdict.expected}':>8}{verdict.billed_twice:>7}"
                f"{verdict.not_billed + verdict.billed_and_not_stored:>12}{verdict.stale_reservations:>7}"
                f"{time.monotonic() - began:>6.0f} s   {'ok' if passed else 'MISSED'}"
            )
            for line in (*outcome.notes, *(f"PROBLEM: {problem}" for problem in outcome.problems)):
                print(f"    {line}", flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
