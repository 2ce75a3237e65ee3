"""Queue of a deployment: requests become flow runs of Prefect, which its workers make."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from prefect_video.ledger import Requester
from prefect_video.projects import Project, as_parameter
from prefect_video.session import Session

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

logger = logging.getLogger(__name__)

RUNS_LIMIT: Final = 3
"""Flow runs that a request gets, where the machines or processes of the former ones have died."""
_PREFIX: Final = "prefect-video-"


class QueueUnavailable(Exception):
    """Prefect cannot be reached now, or refuses."""


@dataclass(frozen=True)
class EnqueuedRun:
    """Flow run of a request.

    Attributes:
        id: Its id.
        state: The name of its state.
        has_ended: True where it will do nothing more.
        succeeded: True where it has ended well.
    """

    id: str
    state: str
    has_ended: bool
    succeeded: bool

    @classmethod
    def of(cls, run: FlowRun) -> EnqueuedRun:
        """Describe a flow run of Prefect."""
        state = run.state
        return cls(
            id=str(run.id),
            state=(state.name if state else None) or "unknown",
            has_ended=bool(state and state.is_final()),
            succeeded=bool(state and state.is_completed()),
        )


@dataclass(frozen=True)
class DeploymentQueue:
    """The queue of one deployment of `generate-project`.

    Attributes:
        deployment: Its name, such as `generate-project/project`.
        ledger: How the workers find the ledger; None for their environment's.
    """

    deployment: str
    ledger: str | None = None

    async def enqueue(
        self,
        session: Session,
        project: Project,
        *,
        key: str,
        requester: Requester | None,
        parameters: Mapping[str, Any] | None = None,
    ) -> EnqueuedRun | None:
        """Create the flow run of a request, or find the one that there is.

        A run that has crashed, as its worker or machine died, is followed by another one: the ledger knows what it has
        sent, and nothing is paid twice. A run that has failed is not.

        Args:
            session: The account that makes the shots.
            project: The shots.
            key: Idempotency key: the same one is always the same request.
            requester: The client that is charged.
            parameters: Further parameters of the flow.

        Returns:
            The flow run; None where Prefect cannot be reached now, which the next sweep tries again.
        """
        values = {
            "project": as_parameter(project),
            "provider": project.provider or session.account_name,
            "store": session.store_name,
            "ledger": self.ledger,
            "requester": requester.model_dump(mode="json") if requester else None,
            **(parameters or {}),
        }
        given = {name: value for name, value in values.items() if value is not None}
        try:
            # Importing Prefect takes seconds, during which the service must answer.
            deployments = await asyncio.to_thread(importlib.import_module, "prefect.deployments")
            for idempotency_key in _idempotency_keys(key):
                run = await deployments.run_deployment(
                    self.deployment, parameters=given, timeout=0, idempotency_key=idempotency_key, as_subflow=False
                )
                if not (run.state and run.state.is_crashed()):
                    break
                logger.debug("%s: flow run %s has crashed", self.deployment, run.id)
        except Exception as error:  # noqa: BLE001  whatever Prefect raises, the request stays in the ledger
            logger.warning("%s: a request is not enqueued now, the next sweep tries again: %s", self.deployment, error)
            return None
        return EnqueuedRun.of(run)

    async def cancel(self, key: str) -> None:
        """Cancel the flow runs of a request that have not ended; one that a worker has begun is ended by that.

        Raises:
            QueueUnavailable: Prefect cannot be reached now, or refuses.
        """
        filters, states = await _import("prefect.client.schemas.filters"), await _import("prefect.states")
        keys = filters.FlowRunFilterIdempotencyKey(any_=_idempotency_keys(key))
        try:
            async with (await _import("prefect.client.orchestration")).get_client() as client:
                for run in await client.read_flow_runs(flow_run_filter=filters.FlowRunFilter(idempotency_key=keys)):
                    if not EnqueuedRun.of(run).has_ended:
                        await client.set_flow_run_state(run.id, states.Cancelling())
        except Exception as error:
            raise QueueUnavailable(f"{self.deployment}: {error}") from error

    async def find_crashed(self, keys: Mapping[str, str]) -> Collection[str]:
        """Find the requests whose flow runs have crashed.

        Args:
            keys: Idempotency keys by the ids of the flow runs that work, or worked, on them.

        Returns:
            The keys of those that this queue has enqueued and that have crashed; none where Prefect cannot be reached.
        """
        filters = await _import("prefect.client.schemas.filters")
        wanted = filters.FlowRunFilter(
            id=filters.FlowRunFilterId(any_=[UUID(run_id) for run_id in keys]),
            state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=["CRASHED"])),
        )
        try:
            async with (await _import("prefect.client.orchestration")).get_client() as client:
                crashed = await client.read_flow_runs(flow_run_filter=wanted)
        except Exception as error:  # noqa: BLE001  the next sweep asks again
            logger.warning("%s: crashed flow runs are not looked for now: %s", self.deployment, error)
            return ()
        return {keys[str(run.id)] for run in crashed if run.idempotency_key in _idempotency_keys(keys[str(run.id)])}


def _idempotency_keys(key: str) -> list[str]:
    """Return the idempotency keys of a request's flow runs, in their order."""
    return [f"{_PREFIX}{key}", *(f"{_PREFIX}{key}-{number}" for number in range(2, RUNS_LIMIT + 1))]


async def _import(module: str) -> Any:
    return await asyncio.to_thread(importlib.import_module, module)
