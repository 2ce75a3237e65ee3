"""Planning: what a run would buy, find and cost, without reserving or sending anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from prefect_video.durations import duration_hints
from prefect_video.errors import BudgetExceeded
from prefect_video.ledger import BudgetStanding, Entry, State
from prefect_video.ledger.budgets import Limit
from prefect_video.reports import as_number, label
from prefect_video.shots import Project
from prefect_video.steps.claiming import budgets_of
from prefect_video.steps.store_check import check_store, find_flaws, require_single_flaw
from prefect_video.studio import Studio
from prefect_video.wanting import Wanted, Way, look_up, studios_used, wanted_of

PlannedAction = Literal["generate", "cached", "under_way", "held", "over_budget"]


class RouteOption(BaseModel):
    """One account that could make a shot.

    Attributes:
        provider: Its name, as a project would name it.
        estimate_usd: What it would charge; None when the price is not known.
        seconds: How long it should take.
        changes: How the shot would have to be changed for it.
    """

    model_config = ConfigDict(frozen=True)

    provider: str
    estimate_usd: Decimal | None
    seconds: float
    changes: tuple[str, ...] = ()


class PlannedShot(BaseModel):
    """What a run would do for one take of one shot.

    Attributes:
        id: The shot's id; takes after the first add `@2`, `@3` ….
        action: `generate` it, find it `cached`, wait for one that is `under_way` (or asked for twice), leave it
            `held` for a human, or refuse it as `over_budget`.
        prompt: What is to be seen.
        duration: Seconds.
        resolution: The length of the shorter side, or the exact size.
        aspect_ratio: Width to height.
        estimate_usd: What it would cost; 0 when nothing is bought, None when the price is not known.
        provider: The account that would make it, or where the row is that there is already.
        entry_id: That row of the ledger, when it is cached, under way or held.
        uri: Where the video is, when it is cached.
        reason: Why it is held or refused.
        hints: Advice on its duration.
        changes: How it differs from what is wanted, where it is adapted.
        options: With `provider: auto`, every account that can make it, the one that would be taken first.
        refusals: With `provider: auto`, why each of the others cannot, by its name.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    action: PlannedAction
    prompt: str
    duration: int
    resolution: str
    aspect_ratio: str
    estimate_usd: Decimal | None = Decimal(0)
    provider: str = ""
    entry_id: str | None = None
    uri: str | None = None
    reason: str | None = None
    hints: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    options: tuple[RouteOption, ...] = ()
    refusals: Mapping[str, str] = {}


class Plan(BaseModel):
    """What a run of a project would do.

    Attributes:
        project: Its name.
        provider: Who would make the videos.
        shots: One line for each take of each shot.
        limits: How each budget stands now.
        refusal: Why the run would be refused as over budget; None when it would not.
    """

    model_config = ConfigDict(frozen=True)

    project: str
    provider: str
    shots: tuple[PlannedShot, ...]
    limits: tuple[BudgetStanding, ...]
    refusal: str | None = None

    @property
    def cost_usd(self) -> Decimal:
        """What would be paid, as far as prices are known."""
        return sum((shot.estimate_usd for shot in self.shots if shot.estimate_usd is not None), Decimal(0))

    @property
    def fits(self) -> bool:
        """Whether everything that is to be bought fits every limit."""
        return self.refusal is None and not any(shot.action == "over_budget" for shot in self.shots)

    def demand_fit(self) -> None:
        """Refuses a plan that a run would refuse as a whole.

        Raises:
            BudgetExceeded: The message names the limit, what is spent, reserved and asked.
        """
        if self.refusal:
            raise BudgetExceeded(f"project {self.project!r}: {self.refusal}. Nothing was sent.")

    def public(self) -> dict[str, Any]:
        """The one object that `--json` prints, with money as numbers."""
        return {
            "project": self.project,
            "provider": self.provider,
            "shots": [_public_shot(shot) for shot in self.shots],
            "limits": [_public_limit(standing) for standing in self.limits],
            "cost_usd": as_number(self.cost_usd),
            "fits": self.fits,
            "refusal": self.refusal,
        }


async def plan_project(
    studio: Studio,
    project: Project,
    *,
    others: Sequence[Studio] = (),
    refresh: bool = False,
    rebuy_missing: bool = False,
) -> Plan:
    """Works out what a run would do; reads the ledger and the store, and changes neither.

    Args:
        studio: With what the shots would be made.
        project: What would be made.
        others: Further accounts, as for `produce_project`.
        refresh: Whether what is stored would be bought again.
        rebuy_missing: Whether the store would be taken as it stands, as for `produce_project`.

    Raises:
        InvalidInput: A shot cannot be made by this provider.
        LedgerError: The ledger cannot be read.
        StoreError: The store cannot be read, or is not the one that the ledger knows.
    """
    if not (refresh or rebuy_missing):
        await check_store(studio.ledger, studio.store)
    wanted = await wanted_of(project, [studio, *others], refresh=refresh, ttl_seconds=studio.settings.ttl_seconds)
    await look_up(studio.ledger, wanted)
    await _reopen_flawed(studio, wanted, rebuy_missing)
    for one in wanted:
        one.settle()
    used = studios_used(wanted)
    limits = await _limits(used, project)
    planned = _Planned(limits=limits, fit=project.over_budget == "fit" or bool(project.fallbacks))
    shots = tuple([planned.shot(one, await _choice(one) if project.is_routed else {}) for one in wanted])
    standings = {limit.standing.name: limit.standing for held in limits.values() for limit in held}
    return Plan(
        project=project.name,
        provider=", ".join(dict.fromkeys(one.provider.name for one in used)),
        shots=shots,
        limits=tuple(standings.values()),
        refusal=planned.refusal(),
    )


async def _limits(used: Sequence[Studio], project: Project) -> dict[int, list[Limit]]:
    """The limits of each studio; one that several share is one."""
    shared: dict[str, Limit] = {}
    limits: dict[int, list[Limit]] = {}
    for studio in used:
        standings = await studio.ledger.budget_standing(
            budgets_of(studio, project), project=project.name, account=studio.provider.account.id
        )
        limits[id(studio)] = [shared.setdefault(standing.name, Limit(standing)) for standing in standings]
    return limits


@dataclass
class _Planned:
    limits: dict[int, list[Limit]]
    fit: bool
    new: dict[str, Wanted] = field(default_factory=dict)

    def shot(self, one: Wanted, choice: Mapping[str, Any]) -> PlannedShot:
        intent, way = one.intent, one.ways[0]
        if way.exists and way.row is not None:
            return _existing(way, way.row, choice)
        if intent.fingerprint in self.new:
            reason = f"as shot {self.new[intent.fingerprint].shot.id!r}"
            return _planned(way, "under_way", reason=reason, **choice)
        if self.fit and (refusal := self._refusal([one])):
            return _planned(way, "over_budget", reason=refusal, **choice)
        self.new[intent.fingerprint] = one
        if self.fit:
            for limit in self.limits[id(one.route.studio)]:
                limit.add(intent)
        return _planned(
            way,
            "generate",
            estimate_usd=intent.estimate_usd,
            hints=duration_hints(intent.shot, usd_per_second=one.route.studio.provider.capabilities.usd_per_second),
            **choice,
        )

    def refusal(self) -> str | None:
        """Why all that is new does not fit together; None where what fits is made."""
        return None if self.fit or not self.new else self._refusal(list(self.new.values()))

    def _refusal(self, wanted: Sequence[Wanted]) -> str | None:
        for studio in studios_used(wanted):
            intents = [one.intent for one in wanted if one.route.studio is studio]
            for limit in self.limits[id(studio)]:
                if refusal := limit.refusal(intents):
                    return refusal
        return None


async def _reopen_flawed(studio: Studio, wanted: Sequence[Wanted], rebuy_missing: bool) -> None:
    """Counts what is stored and whose file is missing or damaged as what is yet to be fetched, as a run would."""
    ways = [way for one in wanted for way in one.ways]
    stored = {way.row.id: way.row for way in ways if way.row and way.row.state is State.STORED}
    flaws = await find_flaws(studio, stored)
    if flaws and not rebuy_missing:
        accounts = [way.intent.account for way in ways]
        await require_single_flaw(studio, stored, flaws, accounts=accounts)
    for way in ways:
        if way.row and (flaw := flaws.get(way.row.id)):
            reason = f"its stored file is {flaw}: fetched again, or made anew where the provider no longer has it"
            way.row = way.row.model_copy(update={"state": State.COMPLETED, "error_message": reason})


async def _choice(one: Wanted) -> Mapping[str, Any]:
    options = [
        RouteOption(
            provider=way.route.studio.credentials,
            estimate_usd=way.route.usd,
            seconds=round(await way.route.seconds(), 1),
            changes=way.route.changes,
        )
        for way in one.ways
        if not way.degraded
    ]
    return {"options": tuple(options), "refusals": one.refusals}


def _existing(way: Way, row: Entry, choice: Mapping[str, Any]) -> PlannedShot:
    if row.state is State.STORED and row.asset:
        return _planned(way, "cached", entry_id=row.id, uri=row.asset.uri, **choice)
    action: PlannedAction = "held" if row.attention else "under_way"
    reason = row.error_message if row.is_reopened else row.attention
    return _planned(way, action, entry_id=row.id, reason=reason, **choice)


def _planned(way: Way, action: PlannedAction, **more: Any) -> PlannedShot:
    shot = way.route.shot
    return PlannedShot(
        id=label(way.intent),
        action=action,
        prompt=shot.prompt,
        duration=shot.duration,
        resolution=shot.size or shot.resolution,
        aspect_ratio=shot.aspect_ratio,
        provider=way.row.credentials if way.exists and way.row else way.route.studio.credentials,
        changes=way.route.changes,
        **more,
    )


def _public_shot(shot: PlannedShot) -> dict[str, Any]:
    options = [
        {**option.model_dump(mode="json"), "estimate_usd": as_number(option.estimate_usd)} for option in shot.options
    ]
    return {**shot.model_dump(mode="json"), "estimate_usd": as_number(shot.estimate_usd), "options": options}


def _public_limit(standing: BudgetStanding) -> dict[str, Any]:
    return {
        "name": standing.name,
        "limit_usd": as_number(standing.budget.limit_usd),
        "limit_videos": standing.budget.limit_videos,
        "spent_usd": as_number(standing.spent_usd),
        "reserved_usd": as_number(standing.reserved_usd),
        "videos": standing.videos,
    }
