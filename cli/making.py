"""`run` and `shot`: the real flows, from the command line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from pydantic import ValidationError

from prefect_video.cli.answers import (
    DONE,
    FAILED,
    INTERRUPTED,
    INTERRUPTED_TEXT,
    OVER_BUDGET,
    TERMINATED,
    Interrupted,
    one_line,
    out,
    place,
    print_json,
    report_object,
    safe,
    say,
    status_of,
    table,
    usd,
)
from prefect_video.cli.first_minute import PrefectUnavailable, connect
from prefect_video.cli.options import JsonFlag, QuietFlag, RefreshFlag, StudioOptions, WaitFlag
from prefect_video.cli.progress import Board, showing
from prefect_video.cli.studios import open_studios
from prefect_video.errors import InvalidInput, VideoError
from prefect_video.opening import DEFAULT_PROJECT, StudioRef
from prefect_video.planning import Plan, plan_project
from prefect_video.project_files import describe, load_project
from prefect_video.reports import ProjectFailed, ProjectReport, ShotStatus
from prefect_video.shots import Project, slug

_WITHOUT_VIDEO: Final[Mapping[ShotStatus, str]] = {
    "failed": "[red]failed[/]",
    "cancelled": "[yellow]cancelled[/]",
    "held": "[yellow]held[/]",
    "over_budget": "[red]over budget[/]",
    "skipped": "[yellow]skipped[/]",
    "in_flight": "[blue]in flight[/]",
}

TABLE_LIMIT: Final = 60
"""Shots in the final table; of a larger project only those without a video."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How a project is to be made, and how it is told.

    Attributes:
        studio: With what.
        refresh: Buy again what is stored.
        json: One JSON object instead of text.
        quiet: No progress.
        wait: Wait for the videos; otherwise leave when all are at the provider.
    """

    studio: StudioOptions
    refresh: bool = False
    json: bool = False
    quiet: bool = False
    wait: bool = True


def run(
    project_file: Annotated[Path, Parameter(help="A project in YAML or JSON; see `prefect-video schema`.")],
    /,
    *,
    studio: StudioOptions = StudioOptions(),  # noqa: B008 -- frozen
    refresh: RefreshFlag = False,
    wait: WaitFlag = True,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Make every shot of a project that is not stored yet; run again after a crash, it never pays twice.

    Exit status: 0 all stored, 1 some shot failed, 2 bad input, 3 over budget.

    Try:

        prefect-video run film.yaml

        prefect-video run film.yaml --provider sora --store s3://films/ads --json
    """
    wanted = Wanted(studio=studio, refresh=refresh, json=json, quiet=quiet, wait=wait)
    return make(lambda: load_project(project_file), wanted)


def shot(
    prompt: Annotated[str, Parameter(help="What is to be seen.")],
    /,
    *,
    id: Annotated[str | None, Parameter(help="The shot's name. Default: the prompt's first words.")] = None,
    project: Annotated[str, Parameter(help="The folder in the store and the name in the books.")] = DEFAULT_PROJECT,
    model: Annotated[str | None, Parameter(help="The provider's name of the model.")] = None,
    duration: Annotated[str | None, Parameter(help="Whole seconds, 1 to 20. Default: 10.")] = None,
    aspect_ratio: Annotated[str | None, Parameter(help="`16:9`, `9:16` or `1:1`.")] = None,
    resolution: Annotated[str | None, Parameter(help="`480p`, `720p` or `1080p`.")] = None,
    studio: StudioOptions = StudioOptions(),  # noqa: B008 -- frozen
    refresh: RefreshFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Make one video from a prompt; the same prompt again is found, not paid for.

    Try:

        prefect-video shot "A lighthouse in fog, slow push-in" --duration 5 --resolution 720p
    """
    given = {
        "model": model,
        "duration": _number(duration),
        "aspect_ratio": aspect_ratio,
        "resolution": resolution,
    }
    asked = {"id": id or slug(prompt), "prompt": prompt, **{k: v for k, v in given.items() if v is not None}}
    return make(
        lambda: _checked({"project": project, "shots": [asked]}),
        Wanted(studio=studio, refresh=refresh, json=json, quiet=quiet),
    )


def make(read: Callable[[], Project], wanted: Wanted) -> int:
    """Reads a project, makes it, tells of it; returns the exit status."""
    name: str | None = None
    try:
        project = read()
        name = project.name
        report = produce(project, wanted)
    except (VideoError, PrefectUnavailable) as error:
        if wanted.json:
            print_json(report_object(name, str(error)))
        say(str(error), error=True)
        return status_of(error)
    except (KeyboardInterrupt, Interrupted) as end:
        if wanted.json:
            print_json(report_object(name, INTERRUPTED_TEXT))
        say(f"\n{INTERRUPTED_TEXT}")
        return end.status if isinstance(end, Interrupted) else INTERRUPTED
    if wanted.json:
        print_json(report.public())
    show_report(report, to_stderr=wanted.json, quiet=wanted.quiet)
    return status_of_report(report)


def produce(project: Project, wanted: Wanted) -> ProjectReport:
    """Checks everything that can be checked for free, then runs the flow.

    Raises:
        VideoError: There is no report; nothing was sent.
        PrefectUnavailable: Prefect's API does not answer; nothing was sent.
        Interrupted: Somebody asked for the end; what was submitted goes on.
    """
    refs = wanted.studio.refs(project)
    if wanted.studio.provider is None and project.provider is None and not wanted.quiet:
        say(_default_choice(refs[0]))
    plan = asyncio.run(_prepare(project, refs, wanted.refresh))
    plan.demand_fit()
    connect()
    with contextlib.redirect_stdout(sys.stderr), showing(Board.of(plan), quiet=wanted.quiet):
        return _run_to_its_end(project, wanted)


def status_of_report(report: ProjectReport) -> int:
    """The exit status of a run that has a report."""
    if any(shot.status == "over_budget" for shot in report.shots):
        return OVER_BUDGET
    return FAILED if report.failures else DONE


def show_report(report: ProjectReport, *, to_stderr: bool = False, quiet: bool = False) -> None:
    """Prints a run's outcome for people: a table, and each failed shot with its reason."""
    if not quiet and not to_stderr:
        _show_table(report)
    for shot in report.shots:
        if shot.degraded:
            say(f"{shot.id}: made otherwise than wanted: {shot.degraded}")
    for failed in report.failures:
        say(f"{failed.id}: {failed.status.replace('_', ' ')}: {failed.error}")
    if not quiet:
        _show_totals(report, to_stderr)


async def _prepare(project: Project, refs: Sequence[StudioRef], refresh: bool) -> Plan:
    async with open_studios(refs) as (studio, *others):
        plan = await plan_project(studio, project, others=others, refresh=refresh)
        await studio.ledger.check()
        await studio.store.check()
    return plan


def _run_to_its_end(project: Project, wanted: Wanted) -> ProjectReport:
    from prefect.exceptions import TerminationSignal

    try:
        return asyncio.run(_run_flow(project, wanted))
    except KeyboardInterrupt:
        raise Interrupted(INTERRUPTED) from None
    except TerminationSignal:
        raise Interrupted(TERMINATED) from None


async def _run_flow(project: Project, wanted: Wanted) -> ProjectReport:
    from prefect_video.flows import generate_project
    from prefect_video.flows.artifacts import API_TROUBLE
    from prefect_video.flows.outcomes import keeping_outcome

    ref = wanted.studio.refs(project)[0]
    named = wanted.studio.provider or project.provider
    with keeping_outcome() as outcome:
        try:
            return await generate_project(
                project,
                provider=named or ref.provider,
                store=ref.store,
                ledger=ref.ledger,
                max_in_flight=ref.max_in_flight,
                refresh=wanted.refresh,
                wait=wanted.wait,
            )
        except ProjectFailed as error:
            return error.report
        except API_TROUBLE as error:
            trouble = one_line(error)
            if outcome.report is None:
                raise PrefectUnavailable(
                    f"Prefect's API failed during the run ({trouble}). What was submitted goes on and is kept: run the"
                    " same command again, or fetch it with: prefect-video collect --wait"
                ) from error
            say(f"Prefect's API was not told of the run's end ({trouble}); its shots ended as reported here.")
            return outcome.report


def _default_choice(ref: StudioRef) -> str:
    if ref.provider == "sora":
        return "provider: sora, as SORA_API_KEY is set"
    where = os.environ.get("PREFECT_VIDEO_EMULATOR_ENDPOINT")
    return (
        f"provider: the emulator at {where}; nothing is really charged"
        if where
        else "provider: the embedded emulator, as SORA_API_KEY is not set: real files, test pictures, no real charge"
    )


def _number(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.strip().lstrip("-").isdecimal() else text


def _checked(data: dict[str, object]) -> Project:
    try:
        return Project.model_validate(data)
    except ValidationError as error:
        raise InvalidInput("\n".join(describe(error, data))) from error


def _show_table(report: ProjectReport) -> None:
    shown = report.shots if len(report.shots) <= TABLE_LIMIT else report.failures
    made = table("shot", "", "length", "paid", "video", right=("length", "paid"))
    for one in shown:
        state = "[green]cached[/]" if one.cached else "[green]stored[/]"
        made.add_row(
            safe(one.id),
            state if one.status == "stored" else _WITHOUT_VIDEO[one.status],
            f"{one.asset.duration_seconds:.1f} s" if one.asset else "",
            usd(one.cost_usd),
            safe(place(one.uri)) if one.uri else "",
        )
    if shown:
        out().print(made)


def _show_totals(report: ProjectReport, to_stderr: bool) -> None:
    stored = sum(shot.status == "stored" for shot in report.shots)
    in_flight = sum(shot.status == "in_flight" for shot in report.shots)
    cached = sum(shot.cached for shot in report.shots)
    text = (
        f"{report.project}: {stored} of {len(report.shots)} stored ({cached} cached),"
        f" {usd(report.cost_usd)} paid, {report.seconds:.1f} s"
    )
    if in_flight:
        text += f"; {in_flight} in flight: prefect-video collect --wait fetches them"
    if to_stderr:
        say(text)
    else:
        out().print(text, markup=False, soft_wrap=True)
