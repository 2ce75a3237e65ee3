"""Flow that makes one shot."""

from __future__ import annotations

import prefect.runtime
from prefect import flow

from prefect_video.assets import Asset
from prefect_video.errors import ProjectFailed
from prefect_video.flows.artifacts import publish_table
from prefect_video.flows.cancellation import cancel_generations
from prefect_video.flows.project import flow_run_id
from prefect_video.pipeline import publish_lone_shot, run_project
from prefect_video.projects import Project
from prefect_video.session import DEFAULT_PROJECT
from prefect_video.shots import Shot
from prefect_video.tasks import SessionRef, TaskRunner, read_links, use_session


def _run_name() -> str:
    parameters = prefect.runtime.flow_run.parameters
    return f"{parameters['project']}/{Shot.model_validate(parameters['shot']).id}"


@flow(name="generate-shot", flow_run_name=_run_name, on_cancellation=[cancel_generations])
async def generate_shot(
    shot: Shot,
    project: str = DEFAULT_PROJECT,
    provider: str | None = None,
    store: str | None = None,
    ledger: str | None = None,
    refresh: bool = False,
    rebuy_missing: bool = False,
) -> Asset:
    """Make one shot, unless it is stored already.

    Args:
        shot: The shot; its first take is returned.
        project: The folder in the store and the name in the ledger.
        provider: As for `generate_project`.
        store: As for `generate_project`.
        ledger: As for `generate_project`.
        refresh: Buy it again although it is stored.
        rebuy_missing: As for `generate_project`.

    Returns:
        The stored video.

    Raises:
        ProjectFailed: There is no video; the message says why and what to do.
        InvalidInput: The shot or a setting is wrong; nothing was sent.
        BudgetExceeded: A limit would be passed; nothing was sent.
        StoreOutage: The store is not the one that the ledger knows; nothing was sent.
    """
    ref = SessionRef.from_names(provider, store, ledger)
    async with use_session(ref) as session:
        report = await run_project(
            session,
            Project(name=project, shots=(shot,)),
            runner=TaskRunner([ref]),
            refresh=refresh,
            rebuy_missing=rebuy_missing,
            flow_run_id=flow_run_id(),
        )
        report = await publish_lone_shot(session, report)
        links = await read_links(session.store, [shot.asset for shot in report.shots if shot.asset])
    await publish_table(report, links)
    asset = report.shots[0].asset
    if report.failures or asset is None:
        raise ProjectFailed(report)
    return asset
