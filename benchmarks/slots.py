"""Delay with which a freed slot is filled, in a flow with tasks, downloads and stores beside it.

    python -m benchmarks.slots [--generations 60] [--at-once 20] [--seconds 5]

A slot is free with the notice that a generation has ended, and filled when the next shot's request leaves: both are
events of the session. `late` is the part before the notice, from the end in the provider's books. Exits with 1 unless
95 of 100 slots are filled within 0.1 s of their notice.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.emulator_process import EmulatorProcess
from benchmarks.punctuality import prefect_server
from benchmarks.punctuality_clients import Order, run_package
from benchmarks.torture_worker import Address
from benchmarks.waiting import read_spans
from prefect_video.ledger import Job
from prefect_video.session import SessionEvent, observe

MAX_SECONDS: Final = 0.1


@dataclass
class Slots:
    """Moments at which slots became free and were filled.

    Attributes:
        freed: Unix times at which ends were noticed, by generation id.
        filled: Unix times at which requests left.
    """

    freed: dict[str, float] = field(default_factory=dict)
    filled: list[float] = field(default_factory=list)

    def note(self, event: SessionEvent, job: Job) -> None:
        """Note the time of an event; an observer of sessions."""
        if event is SessionEvent.COMPLETED and job.generation_id:
            self.freed[job.generation_id] = time.time()
        elif event is SessionEvent.BEFORE_SEND:
            self.filled.append(time.time())

    def delays(self, at_once: int) -> list[float]:
        """Return the seconds from each notice to the request that has filled its slot."""
        waited_for = sorted(self.freed.values())
        return [filled - freed for freed, filled in zip(waited_for, sorted(self.filled)[at_once:], strict=False)]


def describe(label: str, delays: Sequence[float]) -> str:
    """Format a row: median, 95th percentile and greatest, in milliseconds."""
    cuts = statistics.quantiles(delays, n=20)
    return f"{label:<44}{cuts[9] * 1000:>9.0f}{cuts[18] * 1000:>9.0f}{max(delays) * 1000:>9.0f}"


def measure(options: argparse.Namespace, folder: Path) -> tuple[list[float], list[float]]:
    """Run the flow; return the delays of slots after their notice, and of notices after the ends."""
    database, slots = folder / "emulator.db", Slots()
    emulator = EmulatorProcess(
        "--db", str(database), "--render", "plate", "--times", f"fixed:{options.seconds}",
        "--capacity", str(options.at_once),
    )  # fmt: skip
    try:
        with prefect_server(folder) as environ, observe(slots.note):
            os.environ |= {**environ, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_LOGGING_LEVEL": "WARNING"}
            order = Order(Address(emulator.endpoint).url, str(folder), options.generations, options.at_once, run=1)
            order.videos.mkdir()
            asyncio.run(run_package(order, "sora"))
    finally:
        emulator.close()
    late = [slots.freed[name] - ended for name, (_, ended) in read_spans(database).items() if name in slots.freed]
    return slots.delays(options.at_once), late


def main() -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=60)
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slots-") as folder:
        delays, late = measure(options, Path(folder))
    print(f"{'milliseconds':<44}{'p50':>9}{'p95':>9}{'max':>9}")
    print(describe("from the end to its notice (late)", late))
    print(describe("from the notice to the next request", delays))
    return int(statistics.quantiles(delays, n=20)[18] > MAX_SECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
