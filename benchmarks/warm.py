"""Cost of a warm run: 1,000 stored shots, by the flow and by the command line, beside an empty flow.

    python -m benchmarks.warm [--shots 1000]

The flow runs in this process, which has Prefect's server beside it; the command is a process of its own, start and end
included. Prints the times and the provider's requests; exits with 1 if one of both takes over 2 s, or sends a request.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect_video.projects import Project

LIMIT_SECONDS = 2.0
COMMAND = Path(sys.executable).with_name("prefect-video")


def main() -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=int, default=1000)
    count = parser.parse_args().shots
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "PREFECT_HOME": folder,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "PREFECT_VIDEO_LEDGER_URL": f"sqlite:///{folder}/ledger.db",
            "PREFECT_VIDEO_STORE": f"{folder}/videos",
            "PREFECT_VIDEO_SPOOL": f"{folder}/spool",
        }
        return asyncio.run(_compare(count, Path(folder)))


async def _compare(count: int, folder: Path) -> int:
    from prefect import flow
    from prefect.testing.utilities import prefect_test_harness

    from prefect_video.emulator import Emulator, EmulatorSettings
    from prefect_video.flows import generate_project
    from prefect_video.pipeline import run_project
    from prefect_video.projects import Project
    from prefect_video.session import SessionRef, open_session

    project = Project.model_validate(
        {
            "project": "warm",
            "defaults": {"duration": 1, "resolution": "480p"},
            "shots": [{"id": f"s{n}", "prompt": f"shot {n}"} for n in range(count)],
        }
    )

    @flow
    async def empty() -> None: ...

    settings = EmulatorSettings(port=0, speed=5000, capacity=100, render="plate")
    with Emulator(settings) as emulator, prefect_test_harness(server_startup_timeout=120):
        os.environ |= {"PREFECT_VIDEO_EMULATOR_ENDPOINT": emulator.endpoint, "SORA_API_KEY": ""}
        began = time.perf_counter()
        async with await open_session(SessionRef.from_names("emulator")) as session:
            report = await run_project(session, project)
        print(f"cold run of {count} shots: {time.perf_counter() - began:.1f} s, {len(report.failures)} failed")
        before = emulator.usage()
        seconds = {
            "empty flow": await _time(empty()),
            "warm flow": await _time(generate_project(project, provider="emulator")),
            "warm command": await _time(_run_command(project, folder)),
        }
        after = emulator.usage()
    for name, taken in seconds.items():
        print(f"{name}: {taken:.2f} s")
    requests = sum(after["requests"].values()) - sum(before["requests"].values())
    billed = after["billed"] - before["billed"]
    print(f"billed {billed}, requests {requests}")
    is_slow = max(seconds["warm flow"], seconds["warm command"]) > LIMIT_SECONDS
    return int(is_slow or requests > 0 or bool(report.failures))


async def _time(run: Awaitable[object]) -> float:
    began = time.perf_counter()
    await run
    return time.perf_counter() - began


async def _run_command(project: Project, folder: Path) -> None:
    file = folder / "warm.json"
    file.write_text(project.model_dump_json(exclude_defaults=True))
    arguments = [str(COMMAND), "run", str(file), "--provider", "emulator", "--quiet"]
    await asyncio.to_thread(subprocess.run, arguments, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
