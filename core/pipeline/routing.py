"""Routing: which account makes a shot, and in what form.

An account that cannot make a shot is passed over; of those that can, the cheapest or the fastest is taken. An unknown
price is not a low one: such accounts come last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from prefect_video.errors import InvalidInput, Unsupported
from prefect_video.providers.fitting import adapt
from prefect_video.session.session import Studio
from prefect_video.shots import Fallback, Project, Shot


@dataclass(frozen=True)
class Route:
    """How one shot is made.

    Attributes:
        studio: Where.
        shot: As it is asked for there.
        changes: How it differs from what was wanted, one sentence each.
    """

    studio: Studio
    shot: Shot
    changes: tuple[str, ...] = ()

    @property
    def usd(self) -> Decimal | None:
        """What one take should cost; None when the price is not known."""
        return self.studio.provider.estimate(self.shot)

    async def seconds(self) -> float:
        """How long one take should take: as long as such shots have taken, else what the provider is known for."""
        if learned := await self.studio.times.of(self.shot):
            return learned.median_seconds
        least, most = self.studio.provider.capabilities.work_seconds_per_second
        return self.shot.length_seconds * (least + most) / 2


async def routes_for(shot: Shot, project: Project, studios: Sequence[Studio]) -> tuple[list[Route], Mapping[str, str]]:
    """Every way to make a shot, the best first, and why the other accounts cannot, by their names.

    Args:
        shot: What is wanted.
        project: Says what is preferred, and whether a shot may be adapted.
        studios: The accounts to choose from.

    Raises:
        InvalidInput: None can make it; the message says why, for each.
    """
    found: list[Route] = []
    refusals: dict[str, str] = {}
    for studio in studios:
        try:
            found.append(_route(shot, studio, adaptable=project.adapt))
        except InvalidInput as error:
            refusals[studio.credentials] = str(error)
    if not found:
        raise InvalidInput("\n".join(refusals.values()))
    if project.prefer == "fastest":
        seconds = {id(route): await route.seconds() for route in found}
        return sorted(found, key=lambda route: (len(route.changes), seconds[id(route)])), refusals
    return sorted(found, key=_price), refusals


def degrade(shot: Shot, fallback: Fallback, studios: Sequence[Studio], current: Studio, *, at: Studio) -> Route:
    """The way that a fallback names.

    Args:
        shot: As it was wanted.
        fallback: What to give up.
        studios: The accounts that are open, by the name that the fallback may use.
        current: The account that makes the shot where nothing is given up.
        at: The account that is used where the fallback names none.

    Raises:
        InvalidInput: The account cannot make it so either, or is not open.
    """
    studio = at
    if fallback.provider is not None:
        named = [one for one in studios if one.credentials == fallback.provider]
        if not named:
            raise InvalidInput(f"fallback: provider {fallback.provider!r} is not open")
        studio = named[0]
    given_up = fallback.model_dump(exclude={"provider"}, exclude_none=True)
    if "resolution" in given_up:
        # An exact size would win over it.
        given_up["size"] = None
    changed = {name: value for name, value in given_up.items() if value != getattr(shot, name)}
    said = tuple(f"{name}: {getattr(shot, name)!r} became {value!r}" for name, value in changed.items())
    if studio is not current:
        said = (f"provider: {current.credentials} became {studio.credentials}", *said)
    if not said:
        raise Unsupported(f"shot {shot.id!r}: this fallback gives nothing up")
    route = _route(shot.model_copy(update=changed), studio, adaptable=False)
    return Route(studio, route.shot, said)


def _route(shot: Shot, studio: Studio, *, adaptable: bool) -> Route:
    try:
        studio.provider.check(shot)
        return Route(studio, shot)
    except Unsupported:
        if not adaptable:
            raise
    adapted, changes = adapt(shot, studio.provider.offered(shot))
    studio.provider.check(adapted)
    return Route(studio, adapted, tuple(changes))


def _price(route: Route) -> tuple[int, bool, Decimal]:
    usd = route.usd
    return len(route.changes), usd is None, usd or Decimal(0)
