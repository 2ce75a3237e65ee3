"""`plan`: what a run would do and cost; spends nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from prefect_video.cli.options import JsonFlag, RefreshFlag, SessionOptions
from prefect_video.cli.output import DONE, OVER_BUDGET, display_path, escape, print_json, stdout, table, usd
from prefect_video.cli.sessions import run_async, use_sessions
from prefect_video.ledger import BudgetUsage
from prefect_video.pipeline import Plan, PlannedShot, RouteOption, plan_project
from prefect_video.project_files import load_project
from prefect_video.session import SessionRef
from prefect_video.shots import Project

_ACTIONS = {
    "generate": "[cyan]generate[/]",
    "cached": "[green]cached[/]",
    "under_way": "[blue]under way[/]",
    "held": "[yellow]held[/]",
    "over_budget": "[red]over budget[/]",
}


def plan(
    project_file: Annotated[Path, Parameter(help="A project in YAML or JSON.")],
    /,
    *,
    session: SessionOptions = SessionOptions(),  # noqa: B008 -- frozen
    refresh: RefreshFlag = False,
    json: JsonFlag = False,
) -> int:
    """Show what would be generated, what is cached, what it costs and how the limits stand. Spends nothing.

    Exit status 3 when it would not fit a budget.

    Try:

        prefect-video plan film.yaml

        prefect-video plan film.yaml --provider sora --store s3://films/ads --json
    """
    project = load_project(project_file)
    worked_out = run_async(_plan(project, session.refs(project), refresh))
    if json:
        print_json(worked_out.public())
    else:
        show_plan(worked_out)
    return DONE if worked_out.fits else OVER_BUDGET


async def _plan(project: Project, refs: Sequence[SessionRef], refresh: bool) -> Plan:
    async with use_sessions(refs) as (session, *others):
        return await plan_project(session, project, others=others, refresh=refresh)


def show_plan(worked_out: Plan) -> None:
    """Prints a plan for people."""
    console = stdout()
    shots = table("shot", "", "length", "size", "cost", "prompt or place", right=("length", "cost"))
    for shot in worked_out.shots:
        shots.add_row(
            escape(shot.id),
            _ACTIONS[shot.action],
            f"{shot.duration} s",
            f"{shot.resolution} {shot.aspect_ratio}",
            usd(shot.estimate_usd),
            escape(_note(shot)),
        )
    console.print(shots)
    for shot in worked_out.shots:
        for hint in shot.hints:
            console.print(f"[dim]hint[/] {escape(shot.id)}: {escape(hint)}", soft_wrap=True)
        for change in shot.changes:
            console.print(f"[dim]adapted[/] {escape(shot.id)}: {escape(change)}", soft_wrap=True)
        for option in shot.options:
            console.print(f"[dim]option[/] {escape(shot.id)}: {escape(_option(option))}", soft_wrap=True)
        for name, refusal in shot.refusals.items():
            console.print(f"[dim]no option[/] {escape(shot.id)}: {escape(f'{name}: {refusal}')}", soft_wrap=True)
    for standing in worked_out.limits:
        console.print(f"[dim]limit[/] {escape(_standing(standing))}", soft_wrap=True)
    new = sum(shot.action == "generate" for shot in worked_out.shots)
    console.print(
        f"\n[bold]{escape(worked_out.project)}[/] at {escape(worked_out.provider)}: {new} of {len(worked_out.shots)} to"
        f" generate, [bold]{usd(worked_out.cost_usd)}[/] expected. Nothing was sent.",
        soft_wrap=True,
    )
    if worked_out.refusal:
        console.print(f"[red]over budget:[/] {escape(worked_out.refusal)}", soft_wrap=True)


def _option(option: RouteOption) -> str:
    adapted = f" ({'; '.join(option.changes)})" if option.changes else ""
    return f"{option.provider}: {usd(option.estimate_usd)}, about {option.seconds:.0f} s{adapted}"


def _note(shot: PlannedShot) -> str:
    text = shot.reason or (display_path(shot.uri) if shot.uri else shot.prompt)
    if shot.job_id and shot.options:
        text = f"{shot.provider}: {text}"
    text = " ".join(text.split())
    return text if len(text) <= 90 else f"{text[:87]}…"


def _standing(standing: BudgetUsage) -> str:
    parts = []
    if (limit := standing.budget.limit_usd) is not None:
        parts.append(f"{usd(standing.spent_usd)} spent and {usd(standing.reserved_usd)} reserved of {usd(limit)}")
    if (videos := standing.budget.limit_videos) is not None:
        parts.append(f"{standing.videos} of {videos} videos")
    return f"{standing.name}: {', '.join(parts)}"
