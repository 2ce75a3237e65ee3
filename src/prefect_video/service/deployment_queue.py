"""Queue of a deployment: requests become flow runs of Prefect, which its workers make."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect_video.ledger import Requester
from prefect_video.projects import Project
from prefect_video.session import Session

logger = logging.getLogger(__name__)


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

        Args:
            session: The account that makes the shots.
            project: The shots.
            key: Idempotency key: the same one is always the same flow run.
            requester: The client that is charged.
            parameters: Further parameters of the flow.

        Returns:
            The flow run; None where Prefect cannot be reached now, which the next sweep tries again.
        """
        # Importing Prefect takes seconds, during which the service must answer.
        deployments = await asyncio.to_thread(importlib.import_module, "prefect.deployments")
        values = {
            "project": project.model_dump(mode="json", by_alias=True, exclude_defaults=True),
            "provider": project.provider or session.account_name,
            "store": session.store_name,
            "ledger": self.ledger,
            "requester": requester.model_dump(mode="json") if requester else None,
            **(parameters or {}),
        }
        try:
            run = await deployments.run_deployment(
                self.deployment,
                parameters={name: value for name, value in values.items() if value is not None},
                timeout=0,
                idempotency_key=f"prefect-video-{key}",
                as_subflow=False,
            )
        except Exception as error:  # noqa: BLE001  whatever Prefect raises, the request stays in the ledger
            logger.warning("%s: a request is not enqueued now, the next sweep tries again: %s", self.deployment, error)
            return None
        state = run.state
        return EnqueuedRun(
            id=str(run.id),
            state=state.name if state else "unknown",
            has_ended=bool(state and state.is_final()),
            succeeded=bool(state and state.is_completed()),
        )
