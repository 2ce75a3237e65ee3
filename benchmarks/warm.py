"""Cost of a warm run: 1,000 stored shots, compared with an empty flow.

    python -m benchmarks.warm [--shots 1000]

Prints both times and the provider's requests; exits with 1 if the warm run takes over 3 s more, or sends any request.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

LIMIT_SECONDS = 3.0


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
        await empty()
        times: dict[str, float] = {}
        for name, run in (("empty flow", empty), ("warm run", lambda: generate_project(project, provider="emulator"))):
            began = time.perf_counter()
            await run()
            times[name] = time.perf_counter() - began
            print(f"{name}: {times[name]:.2f} s")
        after = emulator.usage()
    extra_seconds = times["warm run"] - times["empty flow"]
    requests = sum(after["requests"].values()) - sum(before["requests"].values())
    billed = after["billed"] - before["billed"]
    print(f"the warm run takes {extra_seconds:.2f} s more; billed {billed}, requests {requests}")
    return int(extra_seconds > LIMIT_SECONDS or requests > 0 or bool(report.failures))


if __name__ == "__main__":
    sys.exit(main())
