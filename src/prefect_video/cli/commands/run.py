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

from prefect_video.cli.options import JsonFlag, QuietFlag, RebuyMissingFlag, RefreshFlag, SessionOptions, WaitFlag
from prefect_video.cli.output import (
    INTERRUPTED,
    TERMINATED,
    Interrupted,
    interrupted_text,
    one_line,
    print_json,
    print_status,
    report_object,
    status_of,
)
from prefect_video.cli.prefect_startup import PrefectUnavailable, ensure_api
from prefect_video.cli.progress import ProgressTable, showing
from prefect_video.cli.report_view import show_report, status_of_report
from prefect_video.cli.sessions import use_sessions
from prefect_video.errors import InvalidInput, ProjectFailed, VideoError
from prefect_video.ledger import command_line
from prefect_video.pipeline import Plan, ProjectReport, plan_project, run_project
from prefect_video.project_files import InvalidProject, describe_errors, load_project
from prefect_video.session import DEFAULT_PROJECT, SessionRef
from prefect_video.shots import Project, slug


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of a run, and of its report.

    Attributes:
        session: With what.
        refresh: Buy again what is stored.
        rebuy_missing: Take the store as it stands, whatever is missing there.
        json: One JSON object instead of text.
        quiet: No progress.
        wait: Wait for the videos; otherwise leave when all are at the provider.
        flow_for_cached: Let Prefect know of a run that finds everything stored.
    """

    session: SessionOptions
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
    session: SessionOptions = SessionOptions(),  # noqa: B008 -- frozen
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
    wanted = RunOptions(
        session=session, refresh=refresh, rebuy_missing=rebuy_missing, json=json, quiet=quiet, wait=wait
    )
    return run_and_report(lambda: load_project(project_file), wanted, source=project_file)


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
    session: SessionOptions = SessionOptions(),  # noqa: B008 -- frozen
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
    return run_and_report(
        lambda: _checked({"project": project, "shots": [asked]}),
        RunOptions(session=session, refresh=refresh, rebuy_missing=rebuy_missing, json=json, quiet=quiet),
    )


def run_and_report(read: Callable[[], Project], wanted: RunOptions, *, source: Path | None = None) -> int:
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
        report = run_shot(project, wanted)
    except (VideoError, PrefectUnavailable) as error:
        if isinstance(error, InvalidProject):
            name = error.project
        text = _with_file_name(error, source, wanted)
        if wanted.json:
            print_json(report_object(name, text))
        print_status(text, error=True)
        return status_of(error)
    except KeyboardInterrupt as end:
        text = interrupted_text(wanted.session.command_ledger)
        if wanted.json:
            print_json(report_object(name, text))
        print_status(f"\n{text}")
        return end.status if isinstance(end, Interrupted) else INTERRUPTED
    if wanted.json:
        print_json(report.public())
    show_report(report, ledger=wanted.session.command_ledger, to_stderr=wanted.json, quiet=wanted.quiet)
    return status_of_report(report)


def run_shot(project: Project, wanted: RunOptions) -> ProjectReport:
    """Checks everything that can be checked for free, then runs the flow.

    Raises:
        VideoError: There is no report; nothing was sent.
        PrefectUnavailable: Prefect's API does not answer; nothing was sent.
        Interrupted: Somebody asked for the end; what was submitted goes on.
    """
    refs = wanted.session.refs(project)
    if wanted.session.provider is None and project.provider is None and not wanted.quiet:
        print_status(_default_choice(refs[0]))
    plan = asyncio.run(_prepare(project, refs, wanted))
    plan.raise_if_over_budget()
    if not wanted.flow_for_cached and all(shot.action == "cached" for shot in plan.shots):
        return asyncio.run(_find(project, refs))
    ensure_api()
    with contextlib.redirect_stdout(sys.stderr), showing(ProgressTable.for_project(plan), quiet=wanted.quiet):
        return _run_to_its_end(project, wanted)


async def _prepare(project: Project, refs: Sequence[SessionRef], wanted: RunOptions) -> Plan:
    async with use_sessions(refs) as (session, *others):
        plan = await plan_project(
            session, project, others=others, refresh=wanted.refresh, rebuy_missing=wanted.rebuy_missing
        )
        await session.ledger.check()
        await session.store.check()
    return plan


async def _find(project: Project, refs: Sequence[SessionRef]) -> ProjectReport:
    async with use_sessions(refs) as (session, *others):
        return await run_project(session, project, others=others)


def _run_to_its_end(project: Project, wanted: RunOptions) -> ProjectReport:
    from prefect.exceptions import TerminationSignal

    try:
        return asyncio.run(_run_flow(project, wanted))
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted(INTERRUPTED) from None
    except TerminationSignal:
        raise Interrupted(TERMINATED) from None


async def _run_flow(project: Project, wanted: RunOptions) -> ProjectReport:
    from prefect_video.flows import generate_project
    from prefect_video.flows.artifacts import API_TROUBLE
    from prefect_video.flows.project import keeping_outcome

    ref = wanted.session.refs(project)[0]
    named = wanted.session.provider or project.provider
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
            report: ProjectReport = error.report
            return report
        except API_TROUBLE as error:
            trouble = one_line(error)
            if outcome.report is None:
                fetch = command_line("collect", "--wait", ledger=wanted.session.command_ledger)
                raise PrefectUnavailable(
                    f"Prefect's API failed during the run ({trouble}). What was submitted goes on and is kept: run the"
                    f" same command again, or fetch it with: {fetch}"
                ) from error
            print_status(f"Prefect's API was not told of the run's end ({trouble}); its shots ended as reported here.")
            return outcome.report


def _with_file_name(error: Exception, source: Path | None, wanted: RunOptions) -> str:
    """An error with the file that it is about, where it names only what is in the file."""
    if source is None or not isinstance(error, InvalidInput):
        return str(error)
    in_file = ("shot ", "shots ") if wanted.session.provider else ("shot ", "shots ", "provider: ")
    return "\n".join(f"{source}: {line}" if line.startswith(in_file) else line for line in str(error).splitlines())


def _default_choice(ref: SessionRef) -> str:
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
        raise InvalidInput("\n".join(describe_errors(error, data))) from error
