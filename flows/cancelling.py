"""What happens to remote generations when a flow run is cancelled.

The hook runs in the runner's process, not in the flow's: it knows the flow run's id and works from the ledger. A
worker that is killed or evicted cancels nothing; its generations are paid and are collected later.
"""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.logging import get_logger

from prefect_video.errors import VideoError
from prefect_video.ledger import Entry
from prefect_video.steps.cancelling import cancel_each
from prefect_video.tasks.studios import StudioRef, open_studio

logger = get_logger("prefect_video.cancelling")


async def cancel_generations(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Cancels the unfinished generations of a cancelled flow run, where their provider still can."""
    asked = flow_run.parameters or {}
    ref = StudioRef.of(asked.get("provider"), asked.get("store"), asked.get("ledger"))
    try:
        async with open_studio(ref) as studio:
            entries = await studio.ledger.unfinished(flow_run_id=str(flow_run.id))
            ended = await cancel_each(studio, entries)
    except VideoError as error:
        logger.error("flow run %s is cancelled and its generations are not: %s", flow_run.name, error)
        return
    for before, after in zip(entries, ended, strict=True):
        _log(before, after)


def _log(before: Entry, after: Entry | BaseException) -> None:
    if isinstance(after, BaseException):
        logger.error("%s/%s was not cancelled: %s", before.project, before.shot.id, after)
    else:
        logger.info("%s/%s: %s → %s", before.project, before.shot.id, before.state, after.state)
