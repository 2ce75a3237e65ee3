"""Planning: what a run would buy, find and cost, without reserving or sending anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from prefect_video.downloads import show_source
from prefect_video.errors import BudgetExceeded, UnreadableRow
from prefect_video.film import estimate_seconds
from prefect_video.ledger import BudgetUsage, Job, Limit, Requester, State, as_number, usd_sum
from prefect_video.pipeline.late_shots import LateShots
from prefect_video.pipeline.reports import take_label
from prefect_video.pipeline.routing import (
    Candidate,
    TakeRequest,
    load_existing,
    sessions_of,
    stored_asset,
)
from prefect_video.pipeline.steps.claim import project_budgets
from prefect_video.pipeline.steps.cut_film import require_cut
from prefect_video.pipeline.steps.job_requests import ClaimOptions
from prefect_video.pipeline.steps.store_check import find_flaws, require_single_flaw
from prefect_video.pipeline.steps.store_identity import check_store, require_root
from prefect_video.pipeline.steps.whole_copies import find_whole_copies
from prefect_video.projects import Project
from prefect_video.providers import duration_hints
from prefect_video.session import Session
from prefect_video.shots import Shot

PlannedAction = Literal["generate", "cached", "clip", "in_progress", "held", "over_budget", "refused"]


class RouteOption(BaseModel):
    """An account that could make a shot.

    Attributes:
        provider: Its name, as a project would name it.
        estimate_usd: Estimated price; None where it is not known.
        seconds: Expected duration of the generation.
        changes: Changes that the shot would need for it.
    """

    model_config = ConfigDict(frozen=True)

    provider: str
    estimate_usd: Decimal | None
    seconds: float
    changes: tuple[str, ...] = ()


class PlannedShot(BaseModel):
    """A take of a shot in a plan.

    Attributes:
        id: The shot's id; takes after the first add `@2`, `@3` ….
        action: `generate` it, find it `cached`, store the `clip` that was made by hand, wait for one that is
            `in_progress` or requested twice, leave it `held` for a human, refuse it as `over_budget`, or as `refused`
            where it cannot be made from the stored video that it continues or remixes, or depends on one that cannot.
        prompt: The prompt.
        duration: Seconds.
        resolution: The length of the shorter side, or the exact size.
        aspect_ratio: Width to height.
        estimate_usd: Estimated cost; 0 where nothing is bought, None where the price is not known.
        provider: The account that would make it, or that the existing job is at.
        job_id: Id of the existing job, where it is cached, in progress or held.
        uri: Address of the video, where it is cached.
        reason: Why it is held or refused.
        hints: Advice on its duration.
        changes: How it differs from the requested video, where it is adapted.
        after: Id of the shot that it continues or remixes and whose video is not there yet: it is claimed after that
            one, within what is reserved for it at the start.
        inputs: Its frames, references, sound, watermark and options, those that it has.
        options: With `provider: auto`, every account that can make it, the preferred one first.
        refusals: With `provider: auto`, why each other account cannot make it, by its name.
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
    job_id: str | None = None
    uri: str | None = None
    reason: str | None = None
    hints: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    after: str | None = None
    inputs: Mapping[str, Any] = {}
    options: tuple[RouteOption, ...] = ()
    refusals: Mapping[str, str] = {}


class Plan(BaseModel):
    """The plan of a run: everything that it would buy, find and refuse.

    Attributes:
        project: Its name.
        provider: The providers that would make the videos.
        shots: One line for each take of each shot.
        limits: Current usage of each budget.
        refusal: Why the run would be refused as over budget; None when it would not.
        film_seconds: Length of the final cut, as far as it is known; None where the project has no `cut:`.
    """

    model_config = ConfigDict(frozen=True)

    project: str
    provider: str
    shots: tuple[PlannedShot, ...]
    limits: tuple[BudgetUsage, ...]
    refusal: str | None = None
    film_seconds: float | None = None

    @property
    def cost_usd(self) -> Decimal:
        """The amount that would be paid, as far as prices are known."""
        return sum((shot.estimate_usd for shot in self.shots if shot.estimate_usd is not None), Decimal(0))

    @property
    def later(self) -> dict[str, Decimal | None]:
        """The part of it that is claimed later, by the shot after which; None where a price is not known."""
        costs: dict[str, Decimal | None] = {}
        for shot in self.shots:
            if shot.after is not None:
                before, cost = costs.get(shot.after, Decimal(0)), shot.estimate_usd
                costs[shot.after] = None if before is None or cost is None else before + cost
        return costs

    @property
    def unpriced(self) -> int:
        """The number of videos to be bought whose price is not known; `cost_usd` leaves them out."""
        return sum(shot.action == "generate" and shot.estimate_usd is None for shot in self.shots)

    def describe_cost(self) -> str:
        """Describe the cost: `$2.40`, `at least $2.40` where some prices are not known, or `price unknown`."""
        return usd_sum(self.cost_usd, self.unpriced)

    @property
    def fits(self) -> bool:
        """True where everything that is to be bought fits every limit."""
        return self.refusal is None and not any(shot.action == "over_budget" for shot in self.shots)

    def raise_if_over_budget(self) -> None:
        """Refuse a plan that a run would refuse as a whole.

        Raises:
            BudgetExceeded: The message names the limit, and what is spent, reserved and requested.
        """
        if self.refusal:
            raise BudgetExceeded(f"project {self.project!r}: {self.refusal}. Nothing was sent.")

    def public(self) -> dict[str, Any]:
        """Return the one object that `--json` prints, with money as numbers; `film_seconds` only with a cut."""
        film = {} if self.film_seconds is None else {"film_seconds": self.film_seconds}
        return {
            "project": self.project,
            "provider": self.provider,
            "shots": [_public_shot(shot) for shot in self.shots],
            **film,
            "limits": [_public_limit(usage) for usage in self.limits],
            "cost_usd": as_number(self.cost_usd),
            "unpriced": self.unpriced,
            "later": {shot_id: as_number(cost) for shot_id, cost in self.later.items()},
            "fits": self.fits,
            "refusal": self.refusal,
        }


async def plan_project(
    session: Session,
    project: Project,
    *,
    others: Sequence[Session] = (),
    refresh: bool = False,
    rebuy_missing: bool = False,
    requester: Requester | None = None,
) -> Plan:
    """Plan a run; read the ledger and the store, and change neither.

    Args:
        session: The account that would make the shots.
        project: The shots.
        others: Further accounts, with the same ledger and store.
        refresh: Buy again what is stored.
        rebuy_missing: Accept the store, although videos are missing or it is another one.
        requester: The client of the service that would be charged.

    Raises:
        InvalidInput: A shot cannot be made by this provider.
        LedgerError: The ledger cannot be read.
        StoreError: The store cannot be read, or is not the one that the ledger knows.
    """
    await require_cut(project, session.settings)
    if refresh and not rebuy_missing:
        await require_root(session.ledger, session.store)
    elif not rebuy_missing:
        await check_store(session.ledger, session.store, session.store_name)
    options = ClaimOptions(
        refresh=refresh,
        ttl_seconds=session.settings.ttl_seconds,
        accepts_store=rebuy_missing,
        requester=requester,
    )
    late = LateShots(project, [session, *others], options)
    takes = await late.build_takes()
    found = takes
    while found:
        await _load(session, found, rebuy_missing)
        found = await late.find_known(takes, stored_asset)
    used = sessions_of(takes)
    limits = await _limits(used, project, requester)
    planner = _Planner(limits=limits, blocked=late.blocked, fit=project.over_budget == "fit" or bool(project.fallbacks))
    shots = tuple([planner.plan(take, await _choice(take) if project.is_routed else _NO_CHOICE) for take in takes])
    usages = {limit.usage.name: limit.usage for own_limits in limits.values() for limit in own_limits}
    return Plan(
        project=project.name,
        provider=", ".join(dict.fromkeys(session.provider.name for session in used)),
        shots=shots,
        limits=tuple(usages.values()),
        refusal=planner.refusal(),
        film_seconds=_film_seconds(project),
    )


async def _load(session: Session, takes: Sequence[TakeRequest], rebuy_missing: bool) -> None:
    """Read what exists of takes, and let it decide how they are made."""
    await load_existing(session.ledger, takes)
    for take in takes:
        row = take.candidates[0].existing
        if take.is_late and row and not (row.owner and await session.ledger.claims.is_owner_alive(row.owner)):
            # The reservation of a dead run counts against no limit, and is made anew.
            take.candidates[0].existing = None
    await _reopen_flawed(session, takes, rebuy_missing)
    for take in takes:
        take.prefer_existing()


def _film_seconds(project: Project) -> float | None:
    if project.cut is None:
        return None
    return estimate_seconds(project.cut, project.requested_seconds)


async def _limits(used: Sequence[Session], project: Project, requester: Requester | None) -> dict[int, list[Limit]]:
    """Read the limits of each session; a limit that several share is one object, so that it counts once."""
    shared: dict[str, Limit] = {}
    limits: dict[int, list[Limit]] = {}
    for session in used:
        usages = await session.ledger.spend.budget_usage(
            project_budgets(session, project),
            project=project.name,
            account=session.provider.account.id,
            environment=session.settings.environment,
            requester=requester,
        )
        limits[id(session)] = [shared.setdefault(usage.name, Limit(usage)) for usage in usages]
    return limits


@dataclass(frozen=True)
class _Choice:
    """The accounts that a routed take could go to, and why other accounts cannot make it."""

    options: tuple[RouteOption, ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)


_NO_CHOICE: Final = _Choice()


@dataclass
class _Planner:
    """The state of a plan: the limits, and the new takes that were counted against them."""

    limits: dict[int, list[Limit]]
    blocked: Mapping[str, str]
    fit: bool
    new: dict[str, TakeRequest] = field(default_factory=dict)

    def plan(self, take: TakeRequest, choice: _Choice) -> PlannedShot:
        """Decide what a run would do about a take, and count it against the limits."""
        job_request, first = take.job_request, take.candidates[0]
        if take.failure is not None:
            action: PlannedAction = "held" if isinstance(take.failure, UnreadableRow) else "refused"
            return _planned(first, action, choice, reason=str(take.failure))
        if first.has_existing_job and first.existing is not None:
            return _existing(first, first.existing, choice)
        if (cause := self.blocked.get(take.shot.id)) is not None:
            return _planned(first, "refused", choice, reason=f"it depends on {cause!r}, which cannot be made")
        if take.is_clip:
            return _planned(first, "clip", choice, reason=job_request.shot.clip)
        if job_request.fingerprint in self.new:
            reason = f"as shot {self.new[job_request.fingerprint].shot.id!r}"
            return _planned(first, "in_progress", choice, reason=reason)
        if self.fit and (refusal := self._refusal([take])):
            return _planned(first, "over_budget", choice, reason=refusal)
        self.new[job_request.fingerprint] = take
        if self.fit:
            for limit in self.limits[id(take.session)]:
                limit.add(job_request)
        hints = duration_hints(job_request.shot, usd_per_second=take.session.provider.capabilities.usd_per_second)
        planned = _planned(first, "generate", choice, estimate_usd=job_request.estimate_usd, hints=hints)
        return planned.model_copy(update={"after": take.shot.parent}) if take.is_late else planned

    def refusal(self) -> str | None:
        """Say why all that is new does not fit together; None where what fits is made."""
        return None if self.fit or not self.new else self._refusal(list(self.new.values()))

    def _refusal(self, takes: Sequence[TakeRequest]) -> str | None:
        for session in sessions_of(takes):
            job_requests = [take.job_request for take in takes if take.session is session]
            for limit in self.limits[id(session)]:
                if refusal := limit.violation(job_requests):
                    return refusal
        return None


async def _reopen_flawed(session: Session, takes: Sequence[TakeRequest], rebuy_missing: bool) -> None:
    """Count what is stored and whose file is missing or damaged as what is yet to be fetched, as a run would."""
    candidates = [candidate for take in takes for candidate in take.candidates if not take.is_clip]
    existing = [candidate.existing for candidate in candidates if candidate.existing]
    stored = {job.id: job for job in existing if job.state is State.STORED}
    flaws = await find_flaws(session, stored, must_reach=rebuy_missing)
    copies = await find_whole_copies(session.ledger, session.store, [stored[key] for key in flaws])
    flaws = {key: flaw for key, flaw in flaws.items() if key not in copies}
    if flaws and not rebuy_missing:
        accounts = [candidate.session.provider.account for candidate in candidates]
        await require_single_flaw(session, stored, flaws, accounts=accounts)
    for candidate in candidates:
        if candidate.existing and (flaw := flaws.get(candidate.existing.id)):
            reason = f"its stored file is {flaw}: fetched again, or made anew where the provider no longer has it"
            update = {"state": State.COMPLETED, "error_message": reason}
            candidate.existing = candidate.existing.model_copy(update=update)


async def _choice(take: TakeRequest) -> _Choice:
    options = [
        RouteOption(
            provider=candidate.session.credentials,
            estimate_usd=candidate.route.usd,
            seconds=round(await candidate.route.seconds(), 1),
            changes=candidate.route.changes,
        )
        for candidate in take.candidates
        if not candidate.job_request.is_fallback
    ]
    return _Choice(tuple(options), take.refusals)


def _existing(candidate: Candidate, job: Job, choice: _Choice) -> PlannedShot:
    if job.state is State.STORED and job.asset:
        return _planned(candidate, "cached", choice, job_id=job.id, uri=job.asset.uri)
    action: PlannedAction = "held" if job.hold_reason else "in_progress"
    reason = job.error_message if job.is_reopened else job.hold_reason
    return _planned(candidate, action, choice, job_id=job.id, reason=reason)


def _planned(
    candidate: Candidate,
    action: PlannedAction,
    choice: _Choice,
    *,
    estimate_usd: Decimal | None = Decimal(0),
    job_id: str | None = None,
    uri: str | None = None,
    reason: str | None = None,
    hints: tuple[str, ...] = (),
) -> PlannedShot:
    shot, existing = candidate.route.shot, candidate.existing
    return PlannedShot(
        id=take_label(candidate.job_request),
        action=action,
        prompt=shot.prompt,
        duration=shot.duration,
        resolution=shot.size or shot.resolution,
        aspect_ratio=shot.aspect_ratio,
        estimate_usd=estimate_usd,
        provider=existing.credentials if candidate.has_existing_job and existing else candidate.session.credentials,
        job_id=job_id,
        uri=uri,
        reason=reason,
        hints=hints,
        changes=candidate.route.changes,
        inputs=_show_inputs(shot),
        options=choice.options,
        refusals=choice.refusals,
    )


def _show_inputs(shot: Shot) -> dict[str, Any]:
    """Return the inputs of a shot without what may be secret in the URLs of its images."""
    images = {name: [show_source(image) for image in images] for name, images in shot.images.items()}
    frames = {name: shown[0] for name, shown in images.items() if name != "references"}
    return {**shot.inputs, **images, **frames}


def _public_shot(shot: PlannedShot) -> dict[str, Any]:
    options = [
        {**option.model_dump(mode="json"), "estimate_usd": as_number(option.estimate_usd)} for option in shot.options
    ]
    return {**shot.model_dump(mode="json"), "estimate_usd": as_number(shot.estimate_usd), "options": options}


def _public_limit(usage: BudgetUsage) -> dict[str, Any]:
    return {
        "name": usage.name,
        "limit_usd": as_number(usage.budget.limit_usd),
        "limit_videos": usage.budget.limit_videos,
        "spent_usd": as_number(usage.spent_usd),
        "reserved_usd": as_number(usage.reserved_usd),
        "videos": usage.videos,
        **({"unpriced": usage.unpriced} if usage.unpriced else {}),
    }
