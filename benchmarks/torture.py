"""Kills workers at every point of a shot's life and holds the provider's books against the store.

    python -m benchmarks.torture --kills 200 --ledger both --seed 1
    python -m benchmarks.torture --kills 40 --ledger sqlite --provider all

A worker runs a project of a dozen shots against an emulator in a process of its own, and is killed with SIGKILL at a
marked point or at any time, while the provider misbehaves. It is started again until the project is done; now and
then a second worker runs beside it, or a collector before it. Exits with 1 unless every generation was billed exactly
once, is stored, whole, and nothing is left reserved. Where a provider cannot tell whether it accepted a submit, the
generation may be held for a human instead; it is never bought twice.
"""

from __future__ import annotations

import argparse
import json
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

import httpx

from benchmarks.torture_points import POINTS, noise
from benchmarks.torture_verdict import Shelf, Verdict, judge
from benchmarks.torture_worker import Address, Kill, Order, work
from benchmarks.workers import KILLED, End, Worker
from prefect_video.fingerprints import fingerprint
from prefect_video.shots import Project, Shot
from tests.support.accounts import ACCOUNTS, account_named
from tests.support.postgres import PostgresServer

ROOT: Final = Path(__file__).parents[1]
LAUNCHES_LIMIT: Final = 150
STUCK_SECONDS: Final = 120.0


class Provider:
    """An emulator in a process of its own, which nobody kills."""

    def __init__(self, *, speed: float = 60) -> None:
        options = ["--port", "0", "--speed", str(speed), "--render", "plate", "--retry-after-seconds", "0.3"]
        command = [sys.executable, "-m", "prefect_video.emulator", *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout is not None
        self.endpoint: str = json.loads(self._process.stdout.readline())["endpoint"]
        self._client = httpx.Client(base_url=Address(self.endpoint).url, timeout=30)

    def usage(self) -> dict[str, Any]:
        """What was paid."""
        usage: dict[str, Any] = self._client.get("/_emulator/usage").raise_for_status().json()
        return usage

    def misbehave(self, faults: list[dict[str, Any]]) -> None:
        """Replaces the faults in force."""
        self._client.delete("/_emulator/faults").raise_for_status()
        self._client.post("/_emulator/faults", json=faults).raise_for_status()

    def settle(self) -> None:
        """Waits until nothing is being made."""
        while self.usage()["now_concurrency"]:
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends it."""
        self._client.close()
        self._process.terminate()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Torturer:
    """Projects, kills and restarts on one ledger.

    Args:
        provider: Who makes the videos.
        ledger: URL of the ledger.
        folder: Where everything else lies.
        seed: What is killed where.
        dialect: How the provider is spoken to: a name of `tests/support/accounts.py`; None for the usual one.
    """

    def __init__(self, provider: Provider, ledger: str, folder: Path, seed: int, dialect: str | None = None) -> None:
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
        """Goes on until so many workers were killed."""
        while self.kills.total() < kills:
            project = self._new_project()
            self._finish(project, kills)
            print(f"  {project.name}: {self.kills.total()} kills, {self.launches} launches", flush=True)
        self._provider.settle()
        usage = self._provider.usage()
        return judge(usage, self.shelf, self.expected, self._ledger, may_hold=self._may_hold)

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
            known = self._random.choice(list(self._shots.values()))
            shots.append(known.model_copy(update={"id": "known", "takes": 1}))
        for shot in shots:
            self._shots.setdefault(shot.prompt, shot)
        takes = {(fingerprint(s, provider="emulator", take=t), s.prompt) for s in shots for t in range(1, s.takes + 1)}
        for prompt in {prompt for _, prompt in takes}:
            bought = sum(wanted == prompt for _, wanted in takes)
            self.expected[prompt] = max(bought, self.expected.get(prompt, 0))
        return Project(name=name, shots=tuple(shots))

    def _finish(self, project: Project, kills: int) -> None:
        for _ in range(LAUNCHES_LIMIT):
            wanted = self.kills.total() < kills
            if wanted and self._random.random() < 0.15:
                self._collect(project)
            pair = wanted and self._random.random() < 0.2
            ends = self._work([project, project] if pair else [project], kill=wanted)
            self.shelf.inspect(self._shots)
            if any(end.said and self._is_done(project, end.said) for end in ends):
                return
        self.unfinished.append(f"{project.name}: not done after {LAUNCHES_LIMIT} launches: {ends}")

    def _collect(self, project: Project) -> None:
        self._work([None], kill=self._random.random() < 0.3)

    def _work(self, orders: list[Project | None], *, kill: bool) -> list[End]:
        """Starts workers side by side, each to be killed somewhere; how each of them ended."""
        faults = noise(self._random) if kill else []
        started = []
        for project in orders:
            name = self._random.choice(list(POINTS)) if kill else ""
            point = POINTS.get(name)
            faults += [dict(fault) for fault in point.faults] if point else []
            started.append((name, project, point.kill(self._random) if point else None))
        self._provider.misbehave(faults)
        workers = [(name, self._start(project, how)) for name, project, how in started]
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
            self.unfinished.append(f"a worker was stuck for {STUCK_SECONDS:.0f} s ({name or 'not to be killed'})")
            worker.kill()
            end = worker.end()
        finally:
            timer.cancel()
        worker.close()
        if end.status == KILLED:
            self.kills[name] += 1
        return end

    def _is_done(self, project: Project, said: Mapping[str, Any]) -> bool:
        """Whether every take is stored, and visible in its project's folder, or held where that may be."""
        shots = said["shots"]
        uris = {shot["uri"] for shot in shots if shot["status"] == "stored"}
        visible = {path.as_uri() for path in self.shelf.assets if path.parent.name == project.name}
        if not uris <= visible:
            self.unfinished.append(f"{project.name}: reported as stored and not there: {uris - visible}")
        good = {"stored", "held"} if self._may_hold else {"stored"}
        return {shot["status"] for shot in shots} <= good and len(shots) == sum(shot.takes for shot in project.shots)


@contextmanager
def ledgers(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a new ledger on SQLite or PostgreSQL."""
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
    """Tortures one kind of ledger and prints what came of it; whether all promises held."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    print(f"{kind}, {dialect or 'sora'}, seed {seed}:", flush=True)
    provider = Provider()
    try:
        with ledgers(kind, folder) as url:
            torturer = Torturer(provider, url, folder, seed, dialect)
            verdict = torturer.run(kills)
    finally:
        provider.stop()
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
    """Reads the options and tortures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how many, on each ledger (200)")
    parser.add_argument("--ledger", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="what is killed where")
    names = [account.name for account in ACCOUNTS]
    parser.add_argument("--provider", choices=[*names, "all"], help="who is spoken to, and how (the usual)")
    options = parser.parse_args()
    # Ended from outside, it takes its emulator and its server along.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    kinds = ["sqlite", "postgres"] if options.ledger == "both" else [options.ledger]
    dialects = names if options.provider == "all" else [options.provider]
    verdicts = [torture(kind, options.kills, options.seed, dialect) for dialect in dialects for kind in kinds]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
