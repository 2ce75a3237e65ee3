"""Entry points of a project's run: make its shots, or reserve them for the runs of its parts."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from prefect_video.ledger import PARTS_PREFIX, Requester
from prefect_video.pipeline.project_run import OnReport, ProjectRun
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.pipeline.step_runner import StepRunner
from prefect_video.projects import Project
from prefect_video.session import Session


async def run_project(
    session: Session,
    project: Project,
    *,
    others: Sequence[Session] = (),
    runner: StepRunner | None = None,
    refresh: bool = False,
    rebuy_missing: bool = False,
    flow_run_id: str | None = None,
    on_report: OnReport | None = None,
    wait: bool = True,
    requester: Requester | None = None,
    began_at: datetime | None = None,
    is_part: bool = False,
) -> ProjectReport:
    """Make every shot of a project that is not stored yet; a shot that fails fails alone.

    Args:
        session: The account that makes the shots.
        project: The shots.
        others: Further accounts, with the same ledger and store: those that `provider: auto` may also choose, and
            those that the project's fallbacks name.
        runner: Runs the steps; plain coroutines unless an orchestrator gives its own.
        refresh: Buy again what is stored.
        rebuy_missing: Accept the store, although videos are missing or it is another one: what is not there is
            fetched again where the provider still has it, and bought again where not.
        flow_run_id: Id of the run, within which attempts are counted; None for a new one.
        on_report: Called with the report of each shot as it ends.
        wait: Wait for the videos; otherwise leave as soon as the last shot is at the provider, with what is not done
            by then `in_flight` for `collect`.
        requester: The client of the service that is charged.
        began_at: When the run began, where other processes have made parts of it; what they paid since is its cost.
        is_part: The run makes a part of a project for another one, which records what is left to do.

    Returns:
        One report for each take of each shot.

    Raises:
        InvalidInput: A shot cannot be made; nothing was sent.
        BudgetExceeded: The project does not fit a limit; nothing was sent.
        StoreOutage: The store is not the one that the ledger knows, or several videos are missing; nothing was sent.
        LedgerError: The ledger cannot be used; nothing was sent.
        RequestRejected: An account's endpoint or key is wrong; nothing was sent.
    """
    run = ProjectRun(
        project,
        [session, *others],
        flow_run_id or f"run-{uuid.uuid4()}",
        runner=runner or StepRunner(),
        refresh=refresh,
        rebuy_missing=rebuy_missing,
        on_report=on_report,
        wait=wait,
        requester=requester,
        began_at=began_at,
        is_part=is_part,
    )
    return await run.run()


async def reserve_project(
    session: Session,
    project: Project,
    *,
    flow_run_id: str,
    others: Sequence[Session] = (),
    refresh: bool = False,
    rebuy_missing: bool = False,
    wait: bool = True,
    requester: Requester | None = None,
) -> None:
    """Reserve a whole project within its limits, for the runs of its parts, which take the reservations over.

    What continues another shot is reserved by the part that makes it. Arguments as of `run_project`.

    Args:
        session: The account that makes the shots.
        project: The shots.
        flow_run_id: Id of the run that splits the project.
        others: Further accounts, with the same ledger and store.
        refresh: Buy again what is stored.
        rebuy_missing: Accept the store, although videos are missing or it is another one.
        wait: The parts wait for the videos; otherwise the run is recorded, so that `collect` completes it.
        requester: The client of the service that is charged.

    Raises:
        InvalidInput: A shot cannot be made; nothing was sent.
        BudgetExceeded: The project does not fit a limit; nothing was sent.
        StoreOutage: The store is not the one that the ledger knows, or several videos are missing; nothing was sent.
        LedgerError: The ledger cannot be used; nothing was sent.
    """
    run = ProjectRun(
        project,
        [session, *others],
        f"{PARTS_PREFIX}{flow_run_id}",
        runner=StepRunner(),
        refresh=refresh,
        rebuy_missing=rebuy_missing,
        wait=wait,
        requester=requester,
    )
    await run.reserve()
