"""`jobs`: the generations that the ledger knows."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_video.cli.job_view import public_job, show_jobs
from prefect_video.cli.options import JsonFlag, LedgerOption, ProjectName, ledger_name
from prefect_video.cli.output import DONE, print_json
from prefect_video.cli.sessions import open_ledger, run_async
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Job, State


def jobs(
    *,
    project: ProjectName = None,
    state: Annotated[
        State | None, Parameter(help="Only jobs in this state.", show_choices=True, name_transform=str.lower)
    ] = None,
    held: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Only jobs that are held for a decision, and those that `collect` has left for later twice or more.",
        ),
    ] = False,
    limit: Annotated[int, Parameter(help="At most this many, the newest.")] = 50,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """List generations, newest first: requested, paid, stored or failed.

    Try:

        prefect-video jobs --project coffee-ad

        prefect-video jobs --held
    """
    if limit < 1:
        raise InvalidInput(f"--limit: at least 1, not {limit}")
    jobs = run_async(_read_jobs(ledger_name(ledger), project, state, held, limit))
    if json:
        print_json({"jobs": [public_job(job) for job in jobs]})
    else:
        show_jobs(jobs)
    return DONE


async def _read_jobs(name: str | None, project: str | None, state: State | None, held: bool, limit: int) -> list[Job]:
    async with open_ledger(name) as ledger:
        return await ledger.jobs.find(project=project, state=state, needs_attention=held, limit=limit)
