"""`run` and `shot`: the real flows, from the command line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from pydantic import ValidationError

from prefect_video.cli.options import JsonFlag, QuietFlag, RebuyMissingFlag, RefreshFlag, StudioOptions, WaitFlag
from prefect_video.cli.output import (
    INTERRUPTED,
    TERMINATED,
    Interrupted,
    interrupted_text,
    one_line,
    print_json,
    report_object,
    say,
    status_of,
)
from prefect_video.cli.prefect_startup import PrefectUnavailable, connect
from prefect_video.cli.progress import Board, showing
from prefect_video.cli.report_view import show_report, status_of_report
from prefect_video.cli.sessions import open_studios
from prefect_video.errors import InvalidInput, ProjectFailed, VideoError
from prefect_video.ledger import command_line
from prefect_video.pipeline.plan import Plan, plan_project
from prefect_video.pipeline.project_run import run_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.project_files import InvalidProject, describe, load_project
from prefect_video.session.refs import DEFAULT_PROJECT, StudioRef
from prefect_video.shots import Project, slug


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The options of a run, and of its report.

    Attributes:
        studio: With what.
        refresh: Buy again what is stored.
        rebuy_missing: Take the store as it stands, whatever is missing there.
        json: One JSON object instead of text.
        quiet: No progress.
        wait: Wait for the videos; otherwise leave when all are at the provider.
        flow_for_cached: Let Prefect know of a run that finds everything stored.
    """

    studio: StudioOptions
    refresh: bool = False
    rebuy_missing: bool = False
    json: bool = False
    quiet: bool = False
    wait: bool = True
    flow_for_cached: bool = True


def run(
    project_file: Annotated[Path, Parameter(help="A project in YAML or JSON; see `prefect-video schema`.")],
    /,
    *,
    studio: StudioOptions = StudioOptions(),  # noqa: B008 -- frozen
    refresh: RefreshFlag = False,
    rebuy_missing: RebuyMissingFlag = False,
    wait: WaitFlag = True,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Make every shot of a project that is not stored yet; run again after a crash, it never pays twice.

    Exit status: 0 all stored, 1 some shot failed, 2 bad input, 3 over budget, 130 or 143 interrupted.

    Try:

        prefect-video run film.yaml

        prefect-video run film.yaml --provider sora --store s3://films/ads --json
    """
    wanted = Wanted(studio=studio, refresh=refresh, rebuy_missing=rebuy_missing, json=json, quiet=quiet, wait=wait)
    return make(lambda: load_project(project_file), wanted, source=project_file)


def shot(
    prompt: Annotated[str, Parameter(help="What is to be seen.")],
    /,
    *,
    id: Annotated[str | None, Parameter(help="The shot's name. Default: the prompt's first words.")] = None,
    project: Annotated[str, Parameter(help="The folder in the store and the name in the books.")] = DEFAULT_PROJECT,
    model: Annotated[str | None, Parameter(help="The provider's name of the model. Default: sora-2.")] = None,
    duration: Annotated[str | None, Parameter(help="Whole seconds, 1 to 20. Default: 10.")] = None,
    aspect_ratio: Annotated[str | None, Parameter(help="`16:9`, `9:16` or `1:1`. Default: 16:9.")] = None,
    resolution: Annotated[str | None, Parameter(help="`480p`, `720p` or `1080p`. Default: 1080p.")] = None,
    studio: StudioOptions = StudioOptions(),  # noqa: B008 -- frozen
    refresh: RefreshFlag = False,
    rebuy_missing: RebuyMissingFlag = False,
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
        Wanted(studio=studio, refresh=refresh, rebuy_missing=rebuy_missing, json=json, quiet=quiet),
    )


def make(read: Callable[[], Project], wanted: Wanted, *, source: Path | None = None) -> int:
    """Reads a project, makes it, tells of it; returns the exit status.

    Args:
        read: Gives the project.
        wanted: How it is to be made.
        source: The file that it is from, to be named with what is wrong in it.
    """
    name: str | None = None
    try:
        project = read()
        name = project.name
        report = produce(project, wanted)
    except (VideoError, PrefectUnavailable) as error:
        if isinstance(error, InvalidProject):
            name = error.project
        text = _placed(error, source, wanted)
        if wanted.json:
            print_json(report_object(name, text))
        say(text, error=True)
        return status_of(error)
    except KeyboardInterrupt as end:
        text = interrupted_text(wanted.studio.command_ledger)
        if wanted.json:
            print_json(report_object(name, text))
        say(f"\n{text}")
        return end.status if isinstance(end, Interrupted) else INTERRUPTED
    if wanted.json:
        print_json(report.public())
    show_report(report, ledger=wanted.studio.command_ledger, to_stderr=wanted.json, quiet=wanted.quiet)
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
    plan = asyncio.run(_prepare(project, refs, wanted))
    plan.demand_fit()
    if not wanted.flow_for_cached and all(shot.action == "cached" for shot in plan.shots):
        return asyncio.run(_find(project, refs))
    connect()
    with contextlib.redirect_stdout(sys.stderr), showing(Board.of(plan), quiet=wanted.quiet):
        return _run_to_its_end(project, wanted)


async def _prepare(project: Project, refs: Sequence[StudioRef], wanted: Wanted) -> Plan:
    async with open_studios(refs) as (studio, *others):
        plan = await plan_project(
            studio, project, others=others, refresh=wanted.refresh, rebuy_missing=wanted.rebuy_missing
        )
        await studio.ledger.check()
        await studio.store.check()
    return plan


async def _find(project: Project, refs: Sequence[StudioRef]) -> ProjectReport:
    async with open_studios(refs) as (studio, *others):
        return await run_project(studio, project, others=others)


def _run_to_its_end(project: Project, wanted: Wanted) -> ProjectReport:
    from prefect.exceptions import TerminationSignal

    try:
        return asyncio.run(_run_flow(project, wanted))
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted(INTERRUPTED) from None
    except TerminationSignal:
        raise Interrupted(TERMINATED) from None


async def _run_flow(project: Project, wanted: Wanted) -> ProjectReport:
    from prefect_video.flows import generate_project
    from prefect_video.flows.artifacts import API_TROUBLE
    from prefect_video.flows.project import keeping_outcome

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
                rebuy_missing=wanted.rebuy_missing,
                wait=wanted.wait,
            )
        except ProjectFailed as error:
            return error.report
        except API_TROUBLE as error:
            trouble = one_line(error)
            if outcome.report is None:
                fetch = command_line("collect", "--wait", ledger=wanted.studio.command_ledger)
                raise PrefectUnavailable(
                    f"Prefect's API failed during the run ({trouble}). What was submitted goes on and is kept: run the"
                    f" same command again, or fetch it with: {fetch}"
                ) from error
            say(f"Prefect's API was not told of the run's end ({trouble}); its shots ended as reported here.")
            return outcome.report


def _placed(error: Exception, source: Path | None, wanted: Wanted) -> str:
    """An error with the file that it is about, where it names only what is in the file."""
    if source is None or not isinstance(error, InvalidInput):
        return str(error)
    in_file = ("shot ", "shots ") if wanted.studio.provider else ("shot ", "shots ", "provider: ")
    return "\n".join(f"{source}: {line}" if line.startswith(in_file) else line for line in str(error).splitlines())


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
