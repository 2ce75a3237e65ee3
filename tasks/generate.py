"""A whole shot in one call, for flows that are about something else."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import httpx
from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import PrefectException

from prefect_video.assets import Asset
from prefect_video.errors import ProjectFailed
from prefect_video.pipeline import ProjectReport, run_project
from prefect_video.projects import Project
from prefect_video.session import DEFAULT_PROJECT
from prefect_video.shots import Shot, as_shot
from prefect_video.tasks.cache_policy import FINGERPRINT, run_to_end
from prefect_video.tasks.lineage import record_materialized
from prefect_video.tasks.sessions import SessionRef, use_session
from prefect_video.tasks.storyboard import artifact_key, read_links, write_storyboard

logger = logging.getLogger(__name__)


def _run_name(parameters: Mapping[str, Any]) -> str:
    # Prefect's own argument: `prefect.runtime` still has the futures of parameters that are results of other tasks.
    return f"generate {parameters['project']}/{as_shot(parameters['shot']).id}"


_one_call: dict[str, Any] = {
    "cache_policy": FINGERPRINT,
    "persist_result": True,
    "result_serializer": "json",
    "task_run_name": _run_name,
}


async def _generate(
    shot: Shot | str,
    provider: str | None,
    store: str | None,
    ledger: str | None,
    project: str,
    refresh: bool,
    rebuy_missing: bool,
) -> Asset:
    single = Project(name=project, shots=(as_shot(shot),))
    async with use_session(SessionRef.from_names(provider, store, ledger)) as session:
        report = await run_project(session, single, refresh=refresh, rebuy_missing=rebuy_missing, flow_run_id=_run_id())
        asset = report.shots[0].asset
        links = await read_links(session.store, [asset]) if asset else {}
    if asset is None:
        raise ProjectFailed(report)
    record_materialized(asset)
    if _run_id() and not report.shots[0].cached:
        await _publish_artifact(report, asset, links)
    return asset


async def _publish_artifact(report: ProjectReport, asset: Asset, links: Mapping[str, str]) -> None:
    """Show a new video in the run that has made it; Prefect's API never decides about a video."""
    try:
        await acreate_markdown_artifact(
            key=artifact_key("video", asset.project, asset.shot_id), markdown=write_storyboard(report, links)
        )
    except (PrefectException, httpx.HTTPError) as error:
        logger.warning("the artifact of %s/%s could not be written: %s", asset.project, asset.shot_id, error)


@task(name="generate_video", **_one_call)
async def agenerate_video(
    shot: Shot | str,
    *,
    provider: str | None = None,
    store: str | None = None,
    ledger: str | None = None,
    project: str = DEFAULT_PROJECT,
    refresh: bool = False,
    rebuy_missing: bool = False,
) -> Asset:
    """Make one video and store it; the same shot again is found, not paid for.

    Args:
        shot: The shot, or just its prompt.
        provider: `sora`, `emulator`, `sora-credentials/name` …; by default `sora` when SORA_API_KEY is set.
        store: A folder, `s3://bucket/prefix` or `video-store/name`; by default `./videos`.
        ledger: `video-ledger/name` or a file; by default the SQLite file under Prefect's home.
        project: The folder in the store and the name in the ledger.
        refresh: Buy it again although it is stored.
        rebuy_missing: Accept the store, although videos are missing or it is another one.

    Returns:
        The stored video.

    Raises:
        InvalidInput: The shot cannot be made; nothing was sent.
        BudgetExceeded: A limit would be passed; nothing was sent.
        StoreOutage: The store is not the one that the ledger knows; nothing was sent.
        ProjectFailed: There is no video; the message says why and what to do.
    """
    return await _generate(shot, provider, store, ledger, project, refresh, rebuy_missing)


@task(name="generate_video", **_one_call)
def generate_video(
    shot: Shot | str,
    *,
    provider: str | None = None,
    store: str | None = None,
    ledger: str | None = None,
    project: str = DEFAULT_PROJECT,
    refresh: bool = False,
    rebuy_missing: bool = False,
) -> Asset:
    """Make one video and store it, as `agenerate_video` does, in flows and scripts that are not async."""
    return run_to_end(_generate(shot, provider, store, ledger, project, refresh, rebuy_missing))


def _run_id() -> str | None:
    flow_run = FlowRunContext.get()
    if flow_run and flow_run.flow_run:
        return str(flow_run.flow_run.id)
    task_run = TaskRunContext.get()
    return str(task_run.task_run.id) if task_run else None
