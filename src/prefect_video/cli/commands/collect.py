"""`collect` and `cancel`: finishing or giving up what is under way."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from prefect_video.cli.commands.jobs import public_entry
from prefect_video.cli.options import JsonFlag, LedgerOption, ProjectName, ledger_name
from prefect_video.cli.output import DONE, FAILED, out, print_json, safe, table
from prefect_video.cli.sessions import find_entry, open_ledger, open_studio, run_async
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Entry
from prefect_video.pipeline.cancel import Cancelled, cancel_rows
from prefect_video.pipeline.collect import Collected
from prefect_video.pipeline.collect import collect as collect_rows
from prefect_video.session.refs import ref_of


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
    _show([(line.entry, line.outcome, line.error) for line in swept], "collected", json)
    return FAILED if any(line.error for line in swept) else DONE


def cancel(
    *jobs: Annotated[str, Parameter(help="Ids of jobs, or their first characters.")],
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
    if bool(jobs) == (project is not None):
        raise InvalidInput("cancel: give ids of jobs or --project NAME; see: prefect-video jobs")
    cancelled = run_async(_cancel(ledger_name(ledger), jobs, project))
    _show([(line.entry, line.outcome, line.error) for line in cancelled], "cancelled", json)
    return FAILED if any(line.error for line in cancelled) else DONE


async def _collect(ledger: str | None, project: str | None, wait: bool) -> list[Collected]:
    async with open_ledger(ledger) as books:
        return await collect_rows(books, lambda entry: open_studio(ref_of(entry, ledger)), project=project, wait=wait)


async def _cancel(ledger: str | None, jobs: tuple[str, ...], project: str | None) -> list[Cancelled]:
    async with open_ledger(ledger) as books:
        if project is not None:
            entries = await books.unfinished(project=project)
        else:
            entries = [await find_entry(books, text) for text in dict.fromkeys(jobs)]
    return await cancel_rows(entries, lambda entry: open_studio(ref_of(entry, ledger)))


def _show(lines: list[tuple[Entry, str, str | None]], key: str, json: bool) -> None:
    if json:
        print_json({key: [_public(*line) for line in lines]})
        return
    console = out()
    if not lines:
        console.print("nothing is unfinished")
        return
    made = table("job", "project", "shot", "state", "outcome")
    for entry, outcome, _ in lines:
        made.add_row(entry.id[:8], safe(entry.project), safe(entry.shot.id), entry.state.value, safe(outcome))
    console.print(made)
    for entry, _, error in lines:
        if error:
            console.print(f"[yellow]![/] {entry.id[:8]}: {safe(error)}", soft_wrap=True)


def _public(entry: Entry, outcome: str, error: str | None) -> dict[str, Any]:
    return {**public_entry(entry), "outcome": outcome, "error": error}
