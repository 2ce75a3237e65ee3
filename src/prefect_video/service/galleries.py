"""Galleries of a service's projects: written once a sweep for all the videos that it has stored in between."""

from __future__ import annotations

import logging
from typing import Final

from prefect_video.errors import LedgerError
from prefect_video.ledger import Job, State
from prefect_video.pipeline import refresh_gallery
from prefect_video.session import Session

logger = logging.getLogger(__name__)

_LARGEST_PROJECT: Final = 2_000
"""Jobs of a project up to which its page is made inside of a service: a larger one would hold up the answers."""

_LASTING: Final = frozenset({State.STORED, State.FAILED, State.CANCELLED, State.EXPIRED, State.LOST})


class StaleGalleries:
    """Projects whose pages are behind their jobs."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str], Session] = {}

    def note_collected(self, session: Session, job: Job) -> None:
        """Note that a job was collected: where it has ended, the page of its project is behind."""
        if job.state in _LASTING or job.hold_reason:
            self._sessions[session.store_name, job.project] = session

    async def refresh(self) -> None:
        """Write each page that is behind; that of a very large project is left to the command `gallery`."""
        while self._sessions:
            (_, project), session = self._sessions.popitem()
            try:
                jobs = await session.ledger.jobs.count(project)
            except LedgerError as error:
                logger.warning("%s: its page is not written now: %s", project, error)
                continue
            if jobs <= _LARGEST_PROJECT:
                await refresh_gallery(session, project)
