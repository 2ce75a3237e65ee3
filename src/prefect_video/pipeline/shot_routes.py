"""Routes to a shot: the accounts that can make it, and the form that each would make.

An account that cannot make a shot is passed over; of those that can, the cheapest or the fastest goes first. An unknown
price is not a low one: such accounts come last.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from prefect_video.errors import InvalidInput, Unsupported
from prefect_video.projects import Fallback, Project
from prefect_video.providers import adapt
from prefect_video.session import Session
from prefect_video.shots import Shot

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Route:
    """A way to make a shot: an account, and the form of the shot there.

    Attributes:
        session: The account's session.
        shot: The shot in the form that is requested there.
        changes: Differences from the shot as the project has it, one sentence each.
    """

    session: Session
    shot: Shot
    changes: tuple[str, ...] = ()

    @property
    def usd(self) -> Decimal | None:
        """Expected cost of one take in USD; None where the price is not known."""
        return self.session.provider.estimate(self.shot)

    async def seconds(self) -> float:
        """Return the expected duration of one take: learned from such shots, else the provider's usual one."""
        learned = (await self.session.latency.history(self.shot)).median_seconds()
        if learned is not None:
            return learned
        least, most = self.session.provider.capabilities.seconds_per_video_second
        return self.shot.length_seconds * (least + most) / 2


async def routes_for(
    shot: Shot, project: Project, sessions: Sequence[Session]
) -> tuple[list[Route], Mapping[str, str]]:
    """Find every route to a shot, the best first, and why the other accounts cannot make it, by their names.

    Args:
        shot: The shot in the project's form.
        project: Its preference, and whether a shot may be adapted.
        sessions: The accounts to choose from.

    Raises:
        InvalidInput: None can make it; the message says why, for each.
    """
    found: list[Route] = []
    refusals: dict[str, str] = {}
    for session in sessions:
        try:
            found.append(_route(_with_own_options(shot, project, session), session, adaptable=project.adapt))
        except InvalidInput as error:
            refusals[session.credentials] = str(error)
    if not found:
        raise InvalidInput("\n".join(refusals.values()))
    if project.prefer == "fastest":
        seconds = {id(route): await route.seconds() for route in found}
        return sorted(found, key=lambda route: (len(route.changes), seconds[id(route)])), refusals
    return sorted(found, key=_price), refusals


def fallback_routes(
    shot: Shot, project: Project, routes: Sequence[Route], sessions: Sequence[Session]
) -> Iterator[Route]:
    """Yield the routes of the project's fallbacks; one that names no provider may go to every account of the shot."""
    best = routes[0].session
    for fallback in project.fallbacks:
        for route in routes if fallback.provider is None else routes[:1]:
            try:
                session = _find_session(fallback, sessions, at=route.session)
                own = _with_own_options(shot, project, session)
                yield fallback_route(own, fallback, sessions, best, at=route.session)
            except InvalidInput as error:
                logger.debug("%s/%s: a fallback does not fit: %s", project.name, shot.id, error)


def fallback_route(
    shot: Shot, fallback: Fallback, sessions: Sequence[Session], current: Session, *, at: Session
) -> Route:
    """Build the route that a fallback names.

    Args:
        shot: The shot as the project has it.
        fallback: The parts to give up.
        sessions: The accounts that are open, by the name that the fallback may use.
        current: The account that makes the shot where nothing is given up.
        at: The account that is used where the fallback names none.

    Raises:
        InvalidInput: The account cannot make it so either, or is not open.
    """
    session = _find_session(fallback, sessions, at=at)
    given_up = fallback.model_dump(exclude={"provider"}, exclude_none=True)
    if "resolution" in given_up:
        # An exact size would win over it.
        given_up["size"] = None
    changed = {name: value for name, value in given_up.items() if value != getattr(shot, name)}
    changes = tuple(f"{name}: {getattr(shot, name)!r} became {value!r}" for name, value in changed.items())
    if session is not current:
        changes = (f"provider: {current.credentials} became {session.credentials}", *changes)
    if not changes:
        raise Unsupported(f"shot {shot.id!r}: this fallback gives nothing up")
    route = _route(shot.model_copy(update=changed), session, adaptable=False)
    return Route(session, route.shot, changes)


def check_option_names(project: Project, sessions: Sequence[Session]) -> None:
    """Reject options for a provider that makes no shot of the project: their name may be misspelled.

    Raises:
        InvalidInput: The message names shot and provider.
    """
    if not project.has_options_by_provider:
        return
    known = sorted({session.provider.name for session in sessions})
    problems = [
        f"shot {shot.id!r}: options: {name!r} is no provider of this project; it has {', '.join(known)}"
        for shot in project.shots
        for name in shot.options
        if name not in known
    ]
    if problems:
        raise InvalidInput("\n".join(problems))


def _find_session(fallback: Fallback, sessions: Sequence[Session], *, at: Session) -> Session:
    """Return the account that a fallback names; `at` where it names none."""
    if fallback.provider is None:
        return at
    named = [candidate for candidate in sessions if candidate.credentials == fallback.provider]
    if not named:
        raise InvalidInput(f"fallback: provider {fallback.provider!r} is not open")
    return named[0]


def _with_own_options(shot: Shot, project: Project, session: Session) -> Shot:
    """Return the shot with the options of an account's provider, where the project has them by provider."""
    if not (shot.options and project.has_options_by_provider):
        return shot
    return shot.model_copy(update={"options": shot.options.get(session.provider.name, {})})


def _route(shot: Shot, session: Session, *, adaptable: bool) -> Route:
    try:
        session.provider.check(shot)
        return Route(session, shot)
    except Unsupported:
        if not adaptable:
            raise
    adapted, changes = adapt(shot, session.provider.capabilities_for(shot))
    session.provider.check(adapted)
    return Route(session, adapted, tuple(changes))


def _price(route: Route) -> tuple[int, bool, Decimal]:
    usd = route.usd
    return len(route.changes), usd is None, usd or Decimal(0)
