"""Building of a manifest from the rows of the ledger, and from what a run or a project file adds to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import urlsplit

from prefect_video.assets import Asset
from prefect_video.gallery.manifest import (
    FilmRecord,
    Manifest,
    ShotRecord,
    SpendRecord,
    TakeRecord,
    TakeStatus,
    VideoFile,
)
from prefect_video.ledger import UNFINISHED, Choice, Job, SpendRow, State
from prefect_video.projects import Project
from prefect_video.shots import Shot
from prefect_video.storage import Store

TakeKey = tuple[str, int]
"""Id of a shot, and number of a take."""

_ENDED: Final[Mapping[State, TakeStatus]] = {
    State.STORED: "stored",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
    State.EXPIRED: "failed",
    State.LOST: "failed",
    State.RELEASED: "pending",
}
_UNPAID: Final = frozenset({State.RESERVED, State.RELEASED})
_NOT_REQUESTED: Final = frozenset({"id", "prompt", "depends_on", "takes", "metadata", "model"})
_FILES: Final = frozenset({"clip", "first_frame", "last_frame"})


@dataclass(frozen=True)
class TakeOutcome:
    """Outcome of a take in the run that has just ended, which the ledger does not know in full.

    Attributes:
        status: `stored`, or why there is no video.
        asset: The stored video, which may be a copy of another project's.
        error: Why there is no video, and what to do.
        degraded: How the video differs from the request.
        chosen: Whether it was chosen among several takes; None where no choice was made.
    """

    status: TakeStatus
    asset: Asset | None = None
    error: str | None = None
    degraded: str | None = None
    chosen: bool | None = None


@dataclass(frozen=True)
class ProjectFacts:
    """Facts from which a manifest is built.

    Attributes:
        name: Name of the project.
        ledger: Identity of the ledger.
        store_id: Identity of the store.
        jobs: The project's rows, newest first.
        copies: Copies in the project's folder, each with the row of its original.
        spend: The project's sums; None where nothing was reserved.
        project: The project file; None where it is not known.
        outcomes: What the run that has just ended says.
        choices: Decisions about takes, by the ids of shots.
        film: The final cut that is in the store.
        previous: The manifest that is replaced; order, budget and shots without a row are taken from it.
    """

    name: str
    ledger: str
    store_id: str | None
    jobs: Sequence[Job]
    copies: Sequence[tuple[Job, Asset]] = ()
    spend: SpendRow | None = None
    project: Project | None = None
    outcomes: Mapping[TakeKey, TakeOutcome] = field(default_factory=dict)
    choices: Mapping[str, Choice] = field(default_factory=dict)
    film: FilmRecord | None = None
    previous: Manifest | None = None


def build_manifest(facts: ProjectFacts, store: Store, *, made_at: datetime, generator: str) -> Manifest:
    """Build the manifest of a project.

    Args:
        facts: What is known about the project.
        store: The store, for the places of files.
        made_at: The time.
        generator: Program that makes it.
    """
    builder = _Builder(facts, store)
    return Manifest(
        project=facts.name,
        made_at=made_at,
        generator=generator,
        ledger=facts.ledger,
        store=facts.store_id,
        spend=_build_spend(facts),
        film=facts.film,
        shots=tuple(builder.build_shots()),
    )


class _Builder:
    def __init__(self, facts: ProjectFacts, store: Store) -> None:
        self._facts = facts
        self._store = store
        self._rows: dict[str, dict[int, list[Job]]] = defaultdict(lambda: defaultdict(list))
        for job in facts.jobs:
            self._rows[job.shot.id][job.take].append(job)
        self._copies: dict[str, dict[int, list[tuple[Job, Asset]]]] = defaultdict(lambda: defaultdict(list))
        for job, asset in facts.copies:
            self._copies[asset.shot_id][asset.take].append((job, asset))
        self._previous = {shot.id: shot for shot in facts.previous.shots} if facts.previous else {}
        self._requested = {shot.id: shot for shot in facts.project.shots} if facts.project else {}

    def build_shots(self) -> Iterable[ShotRecord]:
        """Build all shots: those of the project in its order, then those that were removed from it."""
        first_seen = {shot_id: next(iter(takes.values()))[-1].created_at for shot_id, takes in self._rows.items()}
        recorded = sorted(first_seen, key=lambda shot_id: (first_seen[shot_id], shot_id))
        order = dict.fromkeys([*self._requested, *self._previous, *recorded, *self._copies])
        shots = [shot for shot_id in order if (shot := self._build_shot(shot_id))]
        return sorted(shots, key=lambda shot: not shot.in_project)

    def _build_shot(self, shot_id: str) -> ShotRecord | None:
        previous = self._previous.get(shot_id)
        in_project = shot_id in self._requested if self._requested else previous is None or previous.in_project
        newest = self._newest_shot(shot_id)
        if newest is None:
            # Only the manifest that is replaced knows it: no run has begun it.
            return previous if in_project else None
        numbers = {*self._rows.get(shot_id, ()), *self._copies.get(shot_id, ())}
        last = self._requested[shot_id].takes if shot_id in self._requested else max({newest.takes, *numbers})
        takes: list[TakeRecord] = []
        earlier: list[TakeRecord] = []
        for number in sorted({*numbers, *range(1, last + 1)}):
            current, others = self._build_takes(newest, number)
            (takes if number <= last else earlier).append(current)
            earlier += others
        return ShotRecord(
            id=shot_id,
            prompt=newest.prompt,
            depends_on=newest.needs,
            request=_describe_request(newest),
            in_project=in_project,
            takes=tuple(takes),
            earlier=tuple(earlier),
        )

    def _newest_shot(self, shot_id: str) -> Shot | None:
        """Return the shot as the project file has it, else as the newest row, or the original of a copy, records it."""
        if shot_id in self._requested:
            return self._requested[shot_id]
        if rows := self._rows.get(shot_id):
            return max((jobs[0] for jobs in rows.values()), key=lambda job: job.created_at).shot
        copies = next(iter(self._copies.get(shot_id, {}).values()), None)
        if copies is None:
            return None
        original, _ = copies[0]
        return original.shot.model_copy(
            update={"id": shot_id, "depends_on": (), "continue_from": None, "remix_of": None}
        )

    def _build_takes(self, shot: Shot, number: int) -> tuple[TakeRecord, list[TakeRecord]]:
        """Build the current record of a take, and its earlier versions and attempts, newest first."""
        rows = self._rows.get(shot.id, {}).get(number, [])
        copies = self._copies.get(shot.id, {}).get(number, [])
        outcome = self._facts.outcomes.get((shot.id, number))
        asset = outcome.asset if outcome else None
        current = _find_current(rows, asset)
        copy = _find_copy(copies, asset, current)
        if copy:
            record = self._describe_copy(*copy)
        elif current:
            record = self._describe_job(current, rows)
        else:
            record = TakeRecord(take=number, status="pending", prompt=shot.prompt, model=shot.model)
        choice = self._facts.choices.get(shot.id)
        if choice and choice.take is not None and choice.prompt == shot.prompt:
            record = record.model_copy(update={"chosen": choice.take == number})
        if outcome:
            record = _with_outcome(record, outcome)
        others = [
            self._describe_job(job, [job])
            for job in rows
            if (copy or job is not current) and (job.sent_at or job.asset) and job.state is not State.RELEASED
        ]
        others += [self._describe_copy(*other) for other in copies if other is not copy]
        return record, others

    def _describe_job(self, job: Job, rows: Sequence[Job]) -> TakeRecord:
        sent = [row for row in rows if row.fingerprint == job.fingerprint and row.state not in _UNPAID]
        status = _read_status(job)
        return TakeRecord(
            take=job.take,
            status=status,
            prompt=job.shot.prompt,
            provider=job.provider,
            model=job.shot.model,
            generation_id=job.generation_id,
            job_id=job.id,
            fingerprint=job.fingerprint,
            attempts=len(sent),
            cost_usd=_add_costs(sent),
            reserved_at=job.created_at,
            sent_at=job.sent_at,
            completed_at=job.completed_at,
            error=None if status in ("stored", "in_flight", "pending") else job.error_message,
            remedy=job.hold_reason,
            video=self._describe_video(job.asset) if job.asset and job.state is State.STORED else None,
        )

    def _describe_copy(self, job: Job, asset: Asset) -> TakeRecord:
        record = self._describe_job(job, [job])
        origin = f"a copy of {job.project}/{job.shot.id}: paid once, there"
        video = self._describe_video(asset.model_copy(update={"notes": (*asset.notes, origin)}))
        return record.model_copy(
            update={"take": asset.take, "prompt": asset.prompt, "attempts": 0, "cost_usd": Decimal(0), "video": video}
        )

    def _describe_video(self, asset: Asset) -> VideoFile:
        return VideoFile(
            path=self._place(asset.uri),
            thumbnail=self._place(asset.thumbnail_uri),
            sidecar=self._place(asset.sidecar_uri),
            stored_at=asset.created_at,
            sha256=asset.sha256,
            bytes=asset.bytes,
            duration_seconds=asset.duration_seconds,
            width=asset.width,
            height=asset.height,
            notes=asset.notes,
            quality=asset.quality.score if asset.quality else None,
            findings=tuple(finding.detail for finding in asset.quality.findings) if asset.quality else (),
            content_credentials=asset.content_credentials,
        )

    def _place(self, uri: str | None) -> str | None:
        """Return where a file lies, seen from the project's folder; None where it is not in the store."""
        if uri is None or not self._store.owns(uri):
            return None
        inside = self._store.canonical_uri(uri).removeprefix(f"{self._store.url}/")
        folder = f"{self._facts.name}/"
        return inside.removeprefix(folder) if inside.startswith(folder) else f"../{inside}"


def _read_status(job: Job) -> TakeStatus:
    # A stored video may wait for a decision too, about its cost for example; it is a video all the same.
    if job.hold_reason and job.state is not State.STORED:
        return "held"
    if job.state is State.RELEASED and job.error_message:
        # Refused when it was sent, so that nothing is owed; else not begun, as something before it has failed.
        return "failed" if job.sent_at else "skipped"
    return "in_flight" if job.state in UNFINISHED else _ENDED[job.state]


def _find_current(rows: Sequence[Job], asset: Asset | None) -> Job | None:
    """Return the row that stands for a take: that of the asset, else the best one of the newest fingerprint."""
    if asset:
        return next((job for job in rows if job.generation_id == asset.generation_id), None)
    newest = next((job for job in rows if job.state is not State.RELEASED), None)
    if newest is None:
        return rows[0] if rows else None
    same = [job for job in rows if job.fingerprint == newest.fingerprint]
    return next((job for job in same if job.state is State.STORED or job.state in UNFINISHED), newest)


def _find_copy(
    copies: Collection[tuple[Job, Asset]], asset: Asset | None, current: Job | None
) -> tuple[Job, Asset] | None:
    """Return the copy that stands for a take; None where a row of its own does."""
    if asset:
        same = (copy for copy in copies if copy[1].generation_id == asset.generation_id)
        return None if current else next(same, None)
    newest = max(copies, key=lambda copy: copy[1].created_at, default=None)
    return None if newest is None or (current and current.created_at >= newest[1].created_at) else newest


def _with_outcome(record: TakeRecord, outcome: TakeOutcome) -> TakeRecord:
    changes: dict[str, Any] = {"status": outcome.status, "degraded": outcome.degraded}
    if outcome.chosen is not None:
        changes["chosen"] = outcome.chosen
    if outcome.status != "stored":
        # The run's own words name the next step too.
        changes |= {"error": outcome.error, "remedy": None, "video": None}
    return record.model_copy(update=changes)


def _add_costs(jobs: Iterable[Job]) -> Decimal | None:
    costs = [job.cost_usd for job in jobs]
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if len(known) == len(costs) else None


def _describe_request(shot: Shot) -> dict[str, Any]:
    """Return what a shot requests besides its prompt; of references the file names only, as folders are private."""
    request = shot.model_dump(mode="json", exclude=set(_NOT_REQUESTED), exclude_none=True)
    request |= {name: _file_name(request[name]) for name in _FILES & request.keys()}
    if shot.references:
        request["references"] = [_file_name(reference) for reference in shot.references]
    return {name: value for name, value in request.items() if value not in ([], {})}


def _file_name(address: str) -> str:
    """Return the last part of a path or an address, without the parameters that may sign it."""
    return PurePath(urlsplit(address).path).name


def _build_spend(facts: ProjectFacts) -> SpendRecord:
    kept = facts.previous.spend if facts.previous else SpendRecord()
    limits = facts.project or kept
    spent = facts.spend or SpendRow(key=facts.name, videos=0, stored=0, spent_usd=Decimal(0), reserved_usd=Decimal(0))
    return SpendRecord(
        budget_usd=limits.budget_usd,
        budget_videos=limits.budget_videos,
        **spent.model_dump(include={"spent_usd", "reserved_usd", "assumed_usd", "unpriced", "videos"}),
    )
