"""Checks of what is deployed: workers that take the runs, and the schedule that collects what is left behind."""

from __future__ import annotations

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import DeploymentSort
from prefect.exceptions import ObjectNotFound, PrefectException

from prefect_video.cli.check_result import Check

_PAGE = 200
_FLOWS = "prefect_video.flows."
_COLLECT = "prefect_video.flows.collect."


async def check_fleet() -> list[Check]:
    """Check the deployments of this package's flows; nothing is checked where there are none."""
    try:
        async with get_client() as client:
            deployments = await _find_deployments(client)
            if not deployments:
                return []
            names = {item.id: f"{(await client.read_flow(item.flow_id)).name}/{item.name}" for item in deployments}
            pools = sorted({item.work_pool_name for item in deployments if item.work_pool_name})
            return [
                Check(name="deployments", ok=True, detail=", ".join(sorted(names.values()))),
                *[await _check_workers(client, pool) for pool in pools],
                *[
                    _check_schedule(item, names[item.id])
                    for item in deployments
                    if (item.entrypoint or "").startswith(_COLLECT)
                ],
            ]
    except (httpx.HTTPError, PrefectException) as error:
        fix = "make sure that Prefect's API answers, and that the key may read deployments and work pools"
        return [Check(name="deployments", ok=False, detail=f"cannot be read: {error}", fix=fix)]


async def _find_deployments(client: PrefectClient) -> list[DeploymentResponse]:
    """Read every deployment of this package's flows, in order of name."""
    found: list[DeploymentResponse] = []
    while page := await client.read_deployments(limit=_PAGE, offset=len(found), sort=DeploymentSort.NAME_ASC):
        found += page
    return [item for item in found if (item.entrypoint or "").startswith(_FLOWS)]


async def _check_workers(client: PrefectClient, name: str) -> Check:
    try:
        pool = await client.read_work_pool(name)
    except ObjectNotFound:
        return Check(name="workers", ok=False, detail=f"pool {name} does not exist", fix="run: prefect-video setup")
    if pool.is_paused:
        fix = f"run: prefect work-pool resume {name}"
        return Check(name="workers", ok=False, detail=f"pool {name} is paused", fix=fix)
    if pool.is_push_pool or pool.is_managed_pool:
        return Check(name="workers", ok=True, detail=f"pool {name} ({pool.type}) needs none")
    online = [worker for worker in await client.read_workers_for_work_pool(name) if worker.status == "ONLINE"]
    if not online:
        fix = f"start one on any machine with the package: prefect worker start --pool {name}"
        return Check(name="workers", ok=False, detail=f"none polls pool {name}", fix=fix)
    return Check(name="workers", ok=True, detail=f"{len(online)} online in pool {name}")


def _check_schedule(deployment: DeploymentResponse, name: str) -> Check:
    """Check that what crashed or deferred runs leave behind is finished by itself."""
    active = [schedule for schedule in deployment.schedules if schedule.active]
    if active and not deployment.paused:
        return Check(name="collect", ok=True, detail=f"{name} runs on schedule")
    if deployment.paused:
        return Check(name="collect", ok=False, detail=f"{name} is paused", fix=f"run: prefect deployment resume {name}")
    schedule = next(iter(deployment.schedules), None)
    fix = f"run: prefect deployment schedule resume {name} {schedule.id}" if schedule else "run: prefect-video setup"
    return Check(name="collect", ok=False, detail=f"{name} has no active schedule", fix=fix)
