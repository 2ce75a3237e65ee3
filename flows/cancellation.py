"""Hook that cancels the generations of a flow run that is cancelled.

The hook runs in the runner's process, not in the flow's: it knows the flow run's id and works from the ledger, where
each job names the credentials that it was made with. A worker that is killed or evicted cancels nothing; its
generations are paid and are collected later.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun, State

from prefect_video.errors import VideoError
from prefect_video.flows.parts import cancel_parts, read_part
from prefect_video.ledger import PARTS_PREFIX, describe_job
from prefect_video.pipeline import CancelledJob, cancel_jobs
from prefect_video.projects import Project
from prefect_video.session import ref_for_job
from prefect_video.tasks import open_ledger, send_logs, use_session

logger = logging.getLogger(__name__)


async def cancel_generations(flow: Any, flow_run: FlowRun, state: State[Any], *, ledger: str | None = None) -> None:
    """Cancel the unfinished generations of a cancelled flow run, where their provider still can.

    A hook for every flow that makes videos, by `generate_video` or by a flow within it:
    `@flow(on_cancellation=[cancel_generations])`.

    Args:
        flow: The flow, which Prefect passes to hooks.
        flow_run: The run that was cancelled.
        state: The final state, which Prefect passes to hooks.
        ledger: `video-ledger/name` or a file, given by `functools.partial`; by default what the run's own parameter
            `ledger` names, else PREFECT_VIDEO_LEDGER_URL or SQLite under Prefect's home.
    """
    name = ledger or (flow_run.parameters or {}).get("ledger")
    # The hook runs outside of the run, which its lines belong to.
    with send_logs(flow_run.id):
        if part_of := read_part(flow_run):
            await _cancel_part(flow_run, part_of, name)
        else:
            await _cancel_runs(flow_run, name)


async def _cancel_part(flow_run: FlowRun, part_of: UUID, name: str | None) -> None:
    """Cancel the generations of a part's shots, which are recorded under the run that has split the project."""
    shots = {shot.id for shot in Project.model_validate(flow_run.parameters["project"]).shots}
    await _cancel_recorded(flow_run.name, part_of, name, shots)


async def _cancel_recorded(run_name: str, run_id: UUID, name: str | None, shots: Collection[str] | None = None) -> bool:
    """Cancel what is recorded under a run, or only its jobs of some shots; return False where that is impossible."""
    try:
        async with open_ledger(name) as opened:
            jobs = await opened.jobs.unfinished(flow_run_id=str(run_id))
            jobs += await opened.jobs.unfinished(flow_run_id=f"{PARTS_PREFIX}{run_id}")
    except VideoError as error:
        logger.error("flow run %s is cancelled and its generations are not: %s", run_name, error)
        return False
    wanted = [job for job in jobs if shots is None or job.shot.id in shots]
    for line in await cancel_jobs(wanted, lambda job: use_session(ref_for_job(job, name))):
        _log(line)
    return True


async def _cancel_runs(flow_run: FlowRun, name: str | None) -> None:
    """Cancel the generations of a run and of the runs within it."""
    runs = [flow_run.id]
    for run_id in runs:
        if not await _cancel_recorded(flow_run.name, run_id, name):
            return
        # Its own jobs first: they must not depend on an answer of Prefect's.
        runs += await _find_subflow_runs(run_id)


async def _find_subflow_runs(flow_run_id: UUID) -> list[UUID]:
    """Find the runs within a run's process, and cancel its parts; a deployment's run has a process of its own."""
    within = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run_id]))
    async with get_client() as client:
        runs = await client.read_flow_runs(flow_run_filter=within)
        await cancel_parts(flow_run_id, client, runs)
    return [run.id for run in runs if run.deployment_id is None]


def _log(line: CancelledJob) -> None:
    # A job that has ended has had its line when its state changed.
    level = logging.WARNING if line.is_still_running else logging.DEBUG
    text = line.error or line.outcome
    logger.log(level, "%s/%s: %s (%s)", line.job.project, line.job.shot.id, text, describe_job(line.job))
