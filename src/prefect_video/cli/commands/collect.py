"""`collect` and `cancel`: finishing or giving up what is under way."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from prefect_video.cli.commands.jobs import public_job
from prefect_video.cli.options import JsonFlag, LedgerOption, ProjectName, ledger_name
from prefect_video.cli.output import DONE, FAILED, escape, print_json, stdout, table
from prefect_video.cli.sessions import find_job, open_ledger, run_async, use_session
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Job
from prefect_video.pipeline import CancelledJob, CollectedJob, cancel_jobs
from prefect_video.pipeline import collect as collect_rows
from prefect_video.session import ref_for_job


def collect(
    *,
    project: ProjectName = None,
    wait: Annotated[
        bool, Parameter(negative="", show_default=False, help="Wait for generations that are still being made.")
    ] = False,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """Finish what crashed, interrupted or deferred runs left behind. Pays for nothing; safe beside live runs.

    Exit status 1 when something could not be finished or waits for a human.

    Try:

        prefect-video collect --wait
    """
    swept = run_async(_collect(ledger_name(ledger), project, wait))
    _show([(line.job, line.outcome, line.error) for line in swept], "collected", json)
    return FAILED if any(line.error for line in swept) else DONE


def cancel(
    *job_ids: Annotated[str, Parameter(help="Ids of jobs, or their first characters.")],
    project: Annotated[str | None, Parameter(help="All unfinished jobs of this project.")] = None,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """Give up unfinished jobs, at the provider too where it still can.

    One that is too far goes on, as it is paid: `prefect-video collect` stores it.

    Try:

        prefect-video cancel 3fa94c07

        prefect-video cancel --project coffee-ad
    """
    if bool(job_ids) == (project is not None):
        raise InvalidInput("cancel: give ids of jobs or --project NAME; see: prefect-video jobs")
    cancelled = run_async(_cancel(ledger_name(ledger), job_ids, project))
    _show([(line.job, line.outcome, line.error) for line in cancelled], "cancelled", json)
    return FAILED if any(line.error for line in cancelled) else DONE


async def _collect(ledger: str | None, project: str | None, wait: bool) -> list[CollectedJob]:
    async with open_ledger(ledger) as books:
        return await collect_rows(books, lambda job: use_session(ref_for_job(job, ledger)), project=project, wait=wait)


async def _cancel(ledger: str | None, job_ids: tuple[str, ...], project: str | None) -> list[CancelledJob]:
    async with open_ledger(ledger) as books:
        if project is not None:
            jobs = await books.jobs.unfinished(project=project)
        else:
            jobs = [await find_job(books, text) for text in dict.fromkeys(job_ids)]
    return await cancel_jobs(jobs, lambda job: use_session(ref_for_job(job, ledger)))


def _show(lines: list[tuple[Job, str, str | None]], key: str, json: bool) -> None:
    if json:
        print_json({key: [_public(*line) for line in lines]})
        return
    console = stdout()
    if not lines:
        console.print("nothing is unfinished")
        return
    made = table("job", "project", "shot", "state", "outcome")
    for job, outcome, _ in lines:
        made.add_row(job.id[:8], escape(job.project), escape(job.shot.id), job.state.value, escape(outcome))
    console.print(made)
    for job, _, error in lines:
        if error:
            console.print(f"[yellow]![/] {job.id[:8]}: {escape(error)}", soft_wrap=True)


def _public(job: Job, outcome: str, error: str | None) -> dict[str, Any]:
    return {**public_job(job), "outcome": outcome, "error": error}
