"""Registration of deployments: each is compared with what Prefect has, and written only where it differs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import construct_schedule
from prefect.exceptions import ObjectNotFound, ParameterTypeError, PrefectException
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from prefect_video.deployments.changes import Change, Outcome
from prefect_video.deployments.declaration import DeclaredDeployment, DeclaredLimit, DeclaredSchedule
from prefect_video.errors import InvalidInput


async def ensure_deployment(
    client: PrefectClient,
    declared: DeclaredDeployment,
    flow: Flow[..., Any],
    pull: Sequence[Mapping[str, Any]],
    *,
    dry_run: bool,
) -> tuple[Change, UUID | None]:
    """Create or update a deployment, as far as it differs.

    A schedule that an operator has paused or resumed stays so.

    Args:
        client: A client of Prefect's API.
        declared: The deployment.
        flow: Its flow.
        pull: Steps that fetch its code, unless it declares its own.
        dry_run: Compare only.

    Returns:
        What was done, and the deployment's id; None where it does not exist yet.
    """
    name = f"{flow.name}/{declared.name}"
    try:
        found = await client.read_deployment_by_name(name)
    except ObjectNotFound:
        found = None
    wanted = _describe_wanted(declared, flow, pull)
    differences = _list_differences(wanted, found) if found else []
    if found and not differences:
        return Change(kind="deployment", name=name, outcome=Outcome.UNCHANGED), found.id
    outcome = Outcome.UPDATED if found else Outcome.CREATED
    change = Change(kind="deployment", name=name, outcome=outcome, detail=", ".join(differences))
    if dry_run:
        return change, found.id if found else None
    return change, await _write(client, declared, flow, wanted, found.schedules if found else ())


def load_flow(declared: DeclaredDeployment, folder: Path) -> Flow[..., Any]:
    """Load the flow of a deployment, and check that it takes the deployment's parameters.

    Args:
        declared: The deployment.
        folder: Where its file lies; entry points of files are relative to it.

    Raises:
        InvalidInput: The flow cannot be imported, or does not take the parameters.
    """
    entrypoint = declared.entrypoint if ":" not in declared.entrypoint else str(folder / declared.entrypoint)
    try:
        flow: Flow[..., Any] = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
        flow.validate_parameters(declared.parameters)
    except ParameterTypeError as error:
        raise InvalidInput(f"deployment {declared.name!r}: {error}") from error
    except (ImportError, AttributeError, OSError, PrefectException) as error:
        raise InvalidInput(
            f"deployment {declared.name!r}: {declared.entrypoint} cannot be loaded ({error}); correct the entrypoint"
        ) from error
    return flow


def _describe_wanted(
    declared: DeclaredDeployment, flow: Flow[..., Any], pull: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what the deployment should be, by the names of its fields in Prefect, in the form of its JSON."""
    limit = _limit(declared)
    wanted = {
        "entrypoint": declared.entrypoint,
        "description": declared.description or flow.description or "",
        "tags": sorted(declared.tags),
        "work_pool_name": declared.work_pool.name,
        "work_queue_name": declared.work_pool.work_queue_name or "default",
        "job_variables": declared.work_pool.job_variables,
        "parameters": declared.parameters,
        "pull_steps": list(pull if declared.pull is None else declared.pull),
        "concurrency_limit": limit.limit if limit else None,
        "collision_strategy": limit.collision_strategy if limit else None,
        "grace_period_seconds": limit.grace_period_seconds if limit else None,
        "parameter_openapi_schema": parameter_schema(flow).model_dump(exclude_unset=True),
        "schedules": {schedule.slug: _describe_schedule(schedule) for schedule in declared.schedules},
    }
    normal: dict[str, Any] = json.loads(json.dumps(wanted, default=str))
    return normal


def _list_differences(wanted: Mapping[str, Any], found: DeploymentResponse) -> list[str]:
    """Name the fields in which a deployment is not as wanted."""
    limit, options = found.global_concurrency_limit, found.concurrency_options
    present = {
        **found.model_dump(mode="json", include={"entrypoint", "job_variables", "parameters"}),
        "description": found.description or "",
        "tags": sorted(found.tags),
        "work_pool_name": found.work_pool_name,
        "work_queue_name": found.work_queue_name,
        "pull_steps": found.pull_steps or [],
        "concurrency_limit": limit.limit if limit else None,
        "collision_strategy": options.collision_strategy.value if options else None,
        "grace_period_seconds": options.grace_period_seconds if options else None,
        "parameter_openapi_schema": found.parameter_openapi_schema,
        "schedules": {
            schedule.slug: _describe_rule(schedule.schedule, schedule.parameters) for schedule in found.schedules
        },
    }
    return [name for name, value in wanted.items() if value != present[name]]


async def _write(
    client: PrefectClient,
    declared: DeclaredDeployment,
    flow: Flow[..., Any],
    wanted: Mapping[str, Any],
    schedules: Sequence[DeploymentSchedule],
) -> UUID:
    """Create the deployment, or update the one of the same flow and name, which keeps its id."""
    active = {schedule.slug: schedule.active for schedule in schedules}
    limit = _limit(declared)
    deployment_id: UUID = await client.create_deployment(
        flow_id=await client.create_flow_from_name(flow.name),
        name=declared.name,
        schedules=[
            DeploymentScheduleCreate(
                schedule=_rule(schedule),
                active=active.get(schedule.slug, schedule.active),
                parameters=schedule.parameters,
                slug=schedule.slug,
            )
            for schedule in declared.schedules
        ],
        concurrency_limit=limit.limit if limit else None,
        concurrency_options=ConcurrencyOptions(
            collision_strategy=ConcurrencyLimitStrategy(limit.collision_strategy),
            grace_period_seconds=limit.grace_period_seconds,
        )
        if limit
        else None,
        enforce_parameter_schema=True,
        **{
            name: wanted[name]
            for name in (
                "parameters",
                "description",
                "work_queue_name",
                "work_pool_name",
                "tags",
                "entrypoint",
                "parameter_openapi_schema",
                "pull_steps",
                "job_variables",
            )
        },
    )
    return deployment_id


def _limit(declared: DeclaredDeployment) -> DeclaredLimit | None:
    limit = declared.concurrency_limit
    return DeclaredLimit(limit=limit) if isinstance(limit, int) else limit


def _rule(schedule: DeclaredSchedule) -> Any:
    return construct_schedule(
        cron=schedule.cron, interval=schedule.interval, rrule=schedule.rrule, timezone=schedule.timezone
    )


def _describe_schedule(schedule: DeclaredSchedule) -> dict[str, Any]:
    return _describe_rule(_rule(schedule), schedule.parameters)


def _describe_rule(rule: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    # The anchor of an interval is the moment at which it was written.
    return {"rule": rule.model_dump(mode="json", exclude={"anchor_date"}), "parameters": dict(parameters)}
