"""Routing: every take of a project, with the accounts that can make it and the form that each would make."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from prefect_video.assets import Asset
from prefect_video.errors import InvalidInput, UnreadableRow
from prefect_video.fingerprints import canonical_json
from prefect_video.ledger import LATE_PREFIX, ClaimResult, Job, JobRequest, Ledger, State
from prefect_video.pipeline.shot_routes import Route, check_option_names, fallback_routes, routes_for
from prefect_video.pipeline.steps.adopt import adopt_stored
from prefect_video.pipeline.steps.job_requests import ClaimOptions, build_job_requests
from prefect_video.pipeline.steps.last_frame import frame_address
from prefect_video.pipeline.steps.manual_clips import build_clip_request
from prefect_video.pipeline.steps.shot_images import ImageFile, ImageLoader
from prefect_video.projects import Project
from prefect_video.remixes import as_remix
from prefect_video.session import Session
from prefect_video.shots import Shot

_NAMES_SHOWN: Final = 5


@dataclass(frozen=True)
class Parent:
    """Stored video that a shot continues or remixes.

    Attributes:
        asset: The video.
        session: The account at which a remix is made; None for a shot that continues it.
        job: The job that made it, likewise.
    """

    asset: Asset
    session: Session | None = None
    job: Job | None = None


@dataclass(eq=False)
class Candidate:
    """A route by which a take could be made.

    Attributes:
        route: The account, and the form of the shot there.
        job_request: The ledger's request for it, with those of the take's other candidates as alternatives.
        existing: The ledger's job for it: stored, in progress or held; set by `load_existing`.
    """

    route: Route
    job_request: JobRequest
    existing: Job | None = None

    @property
    def session(self) -> Session:
        """The account's session."""
        return self.route.session

    @property
    def has_existing_job(self) -> bool:
        """True where its job serves this take, so that nothing else may be bought."""
        return self.existing is not None and self.job_request.is_served_by(self.existing)


@dataclass(eq=False)
class TakeRequest:
    """A take of a shot, with the candidates to make it.

    Attributes:
        shot: The shot in the project's form.
        candidates: The routes to it, the first one to try in front, fallbacks last.
        refusals: Reasons why other accounts cannot make it, by their names.
        claim: The ledger's answer for the first candidate.
        is_late: It continues or remixes a shot that is not stored yet: its one candidate is that of its late
            reservation.
        failure: Why nothing may be done for it, so that it fails alone: its row in the ledger cannot be read, or it
            cannot be made from the stored video that it continues or remixes.
    """

    shot: Shot
    candidates: tuple[Candidate, ...]
    refusals: Mapping[str, str] = field(default_factory=dict)
    claim: ClaimResult | None = None
    is_late: bool = False
    failure: UnreadableRow | InvalidInput | None = None

    @property
    def number(self) -> int:
        """Number of the take, from 1."""
        return self.candidates[0].job_request.take

    @property
    def session(self) -> Session:
        """Session of the candidate that is tried first."""
        return self.candidates[0].session

    @property
    def job_request(self) -> JobRequest:
        """Request of the candidate that is tried first."""
        return self.candidates[0].job_request

    def become(self, known: TakeRequest) -> None:
        """Take over the candidates of the same take whose request is known now."""
        self.candidates, self.refusals, self.is_late = known.candidates, known.refusals, known.is_late

    @property
    def is_clip(self) -> bool:
        """True where the video is a clip that was made by hand, so that nothing is bought."""
        return self.shot.clip is not None

    def prefer_existing(self) -> None:
        """Put the candidate whose video or job exists in front, ahead of price and health of the provider."""
        self._put_first(min(self.candidates, key=_precedence))

    def prefer(self, job_request: JobRequest) -> None:
        """Put the candidate of a request in front, because its job serves the take."""
        self._put_first(self.find_candidate(job_request))

    def find_candidate(self, job_request: JobRequest) -> Candidate:
        """Return the candidate of a request."""
        wanted = (job_request.account, job_request.fingerprint)
        return next(
            candidate
            for candidate in self.candidates
            if (candidate.job_request.account, candidate.job_request.fingerprint) == wanted
        )

    def _put_first(self, first: Candidate) -> None:
        self.candidates = (first, *(candidate for candidate in self.candidates if candidate is not first))

    def changes_by(self, candidate: Candidate) -> Sequence[str]:
        """Return how a candidate's video differs from that of the first; a fallback names its account itself."""
        first = self.candidates[0]
        if candidate is first or candidate.job_request.is_fallback:
            return candidate.route.changes
        became = f"provider: {first.session.credentials} became {candidate.session.credentials}"
        return (became, *candidate.route.changes)


async def build_take_requests(
    project: Project,
    sessions: Sequence[Session],
    options: ClaimOptions,
    *,
    parents: Mapping[str, Parent] | None = None,
    images: ImageLoader | None = None,
) -> list[TakeRequest]:
    """Build every take of every shot with its candidates, the best first; nothing is sent or spent.

    Args:
        project: The shots.
        sessions: The accounts that are open; a project that is not routed uses the first.
        options: The options that all claims share.
        parents: The stored videos that shots continue or remix, by the ids of these shots: only they are built. None to
            build all, those that continue or remix a shot as late ones.
        images: Loads the images of the shots, with the last frames of these videos.

    Raises:
        InvalidInput: Some shots cannot be made; one line for each reason.
        StoreError: The store, which keeps the copies of fetched images, cannot be used.
    """
    accounts = [session for session in sessions if session.credentials in project.accounts]
    accounts = accounts if project.is_routed and accounts else list(sessions[:1])
    unhealthy = {id(account) for account in accounts if not await _is_healthy(account)} if len(accounts) > 1 else set()
    check_option_names(project, sessions)
    images = images or ImageLoader(sessions[0], project.name, accepts_store=options.accepts_store)
    problems: dict[str, list[str]] = {}
    takes: list[TakeRequest] = []
    originals = {shot.remix_of for shot in project.shots}
    for shot in project.shots:
        if parents is not None and shot.id not in parents:
            continue
        parent = (parents or {}).get(shot.id)
        try:
            if shot.clip is not None:
                takes.append(await _build_clip_take(shot, project, sessions[0], options))
                continue
            continuing = _with_parent(shot, parent)
            routes, refusals = await routes_for(continuing, project, _accounts_for(shot, originals, accounts, parent))
            # Sorting is stable: among healthy accounts, and among unhealthy ones, the order stays.
            routes.sort(key=lambda route: id(route.session) in unhealthy)
            # A remix is made where its original was, and like it: there is nothing to give up.
            fallbacks = [] if shot.remix_of else list(fallback_routes(continuing, project, routes, sessions))
            files = await images.load(shot if parent is None else continuing)
        except InvalidInput as error:
            problems.setdefault(str(error).removeprefix(f"shot {shot.id!r}: "), []).append(shot.id)
            continue
        if shot.parent and parent is None:
            takes += _late_takes(shot, project, routes[0], refusals, files, options)
            continue
        for number, candidates in enumerate(_candidates(continuing, project, routes, fallbacks, files, options), 1):
            if shot.parent:
                _use_reservation(candidates, late_fingerprint(project, shot, number))
            takes.append(TakeRequest(shot, candidates, refusals))
    if problems:
        raise InvalidInput("\n".join(f"{_name_shots(shots)}: {problem}" for problem, shots in problems.items()))
    return takes


def late_fingerprint(project: Project, shot: Shot, take: int) -> str:
    """Return the fingerprint of the late reservation for a take of a shot."""
    request = {"project": project.name, "take": take, "shot": shot.model_dump(mode="json", exclude={"metadata"})}
    return f"{LATE_PREFIX}{hashlib.sha256(canonical_json(request).encode()).hexdigest()}"


def _with_parent(shot: Shot, parent: Parent | None) -> Shot:
    """Let a shot that continues another begin with its last frame, and a remix name the generation of its original."""
    if shot.continue_from:
        return shot.model_copy(update={"first_frame": frame_address(parent.asset if parent else None)})
    if parent is None or parent.job is None:
        return shot
    return as_remix(shot, parent.job.shot, parent.asset.generation_id)


def _accounts_for(
    shot: Shot, originals: Collection[str | None], accounts: Sequence[Session], parent: Parent | None
) -> Sequence[Session]:
    """Return the accounts that may make a shot: a remix only that of its original, which only those that remix make."""
    if parent is not None and parent.session is not None:
        return [parent.session]
    if shot.id not in originals:
        return accounts
    return [account for account in accounts if account.provider.capabilities_for(shot).can_remix] or accounts


def _late_takes(
    shot: Shot,
    project: Project,
    route: Route,
    refusals: Mapping[str, str],
    images: Mapping[str, ImageFile],
    options: ClaimOptions,
) -> Iterator[TakeRequest]:
    """Build the takes of a shot whose requests are not known yet: each asks for its reservation at the best account."""
    for job_request in build_job_requests(route.session, shot, project, images, options):
        changes = {"fingerprint": late_fingerprint(project, shot, job_request.take)}
        yield TakeRequest(shot, (Candidate(route, job_request.model_copy(update=changes)),), refusals, is_late=True)


def _use_reservation(candidates: Iterable[Candidate], reservation: str) -> None:
    """Let the requests of a take use up its late reservation."""
    changes = {"reservation": reservation}
    for candidate in candidates:
        others = tuple(other.model_copy(update=changes) for other in candidate.job_request.alternatives)
        candidate.job_request = candidate.job_request.model_copy(update={**changes, "alternatives": others})


async def _build_clip_take(shot: Shot, project: Project, session: Session, options: ClaimOptions) -> TakeRequest:
    """Build the take of a clip that was made by hand: no account can or need make it."""
    request = await build_clip_request(session, shot, project, flow_run_id=options.flow_run_id)
    return TakeRequest(shot, (Candidate(Route(session, shot), request),))


def _candidates(
    shot: Shot,
    project: Project,
    routes: Iterable[Route],
    fallbacks: Iterable[Route],
    images: Mapping[str, ImageFile],
    options: ClaimOptions,
) -> list[tuple[Candidate, ...]]:
    """Build the candidates of each take; two routes that come to the same request at one account are one."""
    takes: list[dict[tuple[int, str], Candidate]] = [{} for _ in range(shot.takes)]
    for is_fallback, route in chain(((False, route) for route in routes), ((True, route) for route in fallbacks)):
        job_requests = build_job_requests(route.session, route.shot, project, images, options)
        for candidates, job_request in zip(takes, job_requests, strict=True):
            key = (id(route.session), job_request.fingerprint)
            if is_fallback or route.changes:
                changes = {"is_fallback": is_fallback, "degraded": "; ".join(route.changes) or None}
                job_request = job_request.model_copy(update=changes)
            candidates.setdefault(key, Candidate(route, job_request))
    for candidates in takes:
        _name_alternatives(candidates.values())
    return [tuple(candidates.values()) for candidates in takes]


def _name_alternatives(candidates: Collection[Candidate]) -> None:
    """Give each request those of the other candidates, so that the ledger buys only one of them."""
    if len(candidates) == 1:
        return
    job_requests = [candidate.job_request for candidate in candidates]
    for candidate in candidates:
        others = tuple(job_request for job_request in job_requests if job_request is not candidate.job_request)
        candidate.job_request = candidate.job_request.model_copy(update={"alternatives": others})


async def load_existing(ledger: Ledger, takes: Iterable[TakeRequest]) -> None:
    """Read, in one query, the jobs that exist for all candidates; `TakeRequest.prefer_existing` then uses them."""
    takes = list(takes)
    while True:
        candidates = [candidate for take in takes if take.failure is None for candidate in take.candidates]
        try:
            jobs = await ledger.jobs.find_existing([candidate.job_request for candidate in candidates])
        except UnreadableRow as error:
            mark_damaged(takes, error)
            continue
        for candidate, job in zip(candidates, jobs, strict=True):
            candidate.existing = job
        return


async def prefer_existing(ledger: Ledger, takes: Iterable[TakeRequest]) -> None:
    """Let what is stored, in progress or held decide how each take is made that can be made in several ways."""
    undecided = [take for take in takes if len(take.candidates) > 1]
    if not undecided:
        return
    await load_existing(ledger, undecided)
    if await _adopt_undecided(undecided):
        await load_existing(ledger, undecided)
    for take in undecided:
        take.prefer_existing()


async def _adopt_undecided(takes: Sequence[TakeRequest]) -> bool:
    """Adopt what the store holds of takes that no candidate has a job for; return whether one has a job now."""
    undecided = [take for take in takes if not any(candidate.has_existing_job for candidate in take.candidates)]
    candidates = [candidate for take in undecided for candidate in take.candidates]
    jobs = [
        await adopt_stored(session, [candidate.job_request for candidate in candidates if candidate.session is session])
        for session in sessions_of(candidates)
    ]
    return any(job is not None for of_session in jobs for job in of_session)


def mark_damaged(takes: Iterable[TakeRequest], error: UnreadableRow) -> None:
    """Mark the takes whose row in the ledger is damaged: each of them fails alone.

    Raises:
        UnreadableRow: It is the row of none of them.
    """
    found = [
        take
        for take in takes
        if take.failure is None
        and any(candidate.job_request.fingerprint == error.fingerprint for candidate in take.candidates)
    ]
    if not found:
        raise error
    for take in found:
        take.failure = error


def stored_asset(take: TakeRequest) -> Asset | None:
    """Return the stored video of a take whose jobs were loaded; None where it has none."""
    existing = take.candidates[0].existing
    return existing.asset if existing is not None and existing.state is State.STORED else None


def sessions_of(requests: Iterable[TakeRequest | Candidate]) -> list[Session]:
    """Return the sessions that candidates, or the first candidates of takes, lead to, in the order of their shots."""
    return list({id(request.session): request.session for request in requests}.values())


def _precedence(candidate: Candidate) -> tuple[int, bool]:
    """Order candidates: a stored video, a job in progress (best at the account it was sent with), a held job, none."""
    if not candidate.has_existing_job or candidate.existing is None:
        return 3, False
    if candidate.existing.state is State.STORED:
        return 0, False
    elsewhere = candidate.existing.account != candidate.job_request.account
    return 1 if candidate.existing.hold_reason is None else 2, elsewhere


def _name_shots(shot_ids: Sequence[str]) -> str:
    """Name shots, the first of them where there are many."""
    if len(shot_ids) == 1:
        return f"shot {shot_ids[0]!r}"
    shown = ", ".join(map(repr, shot_ids[:_NAMES_SHOWN]))
    left = len(shot_ids) - _NAMES_SHOWN
    return f"shots {shown}" + (f" and {left} more" if left > 0 else "")


async def _is_healthy(session: Session) -> bool:
    status = await session.ledger.accounts.status(session.provider.account.id)
    return status.breaker == "closed" and status.quota_until is None
