"""Artifacts of a run in Prefect: a table of its shots, its progress, links to its videos.

None of their requests is on the path of a shot.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self
from uuid import UUID

import httpx
from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException

from prefect_video._clean_text import clean_text
from prefect_video.ledger import PRICE_UNKNOWN
from prefect_video.pipeline import ProjectReport, ShotReport
from prefect_video.projects import Project
from prefect_video.tasks import artifact_key, write_storyboard

logger = logging.getLogger(__name__)

API_ERRORS: Final = (PrefectException, httpx.HTTPError)
"""Errors of Prefect's client when the API cannot be reached or refuses."""

PAUSE_SECONDS: Final = 1.0
"""Least time between two writes of the progress; only the last one, when the run ends, does not wait for it."""


class Progress:
    """A progress artifact that follows a project's shots; made with the first shot that is not cached.

    An artifact that cannot be written is logged: Prefect's API never decides about a video.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._total = sum(shot.takes for shot in project.shots)
        self._ended = 0
        self._finished = asyncio.Event()
        self._artifact: UUID | None = None
        self._changed = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    def shot_ended(self, report: ShotReport) -> None:
        """Count a shot that has ended; the artifact is written in the background, the latest state only."""
        self._ended += 1
        if report.cached or FlowRunContext.get() is None:
            return
        self._changed.set()
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_changes(), name="progress artifact")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None:
            return
        if kind is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
            return
        # Not cancelled: an artifact whose creation is in progress would be made a second time.
        self._finished.set()
        self._changed.set()
        await self._writer

    async def _write_changes(self) -> None:
        finished, written = False, -1
        try:
            while not finished:
                await self._changed.wait()
                self._changed.clear()
                finished = self._finished.is_set()
                if written != self._ended:
                    written = self._ended
                    await self._write()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE_SECONDS):
                        await self._finished.wait()
        except API_ERRORS as error:
            # Not tried again with the next shot: the client has done so for a minute.
            logger.warning("the progress artifact could not be written: %s", error)

    async def _write(self) -> None:
        percent = 100.0 * self._ended / self._total
        if self._artifact is None:
            self._artifact = await acreate_progress_artifact(
                progress=percent, key=artifact_key("progress", self._project.name), description=self._project.name
            )
        else:
            await aupdate_progress_artifact(self._artifact, progress=percent)


async def publish_table(report: ProjectReport, links: Mapping[str, str] | None = None) -> None:
    """Write the table of a run's shots, and its storyboard with links to the videos.

    `links` are the web addresses of files by their URIs, where the store has such. Like `Progress` it never decides
    about a video: the shots are made and paid by now.
    """
    if FlowRunContext.get() is None:
        return
    try:
        await _publish_table(report, links or {})
    except API_ERRORS as error:
        logger.warning("the table of shots could not be written: %s", error)


async def _publish_table(report: ProjectReport, links: Mapping[str, str]) -> None:
    await acreate_table_artifact(
        key=artifact_key("shots", report.project),
        table=[_row(shot) for shot in report.shots],
        description=f"```\n{_as_code(report.summary())}\n```",
    )
    await acreate_markdown_artifact(
        key=artifact_key("videos", report.project),
        markdown=write_storyboard(report, links),
        description=f"Storyboard of the last run of {clean_text(report.project)}",
    )


def _as_code(text: str) -> str:
    """Return a text that stays inside of a block of code."""
    return clean_text(text, lines=True).replace("```", "` ` `")


def _row(shot: ShotReport) -> dict[str, str | int | float | None]:
    seconds = round(shot.asset.duration_seconds, 2) if shot.asset else None
    return {
        "shot": clean_text(shot.id),
        "status": "cached" if shot.cached else shot.status,
        "video": clean_text(shot.uri or ""),
        "seconds": seconds,
        "bytes": shot.bytes,
        "paid USD": str(shot.cost_usd) if shot.cost_usd is not None else PRICE_UNKNOWN,
        "error": clean_text(shot.error or ""),
    }
