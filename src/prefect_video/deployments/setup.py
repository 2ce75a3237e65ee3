"""Set-up of Prefect: everything that a `prefect.yaml` needs, made once and left alone from then on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ObjectNotFound

from prefect_video.deployments.automations import (
    build_alerts,
    build_crash_detectors,
    build_trigger,
    ensure_automation,
    parse_triggers,
)
from prefect_video.deployments.changes import Change, Outcome
from prefect_video.deployments.declaration import DEFAULT_ENVIRONMENT, DeploymentFile
from prefect_video.deployments.registration import ensure_deployment, load_flow
from prefect_video.deployments.saved_blocks import check_environment, find_saved_block, register_block_types
from prefect_video.deployments.work_pools import ensure_concurrency_limit, ensure_queues, ensure_work_pool
from prefect_video.errors import InvalidInput
from prefect_video.session import DEFAULT_IN_FLIGHT

LIMIT_VARIABLE: Final = "PREFECT_VIDEO_CONCURRENCY_LIMIT"


async def setup_prefect(
    file: DeploymentFile,
    folder: Path,
    *,
    environment: str | None = None,
    pool: str | None = None,
    pool_type: str | None = None,
    notify: str | None = None,
    dry_run: bool = False,
) -> AsyncIterator[Change]:
    """Make everything that a file's deployments need in Prefect; nothing that is there is removed.

    Args:
        file: What `prefect.yaml` declares.
        folder: Where it lies.
        environment: Take the blocks of this name, and name deployments and automations for it.
        pool: Use this work pool for all deployments.
        pool_type: Type of a work pool that has to be created; else `process`.
        notify: A saved notification block, `type/name`; else alerts are only to be seen in Prefect.
        dry_run: Find out only what would be done.

    Yields:
        One change for each object, when it is done.

    Raises:
        InvalidInput: A flow, a parameter, a trigger or a name cannot be used.
    """
    declared = file.for_environment(environment, pool)
    async with get_client() as client:
        # First of all: what cannot be used is found before anything is changed.
        setup = _Setup(client, declared, folder, environment or DEFAULT_ENVIRONMENT, dry_run)
        notification_block = await _find_notification_block(client, notify) if notify else None
        async for change in register_block_types(client, dry_run=dry_run):
            yield change
        async for change in setup.check_blocks():
            yield change
        async for change in setup.make_pools(pool_type):
            yield change
        async for change in setup.make_deployments():
            yield change
        async for change in setup.make_automations(notification_block):
            yield change


@dataclass
class _Setup:
    """One set-up, and what it has found out so far."""

    client: PrefectClient
    file: DeploymentFile
    folder: Path
    environment: str
    dry_run: bool

    def __post_init__(self) -> None:
        self._flows = {item.name: load_flow(item, self.folder) for item in self.file.deployments}
        self._triggers = {item.name: parse_triggers(item) for item in self.file.deployments}
        self._ids: dict[str, UUID | None] = {}
        self._limits: dict[str, int] = {}
        self._pool_types: set[str] = set()

    async def check_blocks(self) -> AsyncIterator[Change]:
        """Look for every block that a deployment names."""
        for name in _unique(name for deployment in self.file.deployments for name in deployment.blocks()):
            change, fields = await find_saved_block(self.client, name)
            yield change
            if other := check_environment(name, fields, self.environment):
                yield other
            if limit := fields.get("concurrency_limit"):
                self._limits[limit] = fields.get("max_in_flight") or DEFAULT_IN_FLIGHT

    async def make_pools(self, kind: str | None) -> AsyncIterator[Change]:
        """Create work pools, their queues, and the limits that blocks or deployments name."""
        for pool in _unique(deployment.work_pool.name for deployment in self.file.deployments):
            change, pool_type = await ensure_work_pool(self.client, pool, kind, dry_run=self.dry_run)
            self._pool_types.add(pool_type)
            yield change
            queues = _unique(
                deployment.work_pool.work_queue_name
                for deployment in self.file.deployments
                if deployment.work_pool.name == pool
            )
            async for change in ensure_queues(self.client, pool, queues, dry_run=self.dry_run):
                yield change
        for deployment in self.file.deployments:
            if limit := deployment.environ().get(LIMIT_VARIABLE):
                self._limits.setdefault(limit, DEFAULT_IN_FLIGHT)
        for name, slots in self._limits.items():
            yield await ensure_concurrency_limit(self.client, name, slots, dry_run=self.dry_run)

    async def make_deployments(self) -> AsyncIterator[Change]:
        """Create or update every deployment."""
        for deployment in self.file.deployments:
            change, self._ids[deployment.name] = await ensure_deployment(
                self.client, deployment, self._flows[deployment.name], self.file.pull, dry_run=self.dry_run
            )
            yield change

    async def make_automations(self, notification_block: UUID | None) -> AsyncIterator[Change]:
        """Create or update the deployments' triggers, the crash detectors and the alerts."""
        known = {item.name: found for item in self.file.deployments if (found := self._ids.get(item.name))}
        for name, triggers in self._triggers.items():
            for trigger in triggers:
                if name not in known:
                    # In a dry run: there is no deployment yet that it could run.
                    yield Change(kind="automation", name=str(trigger.name), outcome=Outcome.CREATED)
                    continue
                automation = build_trigger(trigger, known[name])
                yield await ensure_automation(self.client, automation, dry_run=self.dry_run)
        for detector in build_crash_detectors(self.file, list(known.values()), self.environment, self._pool_types):
            yield await ensure_automation(self.client, detector, dry_run=self.dry_run)
        for alert in build_alerts(self.environment, notification_block):
            yield await ensure_automation(
                self.client, alert, dry_run=self.dry_run, keep_actions=notification_block is None
            )


async def _find_notification_block(client: PrefectClient, name: str) -> UUID:
    """Return the id of a saved notification block.

    Raises:
        InvalidInput: There is none of that name, or it is another kind of block; nothing was changed.
    """
    slug, _, own_name = name.partition("/")
    try:
        document = await client.read_block_document_by_name(own_name, slug, include_secrets=False)
    except ObjectNotFound:
        raise InvalidInput(
            f"there is no notification block {name!r}: save it first (`prefect block create slack-webhook` shows where)"
            " and give it as type/name; nothing was changed"
        ) from None
    if document.block_schema is None or "notify" not in document.block_schema.capabilities:
        raise InvalidInput(
            f"the block {name!r} sends no notifications: give one that does, such as slack-webhook/ops; nothing was"
            " changed"
        )
    return document.id


def _unique(names: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(name for name in names if name))
