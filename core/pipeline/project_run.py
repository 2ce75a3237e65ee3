"""Making: the shots of one run side by side, each with its dependencies, its fallbacks and its report."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from prefect_video.assets import Asset
from prefect_video.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    CircuitOpen,
    QuotaExhausted,
    VideoError,
)
from prefect_video.ledger import Claim, Intent, State
from prefect_video.pipeline.departing import Departure, Passage
from prefect_video.pipeline.reports import ShotReport, label
from prefect_video.pipeline.shot_run import InFlight, Produced, Steps, produce
from prefect_video.pipeline.steps.claim import bring_home, budgets_of, claim_shots, known_copies
from prefect_video.pipeline.wanting import Wanted, Way
from prefect_video.session.session import Studio
from prefect_video.shots import Project, Shot
from prefect_video.unbroken import to_its_end

logger = logging.getLogger(__name__)

OnReport = Callable[[ShotReport], None]

GIVE_WAY: Final = (CircuitOpen, QuotaExhausted, BudgetExceeded)
"""For these another way is tried, where nothing is owed for the first: waiting a little will not help."""


@dataclass
class Making:
    """One run of a project.

    Attributes:
        project: What is made.
        studios: The accounts that are open.
        steps_of: Makes the steps of a studio's rows.
        on_report: Told of each shot as it ends.
        departure: When the run may leave shots in flight; None to wait for all.
    """

    project: Project
    studios: Sequence[Studio]
    steps_of: Callable[[Studio], Steps]
    on_report: OnReport | None
    departure: Departure | None = None
    _copies: dict[tuple[str, str], Asset] = field(default_factory=dict, init=False)
    _ends: dict[str, list[asyncio.Task[ShotReport]]] = field(default_factory=dict, init=False)
    _refused: dict[int, AuthenticationFailed] = field(default_factory=dict, init=False)

    def steps(self, studio: Studio) -> Steps:
        """The steps of a studio's rows."""
        return self.steps_of(studio)

    async def find_copies(self, wanted: Sequence[Wanted]) -> None:
        """Looks up which hits from other projects were copied here before."""
        for studio in self.studios:
            claims = [one.claim for one in wanted if one.claim and one.route.studio is studio]
            self._copies |= await known_copies(studio, claims)

    async def all(self, wanted: Sequence[Wanted]) -> list[ShotReport]:
        """Makes everything that was claimed; reports in the same order."""
        untouched = list(wanted)
        tasks: list[asyncio.Task[ShotReport]] = []
        for one in wanted:
            passage = self.departure.passage() if self.departure else None
            task = asyncio.create_task(self._one(one, passage, untouched), name=label(one.intent))
            self._ends.setdefault(one.shot.id, []).append(task)
            tasks.append(task)
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            await to_its_end(self._stop(tasks, untouched))
            raise

    async def give_back(self, wanted: Iterable[Wanted], *, release: str | None = None) -> None:
        """Lets go of rows that nothing was done with; with a reason, what is only reserved is released."""
        for one in wanted:
            claim = one.claim
            if claim is None or claim.kind != "yours" or claim.entry is None:
                continue
            if release and claim.entry.state is State.RESERVED:
                await one.route.studio.ledger.release(claim.entry.id, release)
            else:
                await one.route.studio.ledger.let_go([claim.entry.id])

    async def _stop(self, tasks: Sequence[asyncio.Task[ShotReport]], untouched: Iterable[Wanted]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.give_back(untouched)

    async def _one(self, one: Wanted, passage: Passage | None, untouched: list[Wanted]) -> ShotReport:
        untouched.remove(one)
        try:
            report = await self._report(one, passage)
        except BaseException:
            await to_its_end(self.give_back([one]))
            raise
        finally:
            if passage:
                passage.sent()
        if self.on_report:
            self.on_report(report)
        return report

    async def _report(self, one: Wanted, passage: Passage | None) -> ShotReport:
        if missing := await self._failed_dependencies(one.shot):
            reason = f"it depends on {missing}, which failed"
            await self.give_back([one], release=reason)
            return ShotReport.failed(one.intent, VideoError(reason), status="skipped")
        if refused := self._refused.get(id(one.route.studio)):
            await self.give_back([one], release="the key was refused")
            return ShotReport.failed(one.intent, refused)
        try:
            return await self._made(one, passage)
        except VideoError as error:
            logger.error("%s/%s: %s", one.intent.project, label(one.intent), error)
            return ShotReport.failed(one.intent, error)
        except Exception as error:
            logger.exception("%s/%s: unexpected error", one.intent.project, label(one.intent))
            return ShotReport.failed(one.intent, error)

    async def _made(self, one: Wanted, passage: Passage | None) -> ShotReport:
        """Makes a take by its first way, and by the next one for as long as a provider must be given way to."""
        claim, failure = one.claim, None
        for way in one.ways:
            changes = _changes(one, way)
            if failure is not None:
                claim = await self._claim(way)
                logger.warning("%s/%s: %s; %s", self.project.name, label(way.intent), failure, "; ".join(changes))
            assert claim is not None
            try:
                return await self._by(way, claim, changes, passage)
            except GIVE_WAY as error:
                if await self._exists(way):
                    raise
                failure = error
        assert failure is not None
        raise failure

    async def _claim(self, way: Way) -> Claim:
        studio = way.route.studio
        budgets = budgets_of(studio, self.project)
        return (await claim_shots(studio, [way.intent], budgets=budgets, partial=True))[0]

    async def _exists(self, way: Way) -> bool:
        """Whether a way that failed may be owed for all the same: its row is not over, or is held."""
        return (await way.route.studio.ledger.answers([way.intent])) != [None]

    async def _by(self, way: Way, claim: Claim, changes: Sequence[str], passage: Passage | None) -> ShotReport:
        studio, intent = way.route.studio, claim.intent
        budgets = budgets_of(studio, self.project)
        try:
            produced = await produce(studio, claim, budgets=budgets, steps=self.steps(studio), passage=passage)
        except AuthenticationFailed as error:
            self._refused[id(studio)] = error
            raise
        degraded = "; ".join(changes) or None
        if isinstance(produced, InFlight):
            return ShotReport.in_flight(intent, produced).model_copy(update={"degraded": degraded})
        asset = await self._at_home(studio, produced, intent)
        return ShotReport.stored(intent, produced, asset).model_copy(update={"degraded": degraded})

    async def _at_home(self, studio: Studio, produced: Produced, intent: Intent) -> Asset:
        known = self._copies.get((produced.entry.id, intent.shot.id))
        return known or await bring_home(studio, produced.entry, produced.asset, intent)

    async def _failed_dependencies(self, shot: Shot) -> str:
        needed = [task for shot_id in shot.depends_on for task in self._ends.get(shot_id, ())]
        reports = await asyncio.gather(*(asyncio.shield(task) for task in needed))
        return ", ".join(dict.fromkeys(repr(report.id) for report in reports if report.status != "stored"))


def _changes(one: Wanted, way: Way) -> Sequence[str]:
    """How what a way makes differs from what was wanted; a fallback says itself whose it is."""
    first = one.ways[0]
    if way is first or way.degraded:
        return way.route.changes
    return (f"provider: {first.route.studio.credentials} became {way.route.studio.credentials}", *way.route.changes)
