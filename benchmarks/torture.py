"""Kill workers at every point of a job's life, and compare the provider's usage with the store.

    python -m benchmarks.torture --kills 200 --ledger both --seed 1
    python -m benchmarks.torture --kills 40 --ledger sqlite --provider all

A worker runs a project of a dozen shots against an emulator in a process of its own, and is killed with SIGKILL at a
marked point or at any time, while the provider has faults. It is restarted until the project is done; sometimes a
second worker runs beside it, or a collector before it. Exits with 1 unless every generation was billed exactly
once and is stored whole, and nothing is left reserved. If a provider cannot say whether it accepted a submit, the
generation may be held for a human instead; it is never bought twice.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

from benchmarks.emulator_process import ROOT, EmulatorProcess
from benchmarks.torture_points import POINTS, choose_faults
from benchmarks.torture_verdict import Shelf, Verdict, judge
from benchmarks.torture_worker import Address, Kill, Order, work
from benchmarks.workers import KILLED, End, Worker
from prefect_video.fingerprints import fingerprint
from prefect_video.projects import Project
from prefect_video.shots import Shot
from tests.support.accounts import ACCOUNTS, account_named
from tests.support.postgres import PostgresServer

LAUNCHES_LIMIT: Final = 150
STUCK_SECONDS: Final = 120.0


class Torturer:
    """Run of projects, kills and restarts on one ledger.

    Args:
        provider: The emulator.
        ledger: URL of the ledger.
        folder: Folder of everything else.
        seed: Seed of the kills and faults.
        dialect: The provider's dialect: a name of `tests/support/accounts.py`; None for the Sora dialect.
    """

    def __init__(
        self, provider: EmulatorProcess, ledger: str, folder: Path, seed: int, dialect: str | None = None
    ) -> None:
        self.kills: Counter[str] = Counter()
        self.launches = 0
        self.projects = 0
        self.unfinished: list[str] = []
        self.expected: dict[str, int] = {}
        self.shelf = Shelf(folder / "store")
        self._shots: dict[str, Shot] = {}
        self._provider = provider
        self._ledger = ledger
        self._folder = folder
        self._random = Random(seed)
        self._dialect = dialect
        self._may_hold = dialect is not None and account_named(dialect).holds_at(Address(provider.endpoint))

    def run(self, kills: int) -> Verdict:
        """Run projects until that many workers were killed, and return the verdict."""
        while self.kills.total() < kills:
            project = self._new_project()
            self._finish(project, kills)
            print(f"  {project.name}: {self.kills.total()} kills, {self.launches} launches", flush=True)
        self._provider.wait_until_idle()
        return judge(self._provider.usage(), self.shelf, self.expected, self._ledger, may_hold=self._may_hold)

    def _new_project(self) -> Project:
        self.projects += 1
        name = f"film-{self.projects}"
        durations = (2, 3)
        shots = [
            Shot(id=f"shot-{n}", prompt=f"{name}, scene {n}", duration=durations[n % 2], resolution="480p")
            for n in range(9)
        ]
        shots.append(shots[0].model_copy(update={"id": "again"}))
        shots.append(shots[1].model_copy(update={"id": "variants", "takes": 2}))
        if self._shots:
            earlier = self._random.choice(list(self._shots.values()))
            shots.append(earlier.model_copy(update={"id": "known", "takes": 1}))
        for shot in shots:
            self._shots.setdefault(shot.prompt, shot)
        takes = {(fingerprint(s, provider="emulator", take=t), s.prompt) for s in shots for t in range(1, s.takes + 1)}
        for prompt in {prompt for _, prompt in takes}:
            count = sum(take_prompt == prompt for _, take_prompt in takes)
            self.expected[prompt] = max(count, self.expected.get(prompt, 0))
        return Project(name=name, shots=tuple(shots))

    def _finish(self, project: Project, kills: int) -> None:
        for _ in range(LAUNCHES_LIMIT):
            kill = self.kills.total() < kills
            if kill and self._random.random() < 0.15:
                self._collect(project)
            pair = kill and self._random.random() < 0.2
            ends = self._run_workers([project, project] if pair else [project], kill=kill)
            self.shelf.inspect(self._shots)
            if any(end.report and self._is_done(project, end.report) for end in ends):
                return
        self.unfinished.append(f"{project.name}: not done after {LAUNCHES_LIMIT} launches: {ends}")

    def _collect(self, project: Project) -> None:
        self._run_workers([None], kill=self._random.random() < 0.3)

    def _run_workers(self, projects: list[Project | None], *, kill: bool) -> list[End]:
        """Run workers side by side, each to be killed at a random point, and return their ends."""
        faults = choose_faults(self._random) if kill else []
        planned = []
        for project in projects:
            name = self._random.choice(list(POINTS)) if kill else ""
            point = POINTS.get(name)
            faults += [dict(fault) for fault in point.faults] if point else []
            planned.append((name, project, point.choose_kill(self._random) if point else None))
        self._provider.set_faults(faults)
        workers = [(name, self._start(project, planned_kill)) for name, project, planned_kill in planned]
        return [self._await(name, worker) for name, worker in workers]

    def _start(self, project: Project | None, kill: Kill | None) -> Worker:
        self.launches += 1
        order = Order(
            endpoint=self._provider.endpoint,
            provider=self._dialect,
            ledger=self._ledger,
            folder=self._folder,
            project=project,
            kill=kill,
        )
        return Worker(work, order, log=self._folder / "workers.log")

    def _await(self, name: str, worker: Worker) -> End:
        timer = threading.Timer(self._random.uniform(0.0, 3.0), worker.kill)
        if name == "any time":
            timer.start()
        try:
            end = worker.end(STUCK_SECONDS)
        except TimeoutError:
            self.unfinished.append(f"a worker was stuck for {STUCK_SECONDS:.0f} s ({name or 'no kill planned'})")
            worker.kill()
            end = worker.end()
        finally:
            timer.cancel()
        worker.close()
        if end.status == KILLED:
            self.kills[name] += 1
        return end

    def _is_done(self, project: Project, report: Mapping[str, Any]) -> bool:
        """Return True if every take is stored, and visible in its project's folder, or held where that is allowed."""
        shots = report["shots"]
        uris = {shot["uri"] for shot in shots if shot["status"] == "stored"}
        visible = {path.as_uri() for path in self.shelf.assets if path.parent.name == project.name}
        if not uris <= visible:
            self.unfinished.append(f"{project.name}: reported as stored and missing: {uris - visible}")
        final = {"stored", "held"} if self._may_hold else {"stored"}
        return {shot["status"] for shot in shots} <= final and len(shots) == sum(shot.takes for shot in project.shots)


@contextmanager
def ledgers(kind: str, folder: Path) -> Iterator[str]:
    """Create a new ledger on SQLite or PostgreSQL, and yield its URL."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'ledger.db'}"
        return
    home = Path(tempfile.mkdtemp(prefix="pg-"))
    server = PostgresServer(home)
    try:
        url = server.new_database()
        subprocess.run([sys.executable, "-c", _UPGRADE, url], check=True, cwd=ROOT)
        yield url
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


_UPGRADE: Final = """
import asyncio, sys
from prefect_video.ledger import Ledger
async def main():
    await (await Ledger.open(sys.argv[1], migrate=True)).aclose()
asyncio.run(main())
"""


def torture(kind: str, kills: int, seed: int, dialect: str | None = None) -> bool:
    """Run the kills on one kind of ledger, print the verdict, and return True if all promises held."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    print(f"{kind}, {dialect or 'sora'}, seed {seed}:", flush=True)
    provider = EmulatorProcess("--speed", "60", "--render", "plate", "--retry-after-seconds", "0.3")
    try:
        with ledgers(kind, folder) as url:
            torturer = Torturer(provider, url, folder, seed, dialect)
            verdict = torturer.run(kills)
    finally:
        provider.close()
    print(f"  kills: {torturer.kills.total()} in {torturer.projects} projects and {torturer.launches} launches")
    for name in POINTS:
        print(f"    {name + ':':26}{torturer.kills[name]}")
    print(verdict)
    for problem in [*torturer.unfinished, *torturer.shelf.half_files]:
        print(f"  PROBLEM: {problem}")
    holds = verdict.holds and not torturer.unfinished
    print(
        f"  {'all promises held' if holds else f'BROKEN, see {folder}'}, {time.monotonic() - began:.0f} s", flush=True
    )
    if holds:
        shutil.rmtree(folder, ignore_errors=True)
    return holds


def main() -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="number of kills on each ledger (200)")
    parser.add_argument("--ledger", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="seed of the kills and faults")
    names = [account.name for account in ACCOUNTS]
    parser.add_argument("--provider", choices=[*names, "all"], help="dialect of the provider (sora)")
    options = parser.parse_args()
    # By default SIGTERM would end the script without its `finally` blocks, and leave emulator and server running.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    kinds = ["sqlite", "postgres"] if options.ledger == "both" else [options.ledger]
    dialects = names if options.provider == "all" else [options.provider]
    verdicts = [torture(kind, options.kills, options.seed, dialect) for dialect in dialects for kind in kinds]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
