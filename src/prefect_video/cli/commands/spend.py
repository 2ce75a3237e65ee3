"""`spend`: the cost of the ledger's jobs, added up."""

from __future__ import annotations

import csv as csv_format
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from prefect_video._clean_text import clean_cell
from prefect_video._counted import counted
from prefect_video.cli.options import JsonFlag, LedgerOption, ProjectName, ledger_name
from prefect_video.cli.output import DONE, escape, print_json, stdout, table, usd
from prefect_video.cli.sessions import open_ledger, run_async
from prefect_video.errors import InvalidInput
from prefect_video.ledger import CommittedSums, SpendRow
from prefect_video.pipeline import as_number

Grouping = Literal["month", "project", "account", "key", "environment", "model", "day"]


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
    sums = _add_up(lines)
    if json:
        print_json(
            {
                "by": by,
                "lines": [_public_spend(line, by) for line in lines],
                "spent_usd": as_number(sums.spent_usd),
                "reserved_usd": as_number(sums.reserved_usd),
            }
        )
    elif csv:
        writer = csv_format.writer(sys.stdout, lineterminator="\n")
        writer.writerow([by, "videos", "stored", "spent_usd", "reserved_usd", "unpriced", "assumed_usd"])
        for line in lines:
            writer.writerow(_cells(line))
    else:
        _show_spend(lines, by, sums)
    return DONE


async def _read_spend(name: str | None, by: Grouping, project: str | None, since: datetime | None) -> list[SpendRow]:
    async with open_ledger(name) as ledger:
        return await ledger.spend.report(by=by, project=project, since=since)


def _add_up(lines: list[SpendRow]) -> CommittedSums:
    return CommittedSums(
        spent_usd=sum((line.spent_usd for line in lines), Decimal(0)),
        reserved_usd=sum((line.reserved_usd for line in lines), Decimal(0)),
        unpriced=sum(line.unpriced for line in lines),
        unpriced_reserved=sum(line.unpriced_reserved for line in lines),
    )


def _to_utc(moment: datetime | None) -> datetime | None:
    """Read a moment without a time zone as UTC, as the ledger's are."""
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment


def _cells(line: SpendRow) -> list[str]:
    numbers = (line.videos, line.stored, line.spent_usd, line.reserved_usd, line.unpriced, line.assumed_usd)
    return [clean_cell(line.key), *(str(number) for number in numbers)]


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


def _show_spend(lines: list[SpendRow], by: str, sums: CommittedSums) -> None:
    grid = table(by, "videos", "stored", "spent", "reserved", right=("videos", "stored", "spent", "reserved"))
    for line in lines:
        grid.add_row(
            escape(line.key), str(line.videos), str(line.stored), line.describe_spent(), line.describe_reserved()
        )
    console = stdout()
    console.print(grid)
    console.print(f"\n[bold]{sums.describe_spent()}[/] spent, {sums.describe_reserved()} reserved")
    if assumed := sum((line.assumed_usd for line in lines), Decimal(0)):
        console.print(
            f"[yellow]![/] {usd(assumed)} of that is the reserved amount: the provider has not reported the cost"
        )
    if sums.unpriced:
        console.print(f"[yellow]![/] the price of {counted(sums.unpriced, 'video')} is unknown and not in these sums")
