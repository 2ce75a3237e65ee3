"""`ledger export` and `ledger backup`: the whole ledger as a table, and as a file to restore."""

from __future__ import annotations

import contextlib
import csv
import json as json_format
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TextIO

from cyclopts import Parameter

from prefect_video._clean_text import clean_cell
from prefect_video._counted import counted
from prefect_video.cli.options import JsonFlag, LedgerOption, ledger_name
from prefect_video.cli.output import DONE, display_path, print_json, print_status, stdout
from prefect_video.cli.sessions import open_ledger, run_async
from prefect_video.errors import StoreError
from prefect_video.ledger import HistoryEntry, Job, Ledger

Format = Literal["jsonl", "csv"]
Table = Literal["jobs", "history"]

_JOB_COLUMNS: Final = tuple(Job.model_fields)
_STEP_COLUMNS: Final = tuple(HistoryEntry.model_fields)


def export(
    *,
    format: Annotated[
        Format, Parameter(help="`jsonl`: one object a line. `csv`: one line each, records within as JSON.")
    ] = "jsonl",
    table: Annotated[
        Table, Parameter(help="`jobs`: one line a job, in JSON lines with its history. `history`: one line a step.")
    ] = "jobs",
    output: Annotated[Path | None, Parameter(help="File to write; by default standard output.")] = None,
    ledger: LedgerOption = None,
) -> int:
    """Write all jobs with their histories, oldest first, a page at a time: any size fits, and live runs go on.

    Try:

        prefect-video ledger export > jobs.jsonl

        prefect-video ledger export --format csv --table history --output steps.csv
    """
    try:
        with _open(output) as file:
            lines = run_async(_export(ledger_name(ledger), file, format, table))
    except OSError as error:
        raise StoreError(f"{output} cannot be written ({error.strerror}): give another file with --output") from error
    if output:
        print_status(f"{counted(lines, 'line')}: {output}")
    return DONE


def backup(
    file: Annotated[Path, Parameter(help="The new file.")], /, *, ledger: LedgerOption = None, json: JsonFlag = False
) -> int:
    """Copy a SQLite ledger into a new file while runs go on; the copy is whole, of one moment, and checked.

    Restore it as docs/operations.md says, and then run `prefect-video ledger recover`. A ledger on PostgreSQL has
    that database's own tool: the message names the command.

    Try:

        prefect-video ledger backup /backups/ledger-2026-01-31.db
    """
    target = file.expanduser().absolute()
    size = run_async(_back_up(ledger_name(ledger), target))
    if json:
        print_json({"backup": str(target), "bytes": size})
    else:
        stdout().print(f"{display_path(target.as_uri())} ({size / 1e6:,.1f} MB)", markup=False, soft_wrap=True)
    return DONE


async def _back_up(name: str | None, target: Path) -> int:
    async with open_ledger(name) as ledger:
        return await ledger.back_up(target)


@contextlib.contextmanager
def _open(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    with output.expanduser().open("w", encoding="utf-8", errors="replace", newline="") as file:
        yield file


async def _export(name: str | None, file: TextIO, format: Format, table: Table) -> int:
    """Write the lines of a table as they are read; return how many."""
    written = 0
    columns = _JOB_COLUMNS if table == "jobs" else _STEP_COLUMNS
    writer = csv.writer(file, lineterminator="\n")
    if format == "csv":
        writer.writerow(columns)
    async with open_ledger(name) as ledger:
        async for row in _rows(ledger, table):
            if format == "csv":
                writer.writerow([_cell(row[column]) for column in columns])
            else:
                file.write(json_format.dumps(row, ensure_ascii=False) + "\n")
            written += 1
    return written


async def _rows(ledger: Ledger, table: Table) -> AsyncIterator[dict[str, Any]]:
    async for job, steps in ledger.exports.stream():
        lines = [step.model_dump(mode="json") for step in steps]
        if table == "history":
            for line in lines:
                yield line
        else:
            yield {**job.model_dump(mode="json"), "history": lines}


def _cell(value: Any) -> str:
    """Return a value as a cell: no formula, nothing for None, a record as JSON."""
    if value is None:
        return ""
    return clean_cell(value if isinstance(value, str) else json_format.dumps(value, ensure_ascii=False))
