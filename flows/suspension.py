"""Approval of a deployed project: the flow run is suspended, and holds no process, until a human has answered.

Suspending cancels the tasks of a flow that are running, so that it is done only when all of them have ended. The
answer restarts the flow's body: what is stored is found in the ledger, and nothing is paid twice.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.context import FlowRunContext
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from prefect_video._clean_text import clean_text
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Ledger
from prefect_video.pipeline import ShotTakes, approve_as_proposed, choose_take, drop_shot, list_pending, redo_shot
from prefect_video.tasks import open_ledger

logger = logging.getLogger(__name__)

_BY: Final = "prefect"


class ApprovalAnswer(RunInput):
    """Answer to a suspended run. It is about all shots that wait, unless it names one."""

    # Without a default: Prefect resumes a run with an empty answer where no field needs one.
    decision: Literal["approve", "redo", "drop", "answered"] = Field(
        title="Decision",
        description="`approve` what is proposed, `redo` it with another prompt, `drop` it; `answered`: it was decided"
        " with `prefect-video approve`",
    )
    shot: str | None = Field(default=None, title="Shot", description="Only this shot; empty: all that wait")
    take: int | None = Field(
        default=None, title="Take", description="To approve: the take that counts; empty: the proposed one"
    )
    prompt: str | None = Field(default=None, title="New prompt", description="To redo: what is to be seen instead")


def can_suspend() -> bool:
    """Return True in the run of a deployment; within another flow, or without a deployment, it is not possible."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return run is not None and run.deployment_id is not None and run.parent_task_run_id is None


@dataclass
class Approvals:
    """The approvals of one run of a project, in the process that runs its body now.

    Attributes:
        project: Name of the project.
        environment: The environment of its jobs.
        ledger: The ledger's name, as a `SessionRef` holds it.
    """

    project: str
    environment: str
    ledger: str | None
    _has_found_none: bool = field(default=False, init=False)
    _times_asked: dict[str, int] = field(default_factory=dict, init=False)

    async def wait_for_answer(self) -> bool:
        """Suspend the run until the shots that wait are answered, and record the answer.

        Returns:
            False where there is nothing to wait for, and has not been the last time either.

        Raises:
            prefect.exceptions.Pause: The run is suspended; this process ends.
            LedgerError: The ledger cannot be used.
        """
        # The ledger is closed while the run is suspended: the process ends in between.
        async with open_ledger(self.ledger) as ledger:
            pending = await list_pending(ledger, self.project, environment=self.environment)
        if not pending:
            # Once, they may have been answered since they were reported.
            is_first, self._has_found_none = not self._has_found_none, True
            return is_first
        self._has_found_none = False
        answer = await self._suspend(pending)
        try:
            async with open_ledger(self.ledger) as ledger:
                await self._record(ledger, answer, pending)
        except InvalidInput as error:
            # The run asks again; the answer that was wrong is not read a second time.
            logger.warning("the answer cannot be used: %s", error)
        return True

    async def _suspend(self, pending: Sequence[ShotTakes]) -> ApprovalAnswer:
        # The same question has the same key in the body that asks and in the one that reads the answer.
        jobs = sorted(job.id for takes in pending for job in takes.takes.values())
        about = hashlib.sha256("\n".join(jobs).encode()).hexdigest()[:16]
        self._times_asked[about] = self._times_asked.get(about, 0) + 1
        key = f"approval-{about}-{self._times_asked[about]}"
        await _tag_run(self.project)
        question = ApprovalAnswer.with_initial_data(description=_describe(self.project, pending))
        timeout = _seconds_left(pending)
        answer = await asuspend_flow_run(wait_for_input=question, key=key, timeout=timeout)
        assert answer is not None
        return answer

    async def _record(self, ledger: Ledger, answer: ApprovalAnswer, pending: Sequence[ShotTakes]) -> None:
        waiting = [takes.shot.id for takes in pending]
        if answer.shot and answer.shot not in waiting:
            raise InvalidInput(f"shot {answer.shot!r} does not wait for an approval; what does: {', '.join(waiting)}")
        shot_ids = [answer.shot] if answer.shot else waiting
        by = {"by": _BY, "environment": self.environment}
        if answer.decision == "approve" and answer.take is None:
            await approve_as_proposed(ledger, self.project, shot_ids, **by)
        elif answer.decision == "answered":
            return
        elif answer.decision != "drop" and len(shot_ids) > 1:
            raise InvalidInput(f"a take or a prompt is for one shot: name it; there are: {', '.join(waiting)}")
        elif answer.decision == "approve":
            await choose_take(ledger, self.project, shot_ids[0], answer.take or 0, **by)
        elif answer.decision == "redo":
            await redo_shot(ledger, self.project, shot_ids[0], answer.prompt or "", **by)
        else:
            for shot_id in shot_ids:
                await drop_shot(ledger, self.project, shot_id, **by)


async def resume_approved(project: str) -> list[FlowRun]:
    """Resume the runs of a project that are suspended until a human has answered; return them.

    They read the decisions in the ledger; a run whose shots still wait is suspended again.

    Raises:
        prefect.exceptions.PrefectException: Prefect's API refuses.
        httpx.HTTPError: Prefect's API does not answer.
    """
    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                tags=FlowRunFilterTags(all_=[_tag(project)]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])),
            )
        )
        return [run for run in runs if await _resume(client, run.id)]


async def _resume(client: PrefectClient, run_id: UUID) -> bool:
    # The status code is the same where Prefect rejects it; another command or the UI may have been faster.
    result = await client.resume_flow_run(run_id, run_input={"decision": "answered"})
    if result.status is SetStateStatus.ACCEPT:
        return True
    logger.warning("flow run %s is not resumed: %s", run_id, getattr(result.details, "reason", result.status))
    return False


def _tag(project: str) -> str:
    return f"prefect-video approval: {project}"


async def _tag_run(project: str) -> None:
    """Mark the run, so that `prefect-video approve` finds it."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    async with get_client() as client:
        run = await client.read_flow_run(context.flow_run.id)
        if _tag(project) not in run.tags:
            await client.update_flow_run(run.id, tags=[*run.tags, _tag(project)])


def _seconds_left(pending: Sequence[ShotTakes]) -> int | None:
    """Return the time until the first deadline, in whole seconds; None where there is none."""
    due = [takes.request.due_at for takes in pending if takes.request and takes.request.due_at]
    return max(1, round((min(due) - datetime.now(UTC)).total_seconds())) if due else None


def _describe(project: str, pending: Sequence[ShotTakes]) -> str:
    """Describe what is to be approved, in Markdown."""
    lines = [f"**{clean_text(project)}** waits for approval:", ""]
    for takes in pending:
        videos = ", ".join(
            f"take {number}{' (proposed)' if number == takes.proposed and len(takes.takes) > 1 else ''}:"
            f" `{clean_text(job.asset.uri) if job.asset else job.id}`"
            for number, job in takes.takes.items()
        )
        lines.append(f"- **{clean_text(takes.shot.id)}**: {clean_text(takes.shot.prompt[:200])}; {videos}")
    return "\n".join(lines)
