"""Flow that finishes the generations that crashed or deferred runs have left behind."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.context import FlowRunContext

from prefect_video.pipeline import CollectedJob, collect
from prefect_video.session import ref_for_job
from prefect_video.tasks import artifact_key, open_ledger, use_session


@flow(name="collect-generations")
async def collect_generations(
    ledger: str | None = None, project: str | None = None, wait: bool = False
) -> list[CollectedJob]:
    """Finish every unfinished generation that no live owner works on; pay for nothing.

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
