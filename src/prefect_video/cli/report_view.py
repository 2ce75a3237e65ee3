"""A run's report for people: a table, each shot without a video with its reason, and an exit status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prefect_video.cli.output import DONE, FAILED, OVER_BUDGET, display_path, escape, print_status, stdout, table, usd
from prefect_video.ledger import command_line
from prefect_video.pipeline import FilmReport, ProjectReport, ShotStatus

_WITHOUT_VIDEO: Final[Mapping[ShotStatus, str]] = {
    "failed": "[red]failed[/]",
    "cancelled": "[yellow]cancelled[/]",
    "held": "[yellow]held[/]",
    "over_budget": "[red]over budget[/]",
    "skipped": "[yellow]skipped[/]",
    "in_flight": "[blue]in flight[/]",
    "waiting": "[blue]waiting[/]",
    "dropped": "[dim]dropped[/]",
}

TABLE_LIMIT: Final = 60
"""Shots in the final table; of a larger project only those without a video."""


def status_of_report(report: ProjectReport) -> int:
    """Return the exit status of a run that has a report."""
    if any(shot.status == "over_budget" for shot in report.shots):
        return OVER_BUDGET
    return FAILED if report.has_failed else DONE


def show_report(
    report: ProjectReport, *, ledger: str | None = None, to_stderr: bool = False, quiet: bool = False
) -> None:
    """Print a run's outcome for people: a table, and each failed shot with its reason.

    Args:
        report: The outcome.
        ledger: The `--ledger` that commands about this run need; None for none.
        to_stderr: Print nothing on stdout.
        quiet: Print failures only.
    """
    if not quiet and not to_stderr:
        _show_table(report)
    for shot in report.shots:
        if shot.degraded:
            print_status(f"{shot.id}: differs from the request: {shot.degraded}")
        if shot.repair:
            print_status(f"{shot.id}: {shot.repair}")
        if shot.choice == "pending" or shot.status == "waiting":
            print_status(f"{shot.id}: {'stored' if shot.choice else 'waiting'}: {shot.error}")
        if shot.quality and shot.quality.findings:
            print_status(f"{shot.id}: quality: {shot.quality.summary}")
    for failed in report.failures:
        print_status(f"{failed.id}: {failed.status.replace('_', ' ')}: {failed.error}")
    if report.film is not None and report.film.error and (report.film.status == "failed" or not quiet):
        print_status(report.film.summary())
    if not quiet:
        _show_totals(report, ledger, to_stderr)


def _show_table(report: ProjectReport) -> None:
    shown = report.shots if len(report.shots) <= TABLE_LIMIT else report.failures
    grid = table("shot", "", "length", "paid", "video", right=("length", "paid"))
    for shot in shown:
        state = "[green]cached[/]" if shot.cached else "[green]stored[/]"
        grid.add_row(
            escape(shot.id),
            state if shot.status == "stored" else _WITHOUT_VIDEO[shot.status],
            f"{shot.asset.duration_seconds:.1f} s" if shot.asset else "",
            usd(shot.cost_usd),
            escape(display_path(shot.uri)) if shot.uri else "",
        )
    if shown:
        stdout().print(grid)
    if report.film is not None:
        show_film(report.film)


def show_film(film: FilmReport) -> None:
    """Print where a film and its previews are; nothing where there is none."""
    if film.uri is None:
        return
    parts = [f"[green]film[/] {film.seconds:.1f} s  {escape(display_path(film.uri))}"]
    if film.sheet_uri and film.preview_uri:
        shown = ", ".join(escape(display_path(uri)) for uri in (film.sheet_uri, film.preview_uri))
        parts.append(f"[dim]previews[/] {shown}")
    stdout().print("\n".join(parts), soft_wrap=True)


def _show_totals(report: ProjectReport, ledger: str | None, to_stderr: bool) -> None:
    stored = sum(shot.status == "stored" for shot in report.shots)
    in_flight = sum(shot.status == "in_flight" for shot in report.shots)
    cached = sum(shot.cached for shot in report.shots)
    text = (
        f"{report.project}: {stored} of {len(report.shots)} stored ({cached} cached),"
        f" {report.describe_paid()}, {report.seconds:.1f} s"
    )
    if waiting := sum(shot.status == "waiting" for shot in report.shots):
        text += f"; {waiting} waiting"
    if in_flight:
        fetch = command_line("collect", "--wait", ledger=ledger)
        text += f"; {in_flight} in flight, fetch them with: {fetch}"
    if report.page_uri:
        text += f"\npage: {display_path(report.page_uri)}"
    if to_stderr:
        print_status(text)
    else:
        stdout().print(text, markup=False, soft_wrap=True)
