"""`cancel`: ends unfinished jobs, at the provider too where it still can."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_video.cli.job_view import show_outcomes
from prefect_video.cli.options import JsonFlag, LedgerOption, command_ledger, ledger_name
from prefect_video.cli.output import DONE, FAILED
from prefect_video.cli.sessions import find_job, open_ledger, run_async, use_session
from prefect_video.errors import InvalidInput
from prefect_video.ledger import command_line
from prefect_video.pipeline import CancelledJob, cancel_jobs
from prefect_video.session import ref_for_job


def cancel(
    *job_ids: Annotated[str, Parameter(help="Ids of jobs, or their first characters.")],
    project: Annotated[str | None, Parameter(help="All unfinished jobs of this project.")] = None,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """Cancel unfinished jobs, at the provider too where that is still possible.

    A generation that cannot be cancelled any more goes on, as it is paid: `prefect-video collect` stores it.

    Try:

        prefect-video cancel 3fa94c07

        prefect-video cancel --project coffee-ad
    """
    if bool(job_ids) == (project is not None):
        listing = command_line("jobs", ledger=command_ledger(ledger))
        raise InvalidInput(f"cancel: give ids of jobs or --project NAME; see: {listing}")
    cancelled = run_async(_cancel(ledger_name(ledger), job_ids, project))
    show_outcomes([(line.job, line.outcome, line.error) for line in cancelled], "cancelled", json)
    return FAILED if any(line.error for line in cancelled) else DONE


async def _cancel(name: str | None, job_ids: tuple[str, ...], project: str | None) -> list[CancelledJob]:
    async with open_ledger(name) as ledger:
        if project is not None:
            jobs = await ledger.jobs.unfinished(project=project)
        else:
            jobs = [await find_job(ledger, text) for text in dict.fromkeys(job_ids)]
    return await cancel_jobs(jobs, lambda job: use_session(ref_for_job(job, name)))
