"""Checks of what is deployed: the blocks that it names, workers that take its runs, and the schedule of `collect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import DeploymentSort
from prefect.exceptions import ObjectNotFound

from prefect_video.cli.check_result import Check, describe_fault, run_checks
from prefect_video.deployments import Outcome, find_saved_blocks
from prefect_video.ledger import command_line

_PAGE = 200
_FLOWS = "prefect_video.flows."
_COLLECT = "prefect_video.flows.collect."
_BUYING = tuple(f"{_FLOWS}{module}." for module in ("project", "shot", "experiments"))


async def check_fleet() -> list[Check]:
    """Check the deployments of this package's flows, and all that their runs need of Prefect."""
    try:
        async with get_client() as client:
            deployments = await _find_deployments(client)
            if not deployments:
                detail = "none of this package's flows; `prefect-video setup` makes them"
                return [Check(name="deployments", ok=True, detail=detail)]
            return await _check_deployments(client, deployments)
    except Exception as error:  # noqa: BLE001 -- whatever is wrong, the other findings are shown
        fix = "make sure that Prefect's API answers, and that the key may read deployments, work pools and blocks"
        detail = f"cannot be read: {describe_fault(error)}"
        return [Check(name="deployments", ok=False, detail=detail, fix=fix)]


async def _find_deployments(client: PrefectClient) -> list[DeploymentResponse]:
    """Read every deployment of this package's flows, in order of name."""
    found: list[DeploymentResponse] = []
    while page := await client.read_deployments(limit=_PAGE, offset=len(found), sort=DeploymentSort.NAME_ASC):
        found += page
    return [item for item in found if (item.entrypoint or "").startswith(_FLOWS)]


async def _check_deployments(client: PrefectClient, deployments: Sequence[DeploymentResponse]) -> list[Check]:
    names = {item.id: f"{(await client.read_flow(item.flow_id)).name}/{item.name}" for item in deployments}
    pools = sorted({item.work_pool_name for item in deployments if item.work_pool_name})

    async def check_workers() -> list[Check]:
        return [await _check_workers(client, pool) for pool in pools]

    async def check_collect() -> list[Check]:
        return _check_collect(deployments, names)

    return [
        Check(name="deployments", ok=True, detail=", ".join(sorted(names.values()))),
        *await run_checks(
            {
                "blocks": lambda: _check_blocks(client, deployments),
                "workers": check_workers,
                "collect": check_collect,
            }
        ),
    ]


async def _check_blocks(client: PrefectClient, deployments: Sequence[DeploymentResponse]) -> list[Check]:
    """Check that every block is saved that runs are going to open."""
    blocks = await find_saved_blocks(client, (item.parameters for item in deployments))
    missing = [block for block in blocks if block.outcome is Outcome.MISSING]
    saved = ", ".join(block.name for block in blocks if block not in missing)
    checks = [Check(name="blocks", ok=True, detail=saved)] if saved else []
    for block in missing:
        detail = f"{block.name} is missing, and runs fail without it"
        checks.append(Check(name="blocks", ok=False, detail=detail, fix=block.detail))
    return checks


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


def _check_collect(deployments: Sequence[DeploymentResponse], names: Mapping[UUID, str]) -> list[Check]:
    """Check that what crashed or deferred runs leave behind is finished by itself, in every ledger of a deployment."""
    collecting = [item for item in deployments if (item.entrypoint or "").startswith(_COLLECT)]
    collected = {item.parameters.get("ledger") for item in collecting}
    bought = dict.fromkeys(
        item.parameters.get("ledger") for item in deployments if (item.entrypoint or "").startswith(_BUYING)
    )
    left = [ledger for ledger in bought if ledger not in collected]
    return [
        *(_check_schedule(item, names[item.id]) for item in collecting),
        *(
            _collect_fault(
                f"no deployment of it works on {ledger or 'the default ledger'}",
                "run: prefect-video setup, with the prefect.yaml that `prefect-video init` writes",
                ledger,
            )
            for ledger in left
        ),
    ]


def _check_schedule(deployment: DeploymentResponse, name: str) -> Check:
    """Check that a deployment of `collect` runs by itself."""
    ledger = deployment.parameters.get("ledger")
    if deployment.paused:
        fix = f"resume it in Prefect's UI, or run: prefect api POST /deployments/{deployment.id}/resume_deployment"
        return _collect_fault(f"{name} is paused", fix, ledger)
    if any(schedule.active for schedule in deployment.schedules):
        return Check(name="collect", ok=True, detail=f"{name} runs on schedule")
    schedule = next(iter(deployment.schedules), None)
    fix = f"run: prefect deployment schedule resume {name} {schedule.id}" if schedule else "run: prefect-video setup"
    return _collect_fault(f"{name} has no active schedule", fix, ledger)


def _collect_fault(detail: str, fix: str, ledger: str | None) -> Check:
    """Report that no schedule collects; a service that does so instead leaves no trace in Prefect."""
    service = command_line("serve", "--collect", ledger=ledger)
    fix = f"{fix}; nothing is to be done where `{service}` runs, which cannot be seen from here"
    return Check(name="collect", ok=False, detail=detail, fix=fix)
