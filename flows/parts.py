"""Parts of a large project: runs of the same deployment, side by side on the pool, started and awaited by one run.

The parts are recorded in the ledger under the run that has started them: attempts are counted, costs added up and
generations cancelled as if it had made them itself. So it can make the one report in the end, and whatever no part has
finished.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.deployments import arun_deployment
from prefect.exceptions import PrefectException
from prefect.states import Cancelling, Crashed
from pydantic import BaseModel, Field
from tenacity import stop_after_delay

from prefect_video._counted import counted
from prefect_video.errors import GenerationCancelled
from prefect_video.fingerprints import canonical_json
from prefect_video.projects import Project, as_parameter
from prefect_video.retry_policy import retrying

logger = logging.getLogger(__name__)

RUNS_LIMIT: Final = 3
"""Runs that a part gets, where the former ones have crashed."""
STALL_SECONDS: Final = 300.0
"""Time in which no part has run or ended, after which the run that waits for them makes what is left itself."""
OUTAGE_SECONDS: Final = 600.0
"""Time for which Prefect may not answer while a part is to be started."""
_POLL_SECONDS: Final = 2.0


class ProjectPart(BaseModel):
    """The part of a project that a run makes, as a parameter of the run.

    Attributes:
        of: The flow run that has split the project.
        number: The number of the part, from 1.
        total: How many there are.
    """

    of: UUID = Field(description="The flow run that has split the project")
    number: int = Field(ge=1, description="The number of the part, from 1")
    total: int = Field(ge=1, description="How many parts there are")

    def name_run(self, project: Project) -> str:
        """Return the name of the run that makes it."""
        return f"{project.name} (part {self.number} of {self.total}, {counted(len(project.shots), 'shot')})"


class Parts:
    """The runs of the parts of one project.

    Args:
        parent: The run that splits the project.
        projects: The parts.
        parameters: The further parameters of the flow.
        stall_seconds: Time without a part that runs, after which what is left is given back.
    """

    def __init__(
        self,
        parent: FlowRun,
        projects: Sequence[Project],
        parameters: Mapping[str, Any],
        *,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._parent = parent
        self._projects = projects
        self._parameters = parameters
        self._stall_seconds = stall_seconds

    async def make(self) -> None:
        """Start the run of each part that has none yet, and wait until all have ended.

        Parts that no worker begins, as this run has the last place in the pool, are left to the caller.

        Raises:
            GenerationCancelled: A part was cancelled.
        """
        numbers = range(1, len(self._projects) + 1)
        runs = [await self._start(number) for number in numbers]
        crashes = dict.fromkeys(numbers, 0)
        moved = time.monotonic()
        while True:
            # Before the first wait too: a run that is found by its key may have crashed under an earlier parent.
            for number, run in zip(numbers, runs, strict=True):
                if run.state_type is StateType.CRASHED and crashes[number] < RUNS_LIMIT - 1:
                    crashes[number] += 1
                    logger.warning("part %d, flow run %s, has crashed: it is run again", number, run.id)
                    runs[number - 1] = await self._start(number, crashes[number])
            if not (pending := [run for run in runs if not _has_ended(run)]):
                break
            await asyncio.sleep(_POLL_SECONDS)
            before = [run.state_name for run in runs]
            runs = await self._read(runs)
            if before != [run.state_name for run in runs] or any(run.state_type is StateType.RUNNING for run in runs):
                moved = time.monotonic()
            elif time.monotonic() - moved > self._stall_seconds:
                left = counted(len(pending), "part")
                logger.warning("this run makes %s itself: no worker has begun what is left", left)
                await _give_up([run for run in runs if not _has_ended(run)])
                return
        self._require_none_cancelled(runs)

    @retrying(1.0, 10.0, stop=stop_after_delay(OUTAGE_SECONDS), retry=lambda error: _is_outage(error)).wraps
    async def _start(self, number: int, crashes: int = 0) -> FlowRun:
        """Start the run of a part, or find the one that there is: of this run, or of an earlier one and unfinished."""
        project = self._projects[number - 1]
        part = ProjectPart(of=self._parent.id, number=number, total=len(self._projects))
        own = {**self._parameters, "project": as_parameter(project)}
        digest = hashlib.sha256(canonical_json(own).encode()).hexdigest()[:32]
        tag = f"prefect-video part {digest}"
        if (unfinished := await _find_unfinished(tag)) is not None:
            return unfinished
        assert self._parent.deployment_id is not None
        return await arun_deployment(
            self._parent.deployment_id,
            parameters={**own, "part": part.model_dump(mode="json")},
            flow_run_name=part.name_run(project),
            timeout=0,
            tags=[tag],
            idempotency_key=f"prefect-video-{self._parent.id}-{digest}-{crashes}",
        )

    async def _read(self, runs: Sequence[FlowRun]) -> list[FlowRun]:
        """Read the runs anew; as they were where Prefect does not answer now."""
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs]))
        try:
            async with get_client() as client:
                found = {run.id: run for run in await client.read_flow_runs(flow_run_filter=wanted)}
        except (httpx.HTTPError, PrefectException) as error:
            logger.warning("the parts are not looked at now: %s", error)
            return list(runs)
        return [found.get(run.id, run) for run in runs]

    def _require_none_cancelled(self, runs: Sequence[FlowRun]) -> None:
        if cancelled := [run for run in runs if run.state_type is StateType.CANCELLED]:
            raise GenerationCancelled(
                f"project {self._projects[0].name!r}: {', '.join(run.name for run in cancelled)} cancelled; what the"
                " other parts have made is stored. Run the project again to make the rest"
            )


def find_splitting_run(fan_out: int | None) -> FlowRun | None:
    """Return the current flow run where it may split its project; None where it makes all shots itself."""
    if not fan_out or fan_out < 2:
        return None
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.deployment_id is None:
        logger.warning("fan_out: only the run of a deployment can split a project; all shots are made here")
        return None
    return run


async def cancel_parts(parent: UUID, client: PrefectClient, runs: Sequence[FlowRun]) -> None:
    """Cancel those of the runs that make parts of a cancelled run, which their own workers end."""
    for run in runs:
        if read_part(run) == parent and not _has_ended(run):
            await client.set_flow_run_state(run.id, Cancelling())


def read_part(run: FlowRun) -> UUID | None:
    """Return the run that a run makes a part for; None where it makes a whole project."""
    part = (run.parameters or {}).get("part")
    return UUID(str(part["of"])) if isinstance(part, dict) else None


async def _find_unfinished(tag: str) -> FlowRun | None:
    wanted = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[tag]),
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[kind for kind in StateType if kind not in TERMINAL_STATES])
        ),
    )
    async with get_client() as client:
        return next(iter(await client.read_flow_runs(flow_run_filter=wanted, limit=1)), None)


async def _give_up(runs: Sequence[FlowRun]) -> None:
    """End runs that no worker has begun, whose shots another run makes.

    They are not cancelled: the hook of one that begins after all would cancel what the other run has paid for.
    """
    state: State[Any] = Crashed(
        message="No worker has begun it in time: the run that has split the project makes its shots."
    )
    async with get_client() as client:
        for run in runs:
            await client.set_flow_run_state(run.id, state, force=True)


def _is_outage(error: BaseException) -> bool:
    """Tell whether Prefect's server is being restarted, or is out of reach."""
    is_server_error = isinstance(error, httpx.HTTPStatusError) and error.response.status_code >= 500
    return isinstance(error, httpx.TransportError) or is_server_error


def _has_ended(run: FlowRun) -> bool:
    return run.state_type in TERMINAL_STATES
