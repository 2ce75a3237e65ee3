"""Benchmarks, one after the other: `python -m benchmarks [name …]`; each prints its own table."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

BENCHMARKS: Final = (
    "ledger",
    "ledger_size",
    "warm",
    "waiting",
    "punctuality",
    "slots",
    "orchestration",
    "webhooks",
    "concurrency",
    "job_api",
)


def main(names: list[str]) -> int:
    """Run the named benchmarks, by default all; return the number of those that missed their figures."""
    failed = 0
    for name in names or BENCHMARKS:
        print(f"\n== {name}", flush=True)
        failed += subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
