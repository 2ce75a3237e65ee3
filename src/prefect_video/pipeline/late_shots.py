"""Late shots: those that continue or remix another, whose request is known only when that one is stored.

Until then a late reservation holds their cost. As soon as the video that they continue is stored, its last frame
becomes their first, or its generation their original, and they are requested like any other shot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from prefect_video.assets import Asset
from prefect_video.errors import InvalidInput, VideoError
from prefect_video.ledger import ApprovalRequest, Choice, Job
from prefect_video.pipeline.approval import (
    apply_choices,
    approve_command,
    choose_by_policy,
    chosen_take,
    describe_overdue,
    settle_overdue,
)
from prefect_video.pipeline.reports import ShotReport, ShotStatus
from prefect_video.pipeline.routing import Parent, TakeRequest, build_take_requests
from prefect_video.pipeline.steps.job_requests import ClaimOptions
from prefect_video.pipeline.steps.last_frame import frame_address
from prefect_video.pipeline.steps.remix_original import find_original
from prefect_video.pipeline.steps.shot_images import ImageLoader
from prefect_video.projects import Project
from prefect_video.session import Session
from prefect_video.shots import Shot

logger = logging.getLogger(__name__)

_READ_AT_ONCE: Final = 8

AssetOf = Callable[[TakeRequest], Asset | None]
"""Returns the stored video of a take, as far as it is known."""


class Obstacle(Exception):
    """Signal that a take is not made in this run, for a reason that is no failure of its own.

    Attributes:
        status: Its status in the report.
        reason: The cause, and the next step.
    """

    def __init__(self, status: ShotStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def require_stored(reports: Iterable[ShotReport]) -> None:
    """Require that the shots that another depends on are stored.

    Raises:
        Obstacle: One is not.
    """
    missing = {report.id: report.status for report in reports if report.status != "stored"}
    failed = [shot_id for shot_id, status in missing.items() if status not in ("in_flight", "waiting")]
    if failed:
        raise Obstacle("skipped", f"it depends on {_names(failed)}, which failed")
    if missing:
        raise Obstacle(
            "waiting", f"it waits for {_names(missing)}, which is not stored yet: run the project again when it is"
        )


def _names(shot_ids: Iterable[str]) -> str:
    return ", ".join(map(repr, shot_ids))


def _score(report: ShotReport) -> float:
    """Return the quality of a stored take; a video that was not measured comes last."""
    return report.quality.score if report.quality else -1.0


def _group_by_shot(reports: Iterable[ShotReport]) -> dict[str, list[ShotReport]]:
    by_shot: dict[str, list[ShotReport]] = {}
    for report in reports:
        by_shot.setdefault(report.shot_id, []).append(report)
    return by_shot


def needs_approval(shot: Shot) -> bool:
    """Return True where a human decides about the stored takes of a shot."""
    return bool(shot.approve) or (shot.choose == "human" and shot.takes > 1)


def _propose(shot: Shot, reports: Sequence[ShotReport]) -> int:
    """Return the number of the take to approve where a human has no other wish."""
    stored = [report for report in reports if report.status == "stored"]
    if shot.choose == "best" and stored:
        return max(stored, key=lambda report: (_score(report), -report.take)).take
    return min((report.take for report in stored), default=1)


@dataclass
class LateShots:
    """The late shots of a run, and the decisions about the takes that they continue.

    Attributes:
        project: The project, as it was requested.
        sessions: The accounts that are open.
        options: The options that all claims of the run share.
    """

    project: Project
    sessions: Sequence[Session]
    options: ClaimOptions
    _choices: dict[str, Choice] = field(default_factory=dict, init=False)
    _requests: dict[str, ApprovalRequest] = field(default_factory=dict, init=False)
    _stored_jobs: dict[str, dict[int, str]] = field(default_factory=dict, init=False)
    _takes: dict[str, list[TakeRequest]] = field(default_factory=dict, init=False)
    _requested: Project | None = field(default=None, init=False)
    _images: ImageLoader = field(init=False)
    _readers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_READ_AT_ONCE), init=False)

    def __post_init__(self) -> None:
        self._images = ImageLoader(self.sessions[0], self.project.name, accepts_store=self.options.accepts_store)

    async def build_takes(self) -> list[TakeRequest]:
        """Build the takes of all shots that are not dropped, each with the prompt that it was given last.

        Raises:
            InvalidInput: Some shots cannot be made.
        """
        choices = await self._read_choices()
        self._requested, self._choices = apply_choices(self.project, choices)
        takes = await build_take_requests(self._requested, self.sessions, self.options, images=self._images)
        for take in takes:
            self._takes.setdefault(take.shot.id, []).append(take)
        return takes

    async def _read_choices(self) -> dict[str, Choice]:
        """Read the decisions about the project's shots; nothing where none of them has takes to decide about."""
        if not any(shot.takes > 1 or shot.choose or shot.approve for shot in self.project.shots):
            return {}
        session = self.sessions[0]
        if any(map(needs_approval, self.project.shots)):
            await settle_overdue(session.ledger, self.project.name)
            requests = await session.ledger.approvals.read(self.project.name, environment=session.settings.environment)
            self._requests = {request.shot_id: request for request in requests}
        return await session.ledger.choices.read(self.project.name, environment=session.settings.environment)

    async def find_known(self, takes: Sequence[TakeRequest], asset_of: AssetOf) -> list[TakeRequest]:
        """Turn late takes into known ones where the video that they continue or remix is stored; return these.

        One whose first frame cannot be read now stays late, and is tried again when it is its turn. One that cannot be
        made from that video gets this as its failure, and stops no other.
        """
        stored: dict[str, tuple[Shot, Asset]] = {}
        for take in takes:
            parent = self._parent_of(take.shot) if take.is_late and take.failure is None else None
            if parent and not parent.is_late and (asset := asset_of(parent)):
                stored[take.shot.id] = take.shot, asset
        found = await asyncio.gather(*(self._find_parent(shot, asset) for shot, asset in stored.values()))
        parents = {shot_id: parent for shot_id, parent in zip(stored, found, strict=True) if parent}
        known = await self._make_each_known(parents) if parents else set()
        return [take for take in takes if take.shot.id in known]

    async def _make_each_known(self, parents: Mapping[str, Parent]) -> set[str]:
        """Make known all shots that can be made from the videos of their parents; return their ids."""
        try:
            await self._make_known(parents)
        except InvalidInput as error:
            if len(parents) > 1:
                # All at once where all can be made, as nearly always; else each by itself.
                each = [await self._make_each_known({shot_id: parent}) for shot_id, parent in parents.items()]
                return set().union(*each)
            (shot_id,) = parents
            self._fail(shot_id, error)
            return set()
        return set(parents)

    def _fail(self, shot_id: str, error: InvalidInput) -> None:
        logger.warning("%s: %s", self.project.name, error)
        for take in self._takes[shot_id]:
            take.failure = error

    async def make_known(self, take: TakeRequest, asset: Asset) -> None:
        """Turn a late take into a known one, that continues or remixes a stored video.

        Raises:
            InvalidInput: It cannot be made from that video.
        """
        if take.is_late:
            await self._make_known({take.shot.id: await self._describe_parent(take.shot, asset)}, take)

    async def _describe_parent(self, shot: Shot, asset: Asset) -> Parent:
        if shot.remix_of is None:
            return Parent(asset)
        try:
            session, job = await find_original(self.sessions, asset)
        except InvalidInput as error:
            raise InvalidInput(f"shot {shot.id!r}: remix_of: {error}") from error
        return Parent(asset, session, job)

    async def _find_parent(self, shot: Shot, asset: Asset) -> Parent | None:
        if shot.continue_from is not None:
            return Parent(asset) if await self._can_read(asset) else None
        try:
            return await self._describe_parent(shot, asset)
        except InvalidInput as error:
            self._fail(shot.id, error)
            return None

    async def _can_read(self, asset: Asset) -> bool:
        if not self.sessions[0].store.owns(asset.uri):
            # It is copied into this store first, by the take that it is the video of.
            return False
        self._images.videos[frame_address(asset)] = asset
        try:
            async with self._readers:
                await self._images.load_one(frame_address(asset))
        except VideoError as error:
            logger.warning("%s/%s: its last frame cannot be read: %s", self.project.name, asset.shot_id, error)
            return False
        return True

    async def _make_known(self, parents: Mapping[str, Parent], only: TakeRequest | None = None) -> None:
        assert self._requested is not None
        self._images.videos.update((frame_address(parent.asset), parent.asset) for parent in parents.values())
        built = await build_take_requests(
            self._requested, self.sessions, self.options, parents=parents, images=self._images
        )
        for known in built:
            for take in self._takes[known.shot.id]:
                if take.number == known.number and only in (None, take):
                    take.become(known)

    async def wait_for_parent(self, shot: Shot, reports: Sequence[asyncio.Task[ShotReport]]) -> Asset:
        """Wait for the video that a shot continues or remixes: that of the take that was, or is now, chosen.

        Args:
            shot: The shot.
            reports: The running takes of that shot, in their order.

        Raises:
            Obstacle: It is not stored in this run, or a human has yet to choose.
        """
        parent_id = shot.parent or ""
        self.require_made([parent_id])
        siblings = self._takes[parent_id]
        if siblings[0].shot.choose == "first" and self._parent_of(shot) is None:
            for finished in asyncio.as_completed([asyncio.shield(report) for report in reports]):
                await finished
                if self._parent_of(shot) is not None:
                    break
        if (chosen := self._parent_of(shot)) is None:
            ended = await asyncio.gather(*(asyncio.shield(report) for report in reports))
            await self.choose_best(ended)
            # A decision about takes that continue a shot themselves is known by their fingerprints only now.
            if (chosen := self._parent_of(shot)) is None:
                require_stored(ended)
                self.require_approved([parent_id])
                raise Obstacle("waiting", f"it {shot.lineage}, of which {self._ask(parent_id)}")
        report = await asyncio.shield(reports[siblings.index(chosen)])
        require_stored([report])
        assert report.asset is not None
        return report.asset

    @property
    def chosen(self) -> dict[str, TakeRequest]:
        """The take that counts of every shot, by its id; a shot whose take is yet to be chosen has none."""
        chosen = {shot_id: self._chosen(shot_id) for shot_id in self._takes}
        return {shot_id: take for shot_id, take in chosen.items() if take is not None}

    @property
    def dropped(self) -> set[str]:
        """Ids of the shots that were dropped."""
        return {shot.id for shot in self.project.shots if self._is_dropped(shot.id)}

    @property
    def blocked(self) -> dict[str, str]:
        """Ids of the shots that depend on one that cannot be made, each with the id of that one."""
        failed = {
            shot_id
            for shot_id, takes in self._takes.items()
            if any(isinstance(take.failure, InvalidInput) for take in takes)
        }
        blocked: dict[str, str] = {}
        while more := {
            shot_id: needed
            for shot_id, takes in self._takes.items()
            for needed in takes[0].shot.needs
            if needed in failed and shot_id not in failed
        }:
            blocked |= more
            failed |= more.keys()
        return blocked

    def require_made(self, shot_ids: Iterable[str]) -> None:
        """Require that none of some shots was dropped.

        Raises:
            Obstacle: One was.
        """
        if dropped := [shot_id for shot_id in shot_ids if self._is_dropped(shot_id)]:
            raise Obstacle("skipped", f"it depends on {_names(dropped)}, which was dropped")

    def require_approved(self, shot_ids: Iterable[str]) -> None:
        """Require that some shots, which are stored, are approved where they need it.

        Raises:
            Obstacle: One is not.
        """
        for shot_id in shot_ids:
            siblings = self._takes.get(shot_id, ())
            if siblings and siblings[0].shot.approve and self._chosen(shot_id) is None:
                if self._has_failed(siblings):
                    raise Obstacle("skipped", f"it depends on {shot_id!r}, which was not approved in time")
                raise Obstacle("waiting", f"it waits for {shot_id!r}: {self._ask(shot_id)}")

    def _has_failed(self, siblings: Sequence[TakeRequest]) -> bool:
        """Return True where these very takes were not approved in time, and the shot is to fail then."""
        request = self._requests.get(siblings[0].shot.id)
        if request is None or request.on_no_answer != "fail" or not request.is_overdue(datetime.now(UTC)):
            return False
        return request.takes == self._stored_jobs.get(siblings[0].shot.id)

    async def note_stored(self, take: TakeRequest, job: Job) -> None:
        """Choose a take that is stored where the first one counts."""
        self._stored_jobs.setdefault(take.shot.id, {})[take.number] = job.id
        if take.shot.choose == "first":
            await self._choose(take, job.fingerprint)

    async def choose_best(self, reports: Sequence[ShotReport]) -> None:
        """Choose the take of best quality of each shot whose takes have all ended, where the best counts."""
        for shot_id, ended in _group_by_shot(reports).items():
            siblings = self._takes[shot_id]
            if siblings[0].shot.choose != "best" or len(siblings) == 1:
                continue
            stored = [report for report in ended if report.status == "stored"]
            if stored and not any(report.status in ("in_flight", "waiting") for report in ended):
                # Of equals the first: the order of takes decides, not that of their ends.
                best = max(stored, key=lambda report: (_score(report), -report.take))
                take = next(take for take in siblings if take.number == best.take)
                assert best.asset is not None
                await self._choose(take, best.asset.fingerprint)

    async def _choose(self, take: TakeRequest, fingerprint: str) -> None:
        siblings = self._takes[take.shot.id]
        if len(siblings) == 1 or take.shot.approve or self._chosen(take.shot.id) is not None:
            return
        self._choices[take.shot.id] = await choose_by_policy(
            take.session.ledger,
            take.shot,
            self._choices.get(take.shot.id),
            take.job_request,
            fingerprint=fingerprint,
            among=[candidate.job_request.fingerprint for sibling in siblings for candidate in sibling.candidates],
        )

    def add_decisions(self, reports: Sequence[ShotReport]) -> list[ShotReport]:
        """Add to the reports which takes were chosen, what a human is to choose, and the shots that were dropped."""
        by_shot = _group_by_shot(map(self._add_choice, reports))
        for shot in self.project.shots:
            if self._is_dropped(shot.id):
                by_choice = f"it was dropped by {self._choices[shot.id].decided_by}"
                by_shot[shot.id] = [
                    ShotReport(
                        id=shot.id,
                        status="dropped",
                        error=by_choice,
                        shot_id=shot.id,
                        prompt=shot.prompt,
                        metadata=shot.metadata,
                    )
                ]
        return [report for shot in self.project.shots for report in by_shot.get(shot.id, ())]

    def _add_choice(self, report: ShotReport) -> ShotReport:
        siblings = self._takes[report.shot_id]
        is_chosen_among = siblings[0].shot.choose is not None and len(siblings) > 1
        if siblings[0].is_late or not (siblings[0].shot.approve or is_chosen_among):
            return report
        if (chosen := self._chosen(report.shot_id)) is not None:
            return report.model_copy(update={"choice": "chosen" if chosen.number == report.take else "rejected"})
        if needs_approval(siblings[0].shot) and report.status == "stored":
            if self._has_failed(siblings):
                error = f"{describe_overdue(self._requests[report.shot_id])}; to go on, {self._ask(report.shot_id)}"
                return report.model_copy(update={"status": "failed", "choice": "pending", "error": error})
            return report.model_copy(update={"choice": "pending", "error": self._ask(report.shot_id)})
        return report

    async def ask_for_approval(self, reports: Sequence[ShotReport]) -> None:
        """Record in the ledger which shots wait for a human now that all their takes have ended."""
        asked_at, session, policy = datetime.now(UTC), self.sessions[0], self.project.approval
        within = policy.within_hours
        by_shot = _group_by_shot(reports)
        requests = []
        for shot_id, siblings in self._takes.items():
            stored = self._stored_jobs.get(shot_id)
            ended = by_shot.get(shot_id, [])
            is_open = any(report.status in ("in_flight", "waiting") for report in ended)
            if not needs_approval(siblings[0].shot) or is_open or not stored or self._chosen(shot_id) is not None:
                continue
            requests.append(
                ApprovalRequest(
                    environment=session.settings.environment,
                    project=self.project.name,
                    shot_id=shot_id,
                    takes=stored,
                    proposed=_propose(siblings[0].shot, ended),
                    asked_at=asked_at,
                    due_at=None if within is None else asked_at + timedelta(hours=within),
                    on_no_answer=policy.on_no_answer,
                )
            )
        relevant = [shot.id for shot in self.project.shots if needs_approval(shot)]
        if relevant or self._requests:
            await session.ledger.approvals.ask(
                self.project.name, requests, relevant=relevant, environment=session.settings.environment
            )

    def _ask(self, shot_id: str) -> str:
        ledger, siblings = self.sessions[0].ledger, self._takes[shot_id]
        if len(siblings) == 1:
            return f"waiting for approval: {approve_command(ledger, self.project.name, shot_id, '--yes')}"
        return f"a take is to be chosen: {approve_command(ledger, self.project.name, shot_id, '--take', 'N')}"

    def _parent_of(self, shot: Shot) -> TakeRequest | None:
        return self._chosen(shot.parent or "")

    def _chosen(self, shot_id: str) -> TakeRequest | None:
        """Return the take of a shot that counts; None where it is yet to be chosen, or the shot was dropped."""
        siblings = self._takes.get(shot_id, ())
        if not siblings or (len(siblings) == 1 and not siblings[0].shot.approve):
            return next(iter(siblings), None)
        fingerprints = {
            take.number: {candidate.job_request.fingerprint for candidate in take.candidates} for take in siblings
        }
        number = chosen_take(siblings[0].shot, self._choices.get(shot_id), fingerprints)
        return next((take for take in siblings if take.number == number), None)

    def _is_dropped(self, shot_id: str) -> bool:
        return shot_id in self._choices and self._choices[shot_id].is_dropped
