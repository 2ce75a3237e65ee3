"""`jobs` and `spend`: the ledger's jobs and their cost."""

from __future__ import annotations

import csv as csv_format
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from prefect_video.cli.options import JsonFlag, LedgerOption, ProjectName, ledger_name
from prefect_video.cli.output import DONE, escape, print_json, relative_time, stdout, table, usd
from prefect_video.cli.sessions import open_ledger, run_async
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Job, SpendRow, State
from prefect_video.pipeline import as_number

Grouping = Literal["month", "project", "account", "model", "day"]

_COLOURS = {
    State.STORED: "green",
    State.FAILED: "red",
    State.LOST: "red",
    State.EXPIRED: "red",
    State.CANCELLED: "yellow",
    State.UNKNOWN: "yellow",
    State.RELEASED: "dim",
}


def jobs(
    *,
    project: ProjectName = None,
    state: Annotated[
        State | None, Parameter(help="Only jobs in this state.", show_choices=True, name_transform=str.lower)
    ] = None,
    held: Annotated[
        bool, Parameter(negative="", show_default=False, help="Only jobs that are held for a decision.")
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


def spend(
    *,
    by: Annotated[Grouping, Parameter(help="The unit of each line.")] = "month",
    project: ProjectName = None,
    since: Annotated[
        datetime | None, Parameter(help="Only what was reserved since then, such as 2026-01-31 (UTC).")
    ] = None,
    ledger: LedgerOption = None,
    csv: Annotated[bool, Parameter(negative="", show_default=False, help="Print comma-separated values.")] = False,
    json: JsonFlag = False,
) -> int:
    """Add up what was spent and is reserved.

    Try:

        prefect-video spend --by project

        prefect-video spend --by day --since 2026-01-01 --csv > spend.csv
    """
    if csv and json:
        raise InvalidInput("--csv and --json: choose one of them")
    lines = run_async(_read_spend(ledger_name(ledger), by, project, _to_utc(since)))
    spent = sum((line.spent_usd for line in lines), Decimal(0))
    reserved = sum((line.reserved_usd for line in lines), Decimal(0))
    if json:
        print_json(
            {
                "by": by,
                "lines": [_public_spend(line, by) for line in lines],
                "spent_usd": as_number(spent),
                "reserved_usd": as_number(reserved),
            }
        )
    elif csv:
        writer = csv_format.writer(sys.stdout, lineterminator="\n")
        writer.writerow([by, "videos", "stored", "spent_usd", "reserved_usd", "unpriced", "assumed_usd"])
        for line in lines:
            writer.writerow(_cells(line))
    else:
        _show_spend(lines, by, spent, reserved)
    return DONE


async def _read_jobs(name: str | None, project: str | None, state: State | None, held: bool, limit: int) -> list[Job]:
    async with open_ledger(name) as ledger:
        # False would list only jobs that are not held; None does not filter.
        return await ledger.jobs.find(project=project, state=state, hold_reason=held or None, limit=limit)


async def _read_spend(name: str | None, by: Grouping, project: str | None, since: datetime | None) -> list[SpendRow]:
    async with open_ledger(name) as ledger:
        return await ledger.spend.report(by=by, project=project, since=since)


def public_job(job: Job) -> dict[str, Any]:
    """Build the JSON object of a job."""
    return {
        "id": job.id,
        "project": job.project,
        "shot": job.shot.id,
        "take": job.take,
        "attempt": job.attempt,
        "state": job.state.value,
        "hold_reason": job.hold_reason,
        "prompt": job.shot.prompt,
        "model": job.shot.model,
        "fingerprint": job.fingerprint,
        "provider": job.provider,
        "account": job.account,
        "generation_id": job.generation_id,
        "reserved_usd": as_number(job.reserved_usd),
        "actual_usd": as_number(job.actual_usd),
        "disputed_usd": as_number(job.disputed_usd),
        "cost_usd": as_number(job.cost_usd),
        "created_at": job.created_at.isoformat(),
        "updated_at": job.updated_at.isoformat(),
        "uri": job.asset.uri if job.asset else None,
        "error": job.error_message,
        "flow_run_id": job.flow_run_id,
    }


def show_jobs(jobs: list[Job]) -> None:
    """Print jobs for people, and below them the hold reason of each that has one."""
    console = stdout()
    if not jobs:
        console.print("no jobs")
        return
    grid = table("job", "project", "shot", "state", "provider", "cost", "age", right=("cost", "age"))
    for job in jobs:
        mark = " [yellow]![/]" if job.hold_reason else ""
        grid.add_row(
            job.id[:8],
            escape(job.project),
            escape(job.shot.id if job.take == 1 else f"{job.shot.id}@{job.take}"),
            f"[{_COLOURS.get(job.state, 'blue')}]{job.state.value}[/]{mark}",
            escape(job.provider),
            _format_cost(job),
            relative_time(job.created_at),
        )
    console.print(grid)
    for job in jobs:
        if job.hold_reason:
            console.print(f"[yellow]![/] {job.id[:8]}: {escape(job.hold_reason)}", soft_wrap=True)


def _format_cost(job: Job) -> str:
    """Format the cost; with a `~`, the reserved amount, as long as the provider has reported none."""
    is_estimate = job.state is not State.RELEASED and job.actual_usd is None and job.reserved_usd is not None
    return f"~{usd(job.cost_usd)}" if is_estimate else usd(job.cost_usd)


def _to_utc(moment: datetime | None) -> datetime | None:
    """Read a moment without a time zone as UTC, as the ledger's are."""
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment


def _cells(line: SpendRow) -> list[str]:
    numbers = (line.videos, line.stored, line.spent_usd, line.reserved_usd, line.unpriced, line.assumed_usd)
    return [line.key, *(str(number) for number in numbers)]


def _public_spend(line: SpendRow, by: str) -> dict[str, Any]:
    return {
        by: line.key,
        "videos": line.videos,
        "stored": line.stored,
        "spent_usd": as_number(line.spent_usd),
        "reserved_usd": as_number(line.reserved_usd),
        "unpriced": line.unpriced,
        "assumed_usd": as_number(line.assumed_usd),
    }


def _show_spend(lines: list[SpendRow], by: str, spent: Decimal, reserved: Decimal) -> None:
    grid = table(by, "videos", "stored", "spent", "reserved", right=("videos", "stored", "spent", "reserved"))
    for line in lines:
        grid.add_row(escape(line.key), str(line.videos), str(line.stored), usd(line.spent_usd), usd(line.reserved_usd))
    console = stdout()
    console.print(grid)
    console.print(f"\n[bold]{usd(spent)}[/] spent, {usd(reserved)} reserved")
    if assumed := sum((line.assumed_usd for line in lines), Decimal(0)):
        console.print(
            f"[yellow]![/] {usd(assumed)} of that is the reserved amount: the provider has not reported the cost"
        )
    if unpriced := sum(line.unpriced for line in lines):
        console.print(f"[yellow]![/] the price of {unpriced} videos is unknown and not in these sums")
