"""`approve`: which take of a shot counts, and which shots are dropped or made with another prompt."""

from __future__ import annotations

import asyncio
import getpass
from typing import Annotated, Any

from cyclopts import Parameter

from prefect_video.cli.options import JsonFlag, LedgerOption, ledger_name
from prefect_video.cli.output import DONE, display_path, escape, one_line, print_json, print_status, stdout, table
from prefect_video.cli.sessions import open_ledger, run_async
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Choice, command_line
from prefect_video.pipeline import ShotTakes, approve_as_proposed, choose_take, drop_shot, list_takes, redo_shot
from prefect_video.session import Settings


def approve(
    project: Annotated[str, Parameter(help="The project's name.")],
    shot: Annotated[str | None, Parameter(help="The shot's id; without one, the takes are listed.")] = None,
    /,
    *,
    take: Annotated[int | None, Parameter(help="Choose this take.")] = None,
    drop: Annotated[
        bool, Parameter(negative="", show_default=False, help="Make the shot no more; its stored takes stay.")
    ] = False,
    prompt: Annotated[str | None, Parameter(help="Make the shot anew, with this prompt.")] = None,
    yes: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Approve the shot, or all that wait, as proposed."),
    ] = False,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """List the takes of a project, choose one, drop a shot, or have it made with another prompt.

    It sends and deletes nothing: the next run of the project goes on from the decision. Where a take is chosen, the
    shots that continue it are made; another decision about the same shot replaces the last one. A run of a deployment
    that is suspended for the answer is resumed when no shot of the project waits any more.

    Try:

        prefect-video approve film

        prefect-video approve film --yes

        prefect-video approve film opening --take 2

        prefect-video approve film opening --prompt "the same harbour, in fog"
    """
    decisions = sum((take is not None, drop, prompt is not None, yes))
    if decisions > 1 or (shot is None and decisions and not yes):
        raise InvalidInput(
            "approve: give a shot and one of --yes, --take N, --drop, --prompt TEXT; --yes alone for all that wait;"
            " or neither, to list"
        )
    name = ledger_name(ledger)
    if not decisions:
        listed = run_async(_list(name, project, shot))
        if json:
            print_json({"project": project, "shots": [_public(takes) for takes in listed]})
        else:
            _show(project, listed)
        return DONE
    if yes or shot is None:
        choices = run_async(_approve(name, project, shot))
    else:
        choices = [run_async(_decide(name, project, shot, take, drop, prompt))]
    waiting = [takes.shot.id for takes in run_async(_list(name, project, None)) if takes.is_pending]
    if json:
        decided = [choice.model_dump(mode="json") for choice in choices]
        print_json(decided if yes else decided[0])
    else:
        for choice in choices:
            stdout().print(f"{project}/{choice.shot_id}: {_describe(choice)}", markup=False, soft_wrap=True)
        if not choices:
            stdout().print(f"project {project} has no shot that waits for an approval", markup=False)
    if waiting:
        print_status(f"still waiting for an answer: {', '.join(waiting)}")
    else:
        _resume(project)
    return DONE


def _resume(project: str) -> None:
    """Resume the suspended runs of a project, where a Prefect server is configured; the decisions stay in any case."""
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        return
    from prefect_video.flows.artifacts import API_ERRORS
    from prefect_video.flows.suspension import resume_approved

    try:
        resumed = asyncio.run(resume_approved(project))
    except API_ERRORS as error:
        print_status(
            f"the answer is kept, and no suspended run was resumed: Prefect's API failed ({one_line(error)}). Try again"
            f" with: {command_line('approve', project, '--yes')}, or run the project again"
        )
        return
    for run in resumed:
        print_status(f"flow run {run.name} goes on")


async def _list(name: str | None, project: str, shot: str | None) -> list[ShotTakes]:
    async with open_ledger(name) as ledger:
        listed = await list_takes(ledger, project, environment=Settings.from_environment().environment)
    return [takes for takes in listed if shot in (None, takes.shot.id)]


async def _approve(name: str | None, project: str, shot: str | None) -> list[Choice]:
    by, environment = getpass.getuser(), Settings.from_environment().environment
    async with open_ledger(name) as ledger:
        return await approve_as_proposed(ledger, project, [shot] if shot else None, by=by, environment=environment)


async def _decide(
    name: str | None, project: str, shot: str, take: int | None, drop: bool, prompt: str | None
) -> Choice:
    by, environment = getpass.getuser(), Settings.from_environment().environment
    async with open_ledger(name) as ledger:
        if take is not None:
            return await choose_take(ledger, project, shot, take, by=by, environment=environment)
        if drop:
            return await drop_shot(ledger, project, shot, by=by, environment=environment)
        return await redo_shot(ledger, project, shot, prompt or "", by=by, environment=environment)


def _describe(choice: Choice) -> str:
    if choice.is_dropped:
        return "dropped. The next run does not make it"
    if choice.take is not None:
        return f"take {choice.take} is chosen. The next run goes on from it"
    return "the next run makes it with the new prompt"


def _public(takes: ShotTakes) -> dict[str, Any]:
    return {
        "id": takes.shot.id,
        "prompt": takes.shot.prompt,
        "pending": takes.is_pending,
        "proposed": takes.proposed,
        "answer_by": takes.request.due_at.isoformat() if takes.request and takes.request.due_at else None,
        "chosen": takes.chosen,
        "dropped": takes.choice is not None and takes.choice.is_dropped,
        "new_prompt": takes.choice.new_prompt if takes.choice else None,
        "takes": [
            {"take": number, "job": job.id, "uri": job.asset.uri if job.asset else None}
            for number, job in takes.takes.items()
        ],
    }


def _show(project: str, listed: list[ShotTakes]) -> None:
    console = stdout()
    if not listed:
        console.print(f"project {project} has no stored takes to decide about", markup=False)
        return
    grid = table("shot", "take", "", "video", right=("take",))
    for takes in listed:
        for number, job in takes.takes.items():
            uri = display_path(job.asset.uri) if job.asset else ""
            grid.add_row(escape(takes.shot.id), str(number), _state(takes, number), escape(uri))
    console.print(grid)


def _state(takes: ShotTakes, number: int) -> str:
    if takes.choice is not None and takes.choice.is_dropped:
        return "[dim]dropped[/]"
    if takes.is_pending:
        deadline = takes.request.due_at if takes.request else None
        until = f" until {deadline:%Y-%m-%d %H:%M} UTC" if deadline else ""
        is_alone = len(takes.takes) == 1
        return f"[yellow]to be {'approved' if is_alone else 'chosen'}{until}[/]"
    if takes.chosen is None:
        return ""
    return "[green]chosen[/]" if takes.chosen == number else "[dim]not chosen[/]"
