"""`run`: the project flow, from the command line; `shot` and `demo` use the same steps."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from prefect_video.cli.options import (
    JsonFlag,
    QuietFlag,
    RebuyMissingFlag,
    RefreshFlag,
    SessionOptions,
    TemplateOption,
    WaitFlag,
    read_project,
)
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
from prefect_video.cli.progress import FilmLines, ProgressTable, show_progress
from prefect_video.cli.report_view import show_report, status_of_report
from prefect_video.cli.sessions import run_async, use_sessions
from prefect_video.errors import InvalidInput, ProjectFailed, VideoError
from prefect_video.ledger import command_line
from prefect_video.pipeline import Plan, ProjectReport, observe_films, plan_project, publish_run, run_project
from prefect_video.project_files import InvalidProject
from prefect_video.projects import Project
from prefect_video.session import SessionRef


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of a run, and of its report.

    Attributes:
        session: Provider, store, ledger and concurrency.
        refresh: Buy again what is stored.
        rebuy_missing: Accept the store as it is, although videos are missing there.
        json: Print one JSON object instead of text.
        quiet: Show no progress.
        wait: Wait for the videos; otherwise end when all shots are submitted.
    """

    session: SessionOptions
    refresh: bool = False
    rebuy_missing: bool = False
    json: bool = False
    quiet: bool = False
    wait: bool = True


def run(
    project_file: Annotated[Path, Parameter(help="A project in YAML or JSON (see `prefect-video schema`), or rows.")],
    /,
    *,
    template: TemplateOption = None,
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

        prefect-video run shots.csv --template film.yaml
    """
    options = RunOptions(
        session=session, refresh=refresh, rebuy_missing=rebuy_missing, json=json, quiet=quiet, wait=wait
    )
    return run_and_report(lambda: read_project(project_file, template), options, source=project_file)


def run_and_report(read: Callable[[], Project], options: RunOptions, *, source: Path | None = None) -> int:
    """Read a project, execute it and print its report; return the exit status.

    Args:
        read: Returns the project, or raises `InvalidInput`.
        options: The options of the run.
        source: The file of the project, to be named in errors about its content.
    """
    name: str | None = None
    try:
        project = read()
        name = project.name
        report = execute(project, options)
    except (VideoError, PrefectUnavailable) as error:
        if isinstance(error, InvalidProject):
            name = error.project
        text = _with_file_name(error, source, options)
        if options.json:
            print_json(report_object(name, text))
        print_status(text, error=True)
        return status_of(error)
    except KeyboardInterrupt as interruption:
        text = interrupted_text(options.session.command_ledger)
        if options.json:
            print_json(report_object(name, text))
        print_status(f"\n{text}")
        return interruption.status if isinstance(interruption, Interrupted) else INTERRUPTED
    if options.json:
        print_json(report.public())
    show_report(report, ledger=options.session.command_ledger, to_stderr=options.json, quiet=options.quiet)
    return status_of_report(report)


def execute(project: Project, options: RunOptions) -> ProjectReport:
    """Check everything that can be checked for free, then run the flow; what is stored whole needs none.

    Raises:
        VideoError: There is no report; nothing was sent.
        PrefectUnavailable: Prefect's API does not answer; nothing was sent.
        Interrupted: Ctrl-C or SIGTERM; what was submitted goes on at the provider.
    """
    refs = options.session.refs(project)
    if options.session.provider is None and project.provider is None and not options.quiet:
        print_status(_describe_default(refs[0]))
    with contextlib.nullcontext() if options.quiet else observe_films(FilmLines()):
        prepared = run_async(_prepare(project, refs, options))
    if isinstance(prepared, ProjectReport):
        return prepared
    ensure_api()
    # Stdout belongs to the answer alone; Prefect and its libraries print there too.
    with (
        contextlib.redirect_stdout(sys.stderr),
        show_progress(ProgressTable.for_project(prepared), quiet=options.quiet),
    ):
        return _run_until_end(project, options)


async def _prepare(project: Project, refs: Sequence[SessionRef], options: RunOptions) -> Plan | ProjectReport:
    """Return the report of a project that is stored whole, else the plan of its flow.

    Raises:
        VideoError: The run would be refused; nothing was sent.
    """
    async with use_sessions(refs) as (session, *others):
        plan = await plan_project(
            session, project, others=others, refresh=options.refresh, rebuy_missing=options.rebuy_missing
        )
        plan.raise_if_over_budget()
        if all(shot.action == "cached" for shot in plan.shots):
            report = await run_project(session, project, others=others, rebuy_missing=options.rebuy_missing)
            return await publish_run(session, project, report)
        await session.ledger.check()
        await session.store.check()
    return plan


def _run_until_end(project: Project, options: RunOptions) -> ProjectReport:
    """Run the flow; raise `Interrupted` for each of the ways in which a signal arrives."""
    from prefect.exceptions import TerminationSignal

    try:
        return run_async(_run_flow(project, options))
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted(INTERRUPTED) from None
    except TerminationSignal:
        raise Interrupted(TERMINATED) from None


async def _run_flow(project: Project, options: RunOptions) -> ProjectReport:
    from prefect_video.flows import generate_project
    from prefect_video.flows.artifacts import API_ERRORS
    from prefect_video.flows.project import keeping_outcome

    ref = options.session.refs(project)[0]
    provider = options.session.provider or project.provider or ref.provider
    with keeping_outcome() as outcome:
        try:
            return await generate_project(
                project,
                provider=provider,
                store=ref.store,
                ledger=ref.ledger,
                max_in_flight=ref.max_in_flight,
                refresh=options.refresh,
                rebuy_missing=options.rebuy_missing,
                wait=options.wait,
            )
        except ProjectFailed as error:
            report: ProjectReport = error.report
            return report
        except API_ERRORS as error:
            cause = one_line(error)
            if outcome.report is None:
                fetch = command_line("collect", "--wait", ledger=options.session.command_ledger)
                raise PrefectUnavailable(
                    f"Prefect's API failed during the run ({cause}). What was submitted goes on and is kept: run the"
                    f" same command again, or fetch it with: {fetch}"
                ) from error
            print_status(f"Prefect's API did not receive the run's end ({cause}); its shots ended as reported here.")
            return outcome.report


def _with_file_name(error: Exception, source: Path | None, options: RunOptions) -> str:
    """Put the file's name before each line of an error that is about the file's content."""
    if source is None or not isinstance(error, InvalidInput):
        return str(error)
    # A provider that the command line names is not the file's mistake.
    in_file = ("shot ", "shots ") if options.session.provider else ("shot ", "shots ", "provider: ")
    return "\n".join(f"{source}: {line}" if line.startswith(in_file) else line for line in str(error).splitlines())


def _describe_default(ref: SessionRef) -> str:
    """Say which provider was chosen because none was named, and whether it charges."""
    if ref.provider == "sora":
        return "provider: sora, as SORA_API_KEY is set"
    endpoint = os.environ.get("PREFECT_VIDEO_EMULATOR_ENDPOINT")
    return (
        f"provider: the emulator at {endpoint}; nothing is charged"
        if endpoint
        else "provider: the embedded emulator, as SORA_API_KEY is not set: real files, test pictures, no charge"
    )
