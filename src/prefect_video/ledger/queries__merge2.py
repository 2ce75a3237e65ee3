"""How long generations have taken: what the ledger knows of a provider's speed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from statistics import quantiles
from typing import Final

from sqlalchemy import select

from prefect_video.ledger.part import LedgerPart
from prefect_video.ledger.records import WorkKind, WorkTimes
from prefect_video.ledger.tables import generations

_FEWEST: Final = 5
"""Fewer generations of a kind than this tell nothing."""
_NEWEST: Final = 50
"""More are not needed, and older ones tell of a provider that may have been slower, or of ends noticed late."""


class Timings(LedgerPart):
    """What past generations tell of those to come."""

    async def work_times(
        self, provider: str, *, window: timedelta = timedelta(days=30), at_most: int = 500
    ) -> dict[WorkKind, WorkTimes]:
        """Times from submit to completion of a provider's newest generations, by kind.

        Args:
            provider: Its name; all accounts count.
            window: How far to look back.
            at_most: How many generations to look at.

        Returns:
            The kinds of which there were enough to tell.
        """
        taken: dict[WorkKind, list[float]] = {}
        columns = (generations.c.shot, generations.c.submitted_at, generations.c.completed_at)
        # By time of creation, as there is an index on it: the walk ends at the newest few hundred.
        newest = (
            select(*columns)
            .where(
                generations.c.created_at >= datetime.now(UTC) - window,
                generations.c.provider == provider,
                generations.c.submitted_at.is_not(None),
                generations.c.completed_at.is_not(None),
            )
            .order_by(generations.c.created_at.desc())
            .limit(at_most)
        )
        async with self._database.reading() as connection:
            for shot, submitted_at, completed_at in await connection.execute(newest):
                seconds = (completed_at - submitted_at).total_seconds()
                newest_of_kind = taken.setdefault(WorkKind(shot.model, shot.duration, shot.resolution), [])
                if seconds > 0 and len(newest_of_kind) < _NEWEST:
                    newest_of_kind.append(seconds)
        return {kind: _times(seconds) for kind, seconds in taken.items() if len(seconds) >= _FEWEST}


def _times(seconds: list[float]) -> WorkTimes:
    tenths = quantiles(seconds, n=10, method="inclusive")
    return WorkTimes(count=len(seconds), early_seconds=tenths[0], median_seconds=tenths[4], late_seconds=tenths[8])
