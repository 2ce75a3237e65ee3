"""What a project comes to: every take of every shot, with the ways it can be made."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from prefect_video.errors import InvalidInput
from prefect_video.ledger import Claim, Entry, Intent, Ledger, State
from prefect_video.pipeline.routing import Route, degrade, routes_for
from prefect_video.pipeline.steps.claim import reference_digests, takes_of
from prefect_video.session.session import Studio
from prefect_video.shots import Project, Shot

logger = logging.getLogger(__name__)

_NAMES_SHOWN: Final = 5


@dataclass(eq=False)
class Way:
    """One way to make one take.

    Attributes:
        route: Where, and in what form.
        intent: What the ledger is asked for.
        degraded: Whether it is a fallback, which gives something up.
        row: What the ledger has for it: stored, under way or held; see `look_up`.
    """

    route: Route
    intent: Intent
    degraded: bool = False
    row: Entry | None = None

    @property
    def exists(self) -> bool:
        """Whether its row is one for this take to have, so that nothing else may be bought.

        A fallback's is while it may still be owed for, and was begun for this very shot; once it is stored, only the
        run that made it is content with it, as a later one may get what is really wanted.
        """
        if self.row is None or not self.degraded:
            return self.row is not None
        of_this_shot = (self.row.project, self.row.shot.id) == (self.intent.project, self.intent.shot.id)
        of_this_run = self.row.flow_run_id == self.intent.flow_run_id
        return of_this_shot and (self.row.state is not State.STORED or of_this_run)


@dataclass(eq=False)
class Wanted:
    """One take of one shot.

    Attributes:
        shot: As the project wants it.
        ways: How it can be made, the one to try first in front, fallbacks last.
        refusals: Why some of the accounts to choose from cannot make it, by their names.
        claim: What the ledger answered for the first way.
    """

    shot: Shot
    ways: tuple[Way, ...]
    refusals: Mapping[str, str] = field(default_factory=dict)
    claim: Claim | None = None

    @property
    def route(self) -> Route:
        """The way that is tried first."""
        return self.ways[0].route

    @property
    def intent(self) -> Intent:
        """What the ledger is asked for first."""
        return self.ways[0].intent

    def settle(self) -> None:
        """Puts the way in front that exists already, whatever its price and its provider's health are now."""
        first = min(self.ways, key=_precedence)
        self.ways = (first, *(way for way in self.ways if way is not first))


async def wanted_of(project: Project, studios: Sequence[Studio], **asking: Any) -> list[Wanted]:
    """Every take of every shot, with the ways it can be made, the best first; nothing is sent or spent.

    Args:
        project: What is wanted.
        studios: The accounts that are open; a project that is not routed uses the first.
        asking: What every intent has in common, see `takes_of`.

    Raises:
        InvalidInput: Some shots cannot be made; one line for each reason.
    """
    candidates = [one for one in studios if one.credentials in project.accounts] if project.accounts else []
    candidates = candidates if project.is_routed and candidates else list(studios[:1])
    unwell = {id(one) for one in candidates if not await _is_well(one)} if len(candidates) > 1 else set()
    problems: dict[str, list[str]] = {}
    wanted: list[Wanted] = []
    for shot in project.shots:
        try:
            routes, refusals = await routes_for(shot, project, candidates)
            # Sorting is stable: among the well, and among the others, the order stays.
            routes.sort(key=lambda route: id(route.studio) in unwell)
            fallbacks = _fallbacks(shot, project, routes, studios)
            digests = await reference_digests(shot)
        except InvalidInput as error:
            problems.setdefault(str(error).removeprefix(f"shot {shot.id!r}: "), []).append(shot.id)
            continue
        ways: list[dict[tuple[int, str], Way]] = [{} for _ in range(shot.takes)]
        for degraded, route in chain(((False, one) for one in routes), ((True, one) for one in fallbacks)):
            for same, intent in zip(ways, takes_of(route.studio, route.shot, project, digests, **asking), strict=True):
                same.setdefault((id(route.studio), intent.fingerprint), Way(route, intent, degraded))
        wanted += (Wanted(shot, tuple(same.values()), refusals) for same in ways)
    if problems:
        raise InvalidInput("\n".join(f"{_named(shots)}: {problem}" for problem, shots in problems.items()))
    return wanted


async def look_up(ledger: Ledger, wanted: Iterable[Wanted]) -> None:
    """Asks, in one go, what there is already of all ways of all takes; `Wanted.settle` then lets it decide."""
    ways = [way for one in wanted for way in one.ways]
    rows = await ledger.answers([way.intent for way in ways])
    for way, row in zip(ways, rows, strict=True):
        way.row = row


def studios_used(ways: Iterable[Wanted | Way]) -> list[Studio]:
    """The studios that some ways, or the first ways of some takes, lead to, in the order of their first shots."""
    return list({id(one.route.studio): one.route.studio for one in ways}.values())


def _fallbacks(shot: Shot, project: Project, routes: Sequence[Route], studios: Sequence[Studio]) -> Iterator[Route]:
    """What the project's fallbacks come to; one that names no provider may be made by whoever could make the shot."""
    best = routes[0].studio
    for fallback in project.fallbacks:
        for route in routes if fallback.provider is None else routes[:1]:
            try:
                yield degrade(shot, fallback, studios, best, at=route.studio)
            except InvalidInput as error:
                logger.debug("%s/%s: a fallback does not fit: %s", project.name, shot.id, error)


def _precedence(way: Way) -> tuple[int, bool]:
    """What exists goes first: a stored video, then one under way, at best where it was sent, then one that is held."""
    if not way.exists or way.row is None:
        return 3, False
    if way.row.state is State.STORED:
        return 0, False
    return 1 if way.row.attention is None else 2, way.row.account != way.intent.account


def _named(shot_ids: Sequence[str]) -> str:
    """Shots by name, the first of them where there are many."""
    if len(shot_ids) == 1:
        return f"shot {shot_ids[0]!r}"
    shown = ", ".join(map(repr, shot_ids[:_NAMES_SHOWN]))
    left = len(shot_ids) - _NAMES_SHOWN
    return f"shots {shown}" + (f" and {left} more" if left > 0 else "")


async def _is_well(studio: Studio) -> bool:
    standing = await studio.ledger.standing(studio.provider.account.id)
    return standing.breaker == "closed" and standing.quota_until is None
