"""`jobs` and `spend`: what the ledger knows."""

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
    hold_reason: Annotated[
        bool, Parameter(negative="", show_default=False, help="Only jobs that wait for a human.")
    ] = False,
    limit: Annotated[int, Parameter(help="The newest so many.")] = 50,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """List generations: what was asked, paid, stored or failed, newest first.

    Try:

        prefect-video jobs --project coffee-ad

        prefect-video jobs --held
    """
    if limit < 1:
        raise InvalidInput(f"--limit: at least 1, not {limit}")
    jobs = run_async(_jobs(ledger_name(ledger), project, state, hold_reason, limit))
    if json:
        print_json({"jobs": [public_job(job) for job in jobs]})
    else:
        show_jobs(jobs)
    return DONE


def spend(
    *,
    by: Annotated[Grouping, Parameter(help="What to add up by.")] = "month",
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
    lines = run_async(_spend(ledger_name(ledger), by, project, _in_utc(since)))
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


async def _jobs(
    ledger: str | None, project: str | None, state: State | None, hold_reason: bool, limit: int
) -> list[Job]:
    async with open_ledger(ledger) as books:
        return await books.jobs.find(project=project, state=state, hold_reason=hold_reason or None, limit=limit)


async def _spend(ledger: str | None, by: Grouping, project: str | None, since: datetime | None) -> list[SpendRow]:
    async with open_ledger(ledger) as books:
        return await books.spend.report(by=by, project=project, since=since)


def public_job(job: Job) -> dict[str, Any]:
    """A row of the ledger as `--json` prints it."""
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
    """Prints rows for people, and below them what a human has to decide."""
    console = stdout()
    if not jobs:
        console.print("no jobs")
        return
    made = table("job", "project", "shot", "state", "provider", "cost", "age", right=("cost", "age"))
    for job in jobs:
        mark = " [yellow]![/]" if job.hold_reason else ""
        made.add_row(
            job.id[:8],
            escape(job.project),
            escape(job.shot.id if job.take == 1 else f"{job.shot.id}@{job.take}"),
            f"[{_COLOURS.get(job.state, 'blue')}]{job.state.value}[/]{mark}",
            escape(job.provider),
            _cost(job),
            relative_time(job.created_at),
        )
    console.print(made)
    for job in jobs:
        if text := job.hold_reason:
            console.print(f"[yellow]![/] {job.id[:8]}: {escape(text)}", soft_wrap=True)


def _cost(job: Job) -> str:
    """What it cost; with a `~`, what was reserved for it, where the provider has not told."""
    is_estimate = job.state is not State.RELEASED and job.actual_usd is None and job.reserved_usd is not None
    return f"~{usd(job.cost_usd)}" if is_estimate else usd(job.cost_usd)


def _in_utc(moment: datetime | None) -> datetime | None:
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
    made = table(by, "videos", "stored", "spent", "reserved", right=("videos", "stored", "spent", "reserved"))
    for line in lines:
        made.add_row(escape(line.key), str(line.videos), str(line.stored), usd(line.spent_usd), usd(line.reserved_usd))
    console = stdout()
    console.print(made)
    console.print(f"\n[bold]{usd(spent)}[/] spent, {usd(reserved)} reserved")
    if assumed := sum((line.assumed_usd for line in lines), Decimal(0)):
        console.print(f"[yellow]![/] {usd(assumed)} of that is what was reserved: the provider has not told the cost")
    if unpriced := sum(line.unpriced for line in lines):
        console.print(f"[yellow]![/] the price of {unpriced} videos is not known and not in these sums")
