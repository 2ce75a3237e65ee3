"""Flow that finishes the generations that crashed or deferred runs have left behind."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.context import FlowRunContext

from prefect_video.flows.artifacts import publish_table
from prefect_video.pipeline import CollectedJob, DeferredOutcome, collect
from prefect_video.session import ref_for_job
from prefect_video.tasks import announce_project, artifact_key, open_ledger, read_links, use_session


@flow(name="collect-generations")
async def collect_generations(
    ledger: str | None = None, project: str | None = None, wait: bool = False
) -> list[CollectedJob]:
    """Finish every unfinished generation that no live owner works on; pay for nothing.

    The film, the page, the report and the event of a project that was run with `wait=False` follow its last shot.

    Args:
        ledger: `video-ledger/name` or a file; by default PREFECT_VIDEO_LEDGER_URL or SQLite under Prefect's home.
        project: Only this project's generations.
        wait: Wait for those that are still being made.

    Returns:
        One line for each unfinished job.
    """
    async with open_ledger(ledger) as opened:
        swept = await collect(
            opened,
            lambda job: use_session(ref_for_job(job, ledger)),
            project=project,
            wait=wait,
            on_outcome=_report,
        )
    if swept and FlowRunContext.get():
        await acreate_table_artifact(
            key=artifact_key("collected", project or "all"),
            table=[
                {
                    "project": line.job.project,
                    "shot": line.job.shot.id,
                    "state": line.job.state.value,
                    "outcome": line.outcome,
                    "error": line.error or "",
                }
                for line in swept
            ],
        )
    return swept


async def _report(outcome: DeferredOutcome) -> None:
    """Publish the report of a deferred run, and announce it, unless the same was reported before."""
    if not outcome.is_news:
        return
    report = outcome.report
    links = await read_links(outcome.session.store, [shot.asset for shot in report.shots if shot.asset])
    await publish_table(report, links)
    announce_project(outcome)
