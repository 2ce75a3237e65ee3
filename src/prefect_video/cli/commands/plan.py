"""`plan`: the outcome and cost of a run that is not started; spends nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from prefect_video._counted import counted
from prefect_video.cli.options import JsonFlag, RefreshFlag, SessionOptions, TemplateOption, read_project
from prefect_video.cli.output import DONE, OVER_BUDGET, display_path, escape, print_json, stdout, table, usd
from prefect_video.cli.sessions import run_async, use_sessions
from prefect_video.fingerprints import canonical_json
from prefect_video.ledger import PRICE_UNKNOWN, BudgetUsage
from prefect_video.pipeline import Plan, PlannedShot, RouteOption, plan_project
from prefect_video.projects import Project
from prefect_video.session import SessionRef

_ACTIONS = {
    "generate": "[cyan]generate[/]",
    "cached": "[green]cached[/]",
    "clip": "[green]clip[/]",
    "in_progress": "[blue]in progress[/]",
    "held": "[yellow]held[/]",
    "over_budget": "[red]over budget[/]",
    "refused": "[red]refused[/]",
}


def plan(
    project_file: Annotated[Path, Parameter(help="A project in YAML or JSON, or rows in CSV, JSONL or Parquet.")],
    /,
    *,
    template: TemplateOption = None,
    session: SessionOptions = SessionOptions(),  # noqa: B008 -- frozen
    refresh: RefreshFlag = False,
    json: JsonFlag = False,
) -> int:
    """Show what would be generated, what is cached, the cost, and the state of the limits. Spends nothing.

    Exit status 3 when it would exceed a budget.

    Try:

        prefect-video plan film.yaml

        prefect-video plan film.yaml --provider sora --store s3://films/ads --json
    """
    project = read_project(project_file, template)
    project_plan = run_async(_plan(project, session.refs(project), refresh))
    if json:
        print_json(project_plan.public())
    else:
        show_plan(project_plan)
    return DONE if project_plan.fits else OVER_BUDGET


async def _plan(project: Project, refs: Sequence[SessionRef], refresh: bool) -> Plan:
    async with use_sessions(refs) as (session, *others):
        return await plan_project(session, project, others=others, refresh=refresh)


def show_plan(project_plan: Plan) -> None:
    """Print a plan for people."""
    console = stdout()
    shots = table("shot", "", "length", "size", "cost", "prompt or file", right=("length", "cost"))
    for shot in project_plan.shots:
        shots.add_row(
            escape(shot.id),
            _ACTIONS[shot.action],
            f"{shot.duration} s",
            f"{shot.resolution} {shot.aspect_ratio}",
            usd(shot.estimate_usd),
            escape(_describe_shot(shot)),
        )
    console.print(shots)
    for shot in project_plan.shots:
        _show_notes(console, shot)
    for usage in project_plan.limits:
        console.print(f"[dim]limit[/] {escape(_describe_usage(usage))}", soft_wrap=True)
    if project_plan.film_seconds is not None:
        console.print(f"[dim]film[/] a final cut of about {project_plan.film_seconds:.1f} s, free")
    new = sum(shot.action == "generate" for shot in project_plan.shots)
    console.print(
        f"\n[bold]{escape(project_plan.project)}[/] at {escape(project_plan.provider)}:"
        f" {new} of {len(project_plan.shots)} to generate,"
        f" [bold]{_describe_cost(project_plan, new)}[/]. Nothing was sent.",
        soft_wrap=True,
    )
    for shot_id, cost in project_plan.later.items():
        console.print(f"  after {escape(shot_id)}: {usd(cost)}", soft_wrap=True)
    if project_plan.refusal:
        console.print(f"[red]over budget:[/] {escape(project_plan.refusal)}", soft_wrap=True)


def _show_notes(console: Console, shot: PlannedShot) -> None:
    """Print what a row of the table has no room for."""
    if shot.action == "refused":
        # The table has room for its beginning only, and the next step is at its end.
        console.print(f"[red]refused[/] {escape(shot.id)}: {escape(shot.reason or '')}", soft_wrap=True)
    for hint in shot.hints:
        console.print(f"[dim]hint[/] {escape(shot.id)}: {escape(hint)}", soft_wrap=True)
    if shot.inputs:
        console.print(f"[dim]with[/] {escape(shot.id)}: {escape(_describe_inputs(shot.inputs))}", soft_wrap=True)
    for change in shot.changes:
        console.print(f"[dim]adapted[/] {escape(shot.id)}: {escape(change)}", soft_wrap=True)
    for option in shot.options:
        console.print(f"[dim]option[/] {escape(shot.id)}: {escape(_describe_option(option))}", soft_wrap=True)
    for name, refusal in shot.refusals.items():
        console.print(f"[dim]no option[/] {escape(shot.id)}: {escape(f'{name}: {refusal}')}", soft_wrap=True)


def _describe_cost(project_plan: Plan, new: int) -> str:
    """Return the expected cost, as far as prices are known: an unknown price is no price of 0."""
    text = project_plan.describe_cost()
    if text == PRICE_UNKNOWN:
        return text
    more = f" (the price of {project_plan.unpriced} of {new} is unknown)" if project_plan.unpriced else ""
    return f"{text} expected{more}"


def _describe_inputs(inputs: Mapping[str, Any]) -> str:
    """Return the frames, references, sound and options of a shot on one line."""
    shown = (
        f"{name} {value}" if isinstance(value, str) else f"{name} {canonical_json(value)}"
        for name, value in inputs.items()
    )
    return ", ".join(shown)


def _describe_option(option: RouteOption) -> str:
    """Return a provider's price and time for a shot, and the changes that it would need."""
    adapted = f" ({'; '.join(option.changes)})" if option.changes else ""
    return f"{option.provider}: {usd(option.estimate_usd)}, about {option.seconds:.0f} s{adapted}"


def _describe_shot(shot: PlannedShot) -> str:
    """Return the reason of a shot's action, the file it is stored in, or its prompt, in one short line."""
    if shot.after:
        return f"after {shot.after}: {' '.join(shot.prompt.split())}"[:90]
    text = shot.reason or (display_path(shot.uri) if shot.uri else shot.prompt)
    if shot.job_id and shot.options:
        text = f"{shot.provider}: {text}"
    text = " ".join(text.split())
    return text if len(text) <= 90 else f"{text[:87]}…"


def _describe_usage(usage: BudgetUsage) -> str:
    """Return how much of a limit is used."""
    parts = []
    if (limit := usage.budget.limit_usd) is not None:
        parts.append(f"{usage.describe_spent()} spent and {usage.describe_reserved()} reserved of {usd(limit)}")
    if (videos := usage.budget.limit_videos) is not None:
        parts.append(f"{usage.videos:,} of {counted(videos, 'video')}")
    return f"{usage.name}: {', '.join(parts)}"
