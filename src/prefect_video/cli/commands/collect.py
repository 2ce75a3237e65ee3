"""`collect`: finishes the jobs that runs have left behind."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_video.cli.job_view import show_outcomes
from prefect_video.cli.options import JsonFlag, LedgerOption, ProjectName, ledger_name
from prefect_video.cli.output import DONE, FAILED
from prefect_video.cli.report_view import show_report
from prefect_video.cli.sessions import open_ledger, run_async, use_session
from prefect_video.pipeline import CollectedJob, DeferredOutcome, ProjectReport
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

    The film, the page and the report of a project that was run with --no-wait follow its last shot.

    Exit status 1 when something could not be finished or is held, or such a project has failed.

    Try:

        prefect-video collect --wait
    """
    collected, reports = run_async(_collect(ledger_name(ledger), project, wait))
    outcomes = [(line.job, line.outcome, line.error) for line in collected]
    show_outcomes(outcomes, "collected", json, projects=[report.public() for report in reports] if json else ())
    for report in reports:
        show_report(report, ledger=ledger, to_stderr=json)
    has_failed = any(line.error for line in collected) or any(report.has_failed for report in reports)
    return FAILED if has_failed else DONE


async def _collect(name: str | None, project: str | None, wait: bool) -> tuple[list[CollectedJob], list[ProjectReport]]:
    reports: list[ProjectReport] = []

    async def keep(outcome: DeferredOutcome) -> None:
        reports.append(outcome.report)

    async with open_ledger(name) as ledger:
        collected = await collect_jobs(
            ledger,
            lambda job: use_session(ref_for_job(job, name)),
            project=project,
            wait=wait,
            on_outcome=keep,
        )
    return collected, reports
