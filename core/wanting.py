"""What a project comes to: every take of every shot, with the ways it can be made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from prefect_video.errors import InvalidInput
from prefect_video.ledger import Claim, Intent
from prefect_video.routing import Route, routes_for
from prefect_video.shots import Project, Shot
from prefect_video.steps.claiming import takes_of
from prefect_video.studio import Studio


@dataclass(eq=False)
class Wanted:
    """One take of one shot.

    Attributes:
        shot: As the project wants it.
        routes: The ways it can be made, the best first.
        intent: What the ledger is asked for, by the route in use.
        claim: What the ledger answered.
    """

    shot: Shot
    routes: tuple[Route, ...]
    intent: Intent
    claim: Claim | None = None

    @property
    def route(self) -> Route:
        """The way that is tried first."""
        return self.routes[0]


async def wanted_of(project: Project, studios: Sequence[Studio], **asking: Any) -> list[Wanted]:
    """Every take of every shot, with the ways it can be made, the best first; nothing is sent or spent.

    Args:
        project: What is wanted.
        studios: The accounts that are open; a project that is not routed uses the first.
        asking: What every intent has in common, see `takes_of`.

    Raises:
        InvalidInput: Some shots cannot be made; one line for each.
    """
    candidates = [one for one in studios if one.credentials in project.accounts] if project.accounts else []
    candidates = candidates if project.is_routed and candidates else list(studios[:1])
    unwell = {id(one) for one in candidates if not await _is_well(one)} if len(candidates) > 1 else set()
    problems: list[str] = []
    wanted: list[Wanted] = []
    for shot in project.shots:
        try:
            # Sorting is stable: among the well, and among the others, the order stays.
            routes = sorted(routes_for(shot, project, candidates), key=lambda route: id(route.studio) in unwell)
            for intent in await takes_of(routes[0].studio, routes[0].shot, project, **asking):
                wanted.append(Wanted(shot, tuple(routes), intent))
        except InvalidInput as error:
            problems.append(str(error))
    if problems:
        raise InvalidInput("\n".join(problems))
    return wanted


def studios_used(wanted: Iterable[Wanted]) -> list[Studio]:
    """The studios that first routes lead to, in the order of their first shots."""
    return list({id(one.route.studio): one.route.studio for one in wanted}.values())


async def _is_well(studio: Studio) -> bool:
    standing = await studio.ledger.standing(studio.provider.account.id)
    return standing.breaker == "closed" and standing.quota_until is None
