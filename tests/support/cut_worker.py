"""A process that makes the film of a project, and kills itself when a share of it is done.

Usage: `python -m tests.support.cut_worker PROJECT_JSON STORE LEDGER [SHARE]`, with the emulator in the environment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from prefect_video import Project, SessionRef, open_session
from prefect_video.pipeline import cut_project


async def work(project: Project, store: str, ledger: str, dies_at: float) -> None:
    def die(share: float) -> None:
        if share >= dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    async with await open_session(SessionRef.from_names("emulator", store, ledger)) as session:
        print((await cut_project(session, project, on_progress=die)).model_dump_json())


if __name__ == "__main__":
    file, store, ledger, *share = sys.argv[1:]
    project = Project.model_validate_json(Path(file).read_text())
    asyncio.run(work(project, store, ledger, float(share[0]) if share else 2.0))
