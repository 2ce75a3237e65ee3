"""`collect`: finishes the jobs that runs have left behind."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_video.cli.job_view import show_outcomes
from prefect_video.cli.options import JsonFlag, LedgerOption, ProjectName, ledger_name
from prefect_video.cli.output import DONE, FAILED
from prefect_video.cli.sessions import open_ledger, run_async, use_session
from prefect_video.pipeline import CollectedJob
from prefect_video.pipeline import collect as collect_jobs
from prefect_video.session import ref_for_job


def collect(
    *,
    project: ProjectName = None,
    wait: Annotated[
        bool, Parameter(negative="", show_default=False, help="Wait for generations that are still in progress.")
    ] = False,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """Finish what crashed, interrupted or deferred runs left behind. Pays for nothing; safe beside live runs.

    Exit status 1 when something could not be finished or is held.

    Try:

        prefect-video collect --wait
    """
    collected = run_async(_collect(ledger_name(ledger), project, wait))
    show_outcomes([(line.job, line.outcome, line.error) for line in collected], "collected", json)
    return FAILED if any(line.error for line in collected) else DONE


async def _collect(name: str | None, project: str | None, wait: bool) -> list[CollectedJob]:
    async with open_ledger(name) as ledger:
        return await collect_jobs(ledger, lambda job: use_session(ref_for_job(job, name)), project=project, wait=wait)
