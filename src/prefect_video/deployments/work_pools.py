"""Work pools, their queues, and limits on what is in progress at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.objects import WorkQueue
from prefect.exceptions import ObjectNotFound
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from prefect_video.deployments.changes import Change, Outcome
from prefect_video.errors import InvalidInput

DEFAULT_TYPE: Final = "process"
PRIORITIES: Final[Mapping[str, int]] = MappingProxyType({"high": 1, "normal": 2, "low": 3})
"""Queues by priority: what is in the lowest number starts first."""


async def ensure_work_pool(client: PrefectClient, name: str, kind: str | None, *, dry_run: bool) -> tuple[Change, str]:
    """Create a work pool unless it exists; one that exists stays as it is, of whatever type. Returns its type too.

    Raises:
        InvalidInput: Prefect does not know the type of the pool to be created.
    """
    try:
        found = await client.read_work_pool(name)
    except ObjectNotFound:
        pass
    else:
        return Change(kind="work pool", name=name, outcome=Outcome.UNCHANGED, detail=found.type), found.type
    kind = kind or DEFAULT_TYPE
    # Given at once: without it, variables of deployments are not known until a worker has started.
    template = await get_default_base_job_template_for_infrastructure_type(kind)
    if template is None:
        raise InvalidInput(
            f"Prefect knows no work pool of type {kind!r}: `process`, `docker` (pip install prefect-docker) or"
            " `kubernetes` (pip install prefect-kubernetes)"
        )
    if not dry_run:
        await client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))
    return Change(kind="work pool", name=name, outcome=Outcome.CREATED, detail=kind), kind


async def ensure_queues(
    client: PrefectClient, pool: str, names: Sequence[str], *, dry_run: bool
) -> AsyncIterator[Change]:
    """Create the queues of a pool; `high`, `normal` and `low` are put in order where they are not."""
    found = {name: await _read_queue(client, pool, name) for name in names}
    ordered = sorted((name for name in names if name in PRIORITIES), key=lambda name: PRIORITIES[name])
    present = [queue.priority or 0 for name in ordered if (queue := found[name])]
    in_order = present == sorted(set(present))
    for name in [*ordered, *(name for name in names if name not in PRIORITIES)]:
        queue, priority = found[name], PRIORITIES.get(name)
        if queue is None:
            if not dry_run:
                await client.create_work_queue(name=name, work_pool_name=pool, priority=priority)
            outcome = Outcome.CREATED
        elif priority is None or in_order:
            outcome = Outcome.UNCHANGED
        else:
            if not dry_run:
                await client.update_work_queue(queue.id, priority=priority)
            outcome = Outcome.UPDATED
        yield Change(kind="work queue", name=f"{pool}/{name}", outcome=outcome)


async def ensure_concurrency_limit(client: PrefectClient, name: str, limit: int, *, dry_run: bool) -> Change:
    """Create a global concurrency limit unless it exists; one that an operator has set stays as it is."""
    try:
        found = await client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        pass
    else:
        return Change(kind="concurrency limit", name=name, outcome=Outcome.UNCHANGED, detail=f"{found.limit} at once")
    if not dry_run:
        await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=limit))
    return Change(kind="concurrency limit", name=name, outcome=Outcome.CREATED, detail=f"{limit} at once")


async def _read_queue(client: PrefectClient, pool: str, name: str) -> WorkQueue | None:
    try:
        return await client.read_work_queue_by_name(name, work_pool_name=pool)
    except ObjectNotFound:
        return None
