"""Step runner: how a run calls the steps of its shots, as coroutines here and as tasks in an orchestrator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Concatenate, ParamSpec, TypeVar

from prefect_video.ledger import Job
from prefect_video.session import Session

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")


class StepRunner:
    """Runner of steps as plain coroutines; an orchestrator's subclass runs each as a task of its own."""

    def run_step(
        self,
        step: Callable[Concatenate[Session, Inputs], Awaitable[Result]],
        session: Session,
        *inputs: Inputs.args,
        **named: Inputs.kwargs,
    ) -> Awaitable[Result]:
        """Run one step.

        Args:
            step: The step, a function of `prefect_video.pipeline.steps`.
            session: The account's session.
            *inputs: The step's other arguments: the job as the step before has left it, and the result of that step.
            **named: Further arguments by name.

        Returns:
            The step's own result.
        """
        return step(session, *inputs, **named)

    def link(self, shot_id: str, jobs: Sequence[Job]) -> None:
        """Show in the orchestrator's graph that a shot's submit follows the jobs of other shots.

        Args:
            shot_id: The shot that is to be submitted.
            jobs: The results of the steps that it follows.
        """

    def has_limit(self, session: Session) -> bool:
        """Tell whether a limit of the orchestrator may be held by a step that runs: then none may run only to wait."""
        return False

    def hold_limit(self, session: Session) -> AbstractAsyncContextManager[None]:
        """Hold the orchestrator's concurrency limit that the session names, while the provider is at work."""
        return nullcontext()
