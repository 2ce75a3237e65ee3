"""Deferred projects of a service that collects: film, page and report follow the last shot, as with `collect`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prefect_video.errors import LedgerError
from prefect_video.pipeline import DeferredOutcome, complete_runs
from prefect_video.service.sessions import Sessions, open_ref
from prefect_video.session import Session, SessionNames, ref_for_job

logger = logging.getLogger(__name__)


class DeferredProjects:
    """The deferred runs of a service's ledger, completed when one of its generations has ended.

    Args:
        sessions: The sessions of the service; a run that was made with others opens its own.
        ledger_name: Name of the ledger.
        announces: Emit Prefect events, of each outcome too, as the flow `collect-generations` does.
    """

    def __init__(self, sessions: Sessions, ledger_name: str | None, *, announces: bool) -> None:
        self._sessions = sessions
        self._ledger_name = ledger_name
        self._announces = announces
        # At the start: an earlier process may have stored a last shot.
        self._is_due = True

    def note_end(self) -> None:
        """Note that a generation has ended, which may be the last of its run."""
        self._is_due = True

    async def complete(self) -> None:
        """Complete the runs of which nothing is in progress any more, if a generation has ended since the last time."""
        if not self._is_due:
            return
        self._is_due = False
        try:
            await complete_runs(self._sessions.sessions[0].ledger, self._open, on_outcome=self._report)
        except LedgerError as error:
            self._is_due = True
            logger.warning("deferred projects are not completed now, the next sweep tries again: %s", error)

    @asynccontextmanager
    async def _open(self, names: SessionNames) -> AsyncIterator[Session]:
        """Open the session of a run: one of the service's own where there is such a one."""
        for session in self._sessions.sessions:
            if (session.credentials, session.store_name) == (names.credentials, names.store):
                yield session
                return
        async with open_ref(ref_for_job(names, self._ledger_name), announces=self._announces) as session:
            yield session

    async def _report(self, outcome: DeferredOutcome) -> None:
        """Log an outcome, and announce it, unless the same was reported before."""
        if not outcome.is_news:
            return
        logger.info("%s: %s: %s", outcome.run.project.name, outcome.status, outcome.report.summary())
        if self._announces:
            # Prefect takes seconds to import, during which the service must answer.
            await asyncio.to_thread(_announce, outcome)


def _announce(outcome: DeferredOutcome) -> None:
    from prefect_video.tasks import announce_project

    announce_project(outcome)
