"""Making: the shots of one run side by side, each with its dependencies, its fallbacks and its report."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from prefect_video.assets import Asset
from prefect_video.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    CircuitOpen,
    InvalidInput,
    QuotaExhausted,
    VideoError,
)
from prefect_video.ledger import Claim, Intent, State
from prefect_video.reports import ShotReport, label
from prefect_video.routing import Route, degrade
from prefect_video.shots import Project, Shot
from prefect_video.steps.claiming import bring_home, budgets_of, claim_shots, known_copies, takes_of
from prefect_video.steps.departing import Departure, Passage
from prefect_video.steps.producing import InFlight, Produced, Steps, produce
from prefect_video.studio import Studio
from prefect_video.wanting import Wanted

logger = logging.getLogger(__name__)

OnReport = Callable[[ShotReport], None]

GIVE_WAY: Final = (CircuitOpen, QuotaExhausted, BudgetExceeded)
"""For these a fallback is tried: nothing was sent, and waiting a little will not help."""


@dataclass
class Making:
    """One run of a project.

    Attributes:
        project: What is made.
        studios: The accounts that are open.
        steps_of: Makes the steps of a studio's rows.
        on_report: Told of each shot as it ends.
        asking: What every intent of this run has in common.
        departure: When the run may leave shots in flight; None to wait for all.
    """

    project: Project
    studios: Sequence[Studio]
    steps_of: Callable[[Studio], Steps]
    on_report: OnReport | None
    asking: Mapping[str, Any]
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
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.give_back(untouched)
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

    async def _one(self, one: Wanted, passage: Passage | None, untouched: list[Wanted]) -> ShotReport:
        untouched.remove(one)
        try:
            report = await self._report(one, passage)
        except BaseException:
            await self.give_back([one])
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
        except AuthenticationFailed as error:
            self._refused[id(one.route.studio)] = error
            return ShotReport.failed(one.intent, error)
        except VideoError as error:
            logger.error("%s/%s: %s", one.intent.project, label(one.intent), error)
            return ShotReport.failed(one.intent, error)
        except Exception as error:
            logger.exception("%s/%s: unexpected error", one.intent.project, label(one.intent))
            return ShotReport.failed(one.intent, error)

    async def _made(self, one: Wanted, passage: Passage | None) -> ShotReport:
        """Makes a take by its first route, and by the next one for as long as a provider must be given way to."""
        assert one.claim is not None
        try:
            return await self._by(one.route, one.claim, passage)
        except GIVE_WAY as error:
            await self._settle(one.route, one.claim)
            failure: VideoError = error
        for route in self._alternatives(one):
            intent = (await takes_of(route.studio, route.shot, self.project, **self.asking))[one.intent.take - 1]
            budgets = budgets_of(route.studio, self.project)
            (claim,) = await claim_shots(route.studio, [intent], budgets=budgets, partial=True)
            logger.warning("%s/%s: %s; %s", intent.project, label(intent), failure, "; ".join(route.changes))
            try:
                return await self._by(route, claim, passage)
            except GIVE_WAY as error:
                await self._settle(route, claim)
                failure = error
        raise failure

    def _alternatives(self, one: Wanted) -> Iterator[Route]:
        for route in one.routes[1:]:
            said = f"provider: {one.route.studio.credentials} became {route.studio.credentials}"
            yield Route(route.studio, route.shot, (said, *route.changes))
        for fallback in self.project.fallbacks:
            try:
                yield degrade(one.shot, fallback, self.studios, one.route.studio)
            except InvalidInput as error:
                logger.info("%s/%s: a fallback does not fit: %s", self.project.name, one.shot.id, error)

    async def _by(self, route: Route, claim: Claim, passage: Passage | None) -> ShotReport:
        studio, intent = route.studio, claim.intent
        budgets = budgets_of(studio, self.project)
        produced = await produce(studio, claim, budgets=budgets, steps=self.steps(studio), passage=passage)
        degraded = "; ".join(route.changes) or None
        if isinstance(produced, InFlight):
            return ShotReport.in_flight(intent, produced).model_copy(update={"degraded": degraded})
        asset = await self._at_home(studio, produced, intent)
        return ShotReport.stored(intent, produced, asset).model_copy(update={"degraded": degraded})

    async def _settle(self, route: Route, claim: Claim) -> None:
        """Releases what was reserved for a route that is given up; nothing was sent by it."""
        if claim.kind == "yours" and claim.entry is not None:
            entry = await route.studio.ledger.get(claim.entry.id)
            if entry.state is State.RESERVED:
                await route.studio.ledger.release(entry.id, "given up for another way")

    async def _at_home(self, studio: Studio, produced: Produced, intent: Intent) -> Asset:
        known = self._copies.get((produced.entry.id, intent.shot.id))
        return known or await bring_home(studio, produced.entry, produced.asset, intent)

    async def _failed_dependencies(self, shot: Shot) -> str:
        needed = [task for shot_id in shot.depends_on for task in self._ends.get(shot_id, ())]
        reports = await asyncio.gather(*(asyncio.shield(task) for task in needed))
        return ", ".join(dict.fromkeys(repr(report.id) for report in reports if report.status != "stored"))
