"""`demo`: a three-shot project through the real flow and a real HTTP provider, and the page that shows it."""

from __future__ import annotations

import os
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from prefect_video._counted import counted
from prefect_video.cli.commands.run import RunOptions, execute
from prefect_video.cli.options import JsonFlag, QuietFlag, SessionOptions
from prefect_video.cli.output import (
    display_path,
    escape,
    print_json,
    print_status,
    report_object,
    status_of,
    stdout,
    usd,
)
from prefect_video.cli.prefect_startup import PrefectUnavailable
from prefect_video.cli.report_view import show_report, status_of_report
from prefect_video.errors import StoreError, VideoError
from prefect_video.pipeline import ProjectReport
from prefect_video.project_files import load_project


def demo(
    *,
    into: Annotated[Path, Parameter(help="Folder for project, videos, page and ledger.")] = Path("demo"),
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Make a three-shot project with the embedded emulator, and a page that shows it. Costs nothing.

    Run it again: everything is cached, nothing is billed. Change a prompt in its `film.yaml`: one shot is made.

    Try:

        prefect-video demo

        prefect-video demo --into /tmp/demo
    """
    folder = into.expanduser().resolve()
    # The demo reads the usage of the emulator in this process, so no other one may be configured.
    os.environ.pop("PREFECT_VIDEO_EMULATOR_ENDPOINT", None)
    options = RunOptions(
        session=SessionOptions(provider="emulator", store=str(folder / "videos"), ledger=str(folder / "ledger.db")),
        json=json,
        quiet=quiet,
    )
    try:
        project = load_project(_create_project_file(folder))
        before = _read_billed()
        report = execute(project, options)
        after = _read_billed()
        billed = after[0] - before[0], after[1] - before[1]
    except (VideoError, PrefectUnavailable) as error:
        if json:
            print_json(report_object("demo", str(error)))
        print_status(str(error), error=True)
        return status_of(error)
    if json:
        places = {"page": report.page_uri, "manifest": report.manifest_uri}
        print_json({**report.public(), **places, **_billed_fields(billed)})
    show_report(report, to_stderr=json, quiet=quiet)
    if not json and not quiet:
        _show_end(report, billed, folder / "film.yaml")
    return status_of_report(report)


def _create_project_file(folder: Path) -> Path:
    """Write the demo's project file, unless there is one, which the user may have edited."""
    path = folder / "film.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(
                files("prefect_video.cli.commands").joinpath("demo.yaml").read_text("utf-8"), encoding="utf-8"
            )
    except OSError as error:
        raise StoreError(
            f"the demo cannot write into {folder} ({error.strerror}): give another folder with --into"
        ) from error
    return path


def _read_billed() -> tuple[int, Decimal]:
    """Return the number of generations and the USD that the provider has billed, by its own count."""
    from prefect_video.emulator import start_emulator

    usage = start_emulator(os.environ).usage()
    return usage["billed"], Decimal(usage["billed_usd"])


def _billed_fields(billed: tuple[int, Decimal]) -> dict[str, Any]:
    return {"billed": billed[0], "billed_usd": float(billed[1])}


def _show_end(report: ProjectReport, billed: tuple[int, Decimal], project_file: Path) -> None:
    console = stdout()
    number, amount = billed
    if number:
        console.print(
            f"By the provider's own count: {counted(number, 'generation')} billed, {usd(amount)} (of play money).",
            soft_wrap=True,
        )
    elif not report.failures:
        console.print("Everything was cached: by its own count, the provider billed nothing.", soft_wrap=True)
    if report.page_uri:
        console.print(f"\n[bold]Open the page:[/] {escape(report.page_uri)}", soft_wrap=True)
    console.print(
        f"Next: edit {escape(display_path(project_file.as_uri()))} and run it again,"
        " or make your own project with prefect-video run.",
        soft_wrap=True,
    )
