"""Jobs as commands print them: a table for people, and a JSON object each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from prefect_video.cli.output import escape, print_json, relative_time, stdout, table, usd
from prefect_video.ledger import LEFT_OFTEN, Job, State, as_number

_COLOURS: Final = {
    State.STORED: "green",
    State.FAILED: "red",
    State.LOST: "red",
    State.EXPIRED: "red",
    State.CANCELLED: "yellow",
    State.UNKNOWN: "yellow",
    State.RELEASED: "dim",
}


def public_job(job: Job) -> dict[str, Any]:
    """Build the JSON object of a job."""
    return {
        "id": job.id,
        "project": job.project,
        "shot": job.shot.id,
        "take": job.take,
        "attempt": job.attempt,
        "state": job.state.value,
        "hold_reason": job.hold_reason,
        "left_count": job.left_count,
        "left_reason": job.left_reason,
        "prompt": job.shot.prompt,
        "model": job.shot.model,
        "fingerprint": job.fingerprint,
        "provider": job.provider,
        "account": job.account,
        "generation_id": job.generation_id,
        "reserved_usd": as_number(job.reserved_usd),
        "actual_usd": as_number(job.actual_usd),
        "disputed_usd": as_number(job.disputed_usd),
        "cost_usd": as_number(job.cost_usd),
        "created_at": job.created_at.isoformat(),
        "updated_at": job.updated_at.isoformat(),
        "uri": job.asset.uri if job.asset else None,
        "error": job.error_message,
        "degraded": job.degraded,
        "quality": job.quality.model_dump(mode="json") if job.quality else None,
        "flow_run_id": job.flow_run_id,
    }


def show_jobs(jobs: list[Job]) -> None:
    """Print jobs for people, and below them why each that waits is held or left."""
    console = stdout()
    if not jobs:
        console.print("no jobs")
        return
    grid = table("job", "project", "shot", "state", "provider", "cost", "age", right=("cost", "age"))
    for job in jobs:
        mark = " [yellow]![/]" if _describe_trouble(job) else ""
        grid.add_row(
            job.id[:8],
            escape(job.project),
            escape(job.shot.id if job.take == 1 else f"{job.shot.id}@{job.take}"),
            f"[{_COLOURS.get(job.state, 'blue')}]{job.state.value}[/]{mark}",
            escape(job.provider),
            _format_cost(job),
            relative_time(job.created_at),
        )
    console.print(grid)
    for job in jobs:
        if trouble := _describe_trouble(job):
            console.print(f"[yellow]![/] {job.id[:8]}: {escape(trouble)}", soft_wrap=True)
        elif job.quality and job.quality.findings:
            console.print(f"{job.id[:8]}: quality: {escape(job.quality.summary)}", soft_wrap=True)


def _describe_trouble(job: Job) -> str | None:
    """Return why a job is held, or why collections keep leaving it; None for neither."""
    if job.hold_reason or job.left_count < LEFT_OFTEN:
        return job.hold_reason
    return f"left for later {job.left_count} times: {job.left_reason} The next `prefect-video collect` tries again."


def _format_cost(job: Job) -> str:
    """Format the cost; with a `~`, the reserved amount, as long as the provider has reported none."""
    is_estimate = job.state is not State.RELEASED and job.actual_usd is None and job.reserved_usd is not None
    return f"~{usd(job.cost_usd)}" if is_estimate else usd(job.cost_usd)


def show_outcomes(
    lines: list[tuple[Job, str, str | None]], key: str, json: bool, *, projects: Sequence[dict[str, Any]] = ()
) -> None:
    """Print each job with the outcome of a command, and its error.

    Args:
        lines: Each job, its outcome and its error, if any.
        key: The name of the list in the JSON object.
        json: Print JSON instead of a table.
        projects: Reports of the projects that are complete with them, for the JSON object.
    """
    if json:
        print_json({key: [_public_outcome(*line) for line in lines], **({"projects": projects} if projects else {})})
        return
    console = stdout()
    if not lines:
        console.print("nothing is unfinished")
        return
    grid = table("job", "project", "shot", "state", "outcome")
    for job, outcome, _ in lines:
        grid.add_row(job.id[:8], escape(job.project), escape(job.shot.id), job.state.value, escape(outcome))
    console.print(grid)
    for job, _, error in lines:
        if error:
            console.print(f"[yellow]![/] {job.id[:8]}: {escape(error)}", soft_wrap=True)


def _public_outcome(job: Job, outcome: str, error: str | None) -> dict[str, Any]:
    return {**public_job(job), "outcome": outcome, "error": error}
