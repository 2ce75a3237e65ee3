"""Task runs as Prefect's server shows them, which records them some time after they ended."""

import asyncio
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun


async def await_task_runs(flow_run_id: UUID | None, number: int) -> list[TaskRun]:
    """Return a flow run's task runs, once the server has recorded the end of at least as many as expected.

    Raises:
        TimeoutError: After a minute.

    """
    assert flow_run_id is not None
    runs = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    async with asyncio.timeout(300), get_client() as client:
        while True:
            found = await client.read_task_runs(flow_run_filter=runs, limit=200)
            if len(found) >= number and all(run.state is not None and run.state.is_final() for run in found):
                return found
            await asyncio.sleep(0.1)
