"""A process that submits a project and leaves, or collects and kills itself when a share of the film is done.

Usage: `python -m tests.support.deferred_worker run|collect PROJECT_JSON STORE LEDGER [SHARE]`, with the emulator in the
environment. It prints the status of each deferred run whose outcome it reports.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prefect_video import Project, SessionRef, open_session
from prefect_video.pipeline import DeferredOutcome, collect, observe_films, run_project
from prefect_video.session import Session, SessionNames, ref_for_job
from prefect_video.session.refs import open_ledger


async def submit(project: Project, store: str, ledger: str) -> None:
    async with await open_session(SessionRef.from_names("emulator", store, ledger)) as session:
        await run_project(session, project, wait=False)


async def finish(ledger: str, dies_at: float) -> None:
    def die(share: float) -> None:
        if share >= dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    @asynccontextmanager
    async def open_named(names: SessionNames) -> AsyncIterator[Session]:
        async with await open_session(ref_for_job(names, ledger)) as session:
            yield session

    async def report(outcome: DeferredOutcome) -> None:
        print(outcome.status, outcome.report.film and outcome.report.film.status)

    with observe_films(die):
        async with await open_ledger(ledger) as opened:
            await collect(opened, open_named, on_outcome=report)


if __name__ == "__main__":
    kind, file, store, ledger, *share = sys.argv[1:]
    if kind == "run":
        asyncio.run(submit(Project.model_validate_json(Path(file).read_text()), store, ledger))
    else:
        asyncio.run(finish(ledger, float(share[0]) if share else 2.0))
