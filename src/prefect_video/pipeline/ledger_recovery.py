"""Recovery of a ledger: jobs for all that sidecars and the providers' lists prove to be paid, after an old backup.

Nothing is sent or bought, and nothing that a job says already is changed, so it can be repeated at any time. What
cannot be proven is reported and left to a human.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_video.errors import InvalidTransition, ProviderError
from prefect_video.fingerprints import fingerprint
from prefect_video.generations import Generation, Status
from prefect_video.ledger import (
    HoldReason,
    Job,
    JobRequest,
    State,
    hold_message,
    job_from_values,
    row_from_request,
)
from prefect_video.pipeline.reports import as_number
from prefect_video.pipeline.steps.adopt import (
    StoredVideo,
    list_folder,
    read_videos,
    relocate_asset,
    sidecars_of,
)
from prefect_video.pipeline.steps.adopt_rejected import find_unknown, held_job, read_all_kept
from prefect_video.pipeline.steps.labels import Labels
from prefect_video.pipeline.steps.store_identity import require_root
from prefect_video.session import Session
from prefect_video.shots import Shot
from prefect_video.storage import KeptVideo, LedgerReference, SidecarName

logger = logging.getLogger(__name__)

RecoveryOutcome = Literal["stored", "submitted", "ended", "held", "left"]

_ENDS = {
    Status.FAILED: State.FAILED,
    Status.CANCELLED: State.CANCELLED,
    Status.EXPIRED: State.EXPIRED,
    Status.LOST: State.LOST,
}


class RecoveredJob(BaseModel):
    """Outcome for a video or generation that the ledger did not know.

    Attributes:
        outcome: A job was made that is `stored`, `submitted` (`collect` finishes it), `ended` without a video, or
            `held` for a human; or it was `left` as it is.
        source: Place that it was found at: a sidecar's URI, or `provider:generation`.
        reason: The proof; for what was left, why, and the next step.
        job_id: Id of the job.
        project: The job's project.
        shot_id: The job's shot.
        generation_id: The provider's id.
        cost_usd: Amount that counts as spent or reserved for it; None where not known.
    """

    model_config = ConfigDict(frozen=True)

    outcome: RecoveryOutcome
    source: str
    reason: str
    job_id: str | None = None
    project: str | None = None
    shot_id: str | None = None
    generation_id: str | None = None
    cost_usd: Decimal | None = None


class Recovery(BaseModel):
    """Outcome of a recovery.

    Attributes:
        ledger_id: The ledger's identity.
        dry_run: Nothing was written.
        jobs: One line for each video or generation that the ledger did not know.
        unlabelled: By account, number of listed generations that the ledger does not know and that have no labels.
    """

    model_config = ConfigDict(frozen=True)

    ledger_id: str
    dry_run: bool
    jobs: tuple[RecoveredJob, ...]
    unlabelled: dict[str, int]

    @property
    def left(self) -> tuple[RecoveredJob, ...]:
        """The lines that wait for a human."""
        return tuple(job for job in self.jobs if job.outcome in ("left", "held"))

    def public(self) -> dict[str, Any]:
        """Return the one object that `--json` prints, with money as numbers."""
        jobs = [{**job.model_dump(mode="json"), "cost_usd": as_number(job.cost_usd)} for job in self.jobs]
        return {**self.model_dump(mode="json"), "jobs": jobs}


async def recover_ledger(
    session: Session, *, others: Sequence[Session] = (), lost_ledgers: Collection[str] = (), dry_run: bool = False
) -> Recovery:
    """Add the jobs that a restored or new ledger lacks.

    Args:
        session: The ledger, the store whose sidecars are read, and an account whose list is read.
        others: Further accounts, with the same ledger and store.
        lost_ledgers: Identities of ledgers that are lost for good: this one takes over what they have paid for.
        dry_run: Read, and write nothing.

    Raises:
        LedgerError: The ledger cannot be used.
        StoreOutage: The address is a folder of a store, or one that a store lies in.
        StoreError: The store cannot be read.
    """
    work = _Recovery(session, frozenset(lost_ledgers) | {session.ledger.identity}, dry_run)
    await work.read_store()
    for account in (session, *others):
        await work.read_account(account)
    return Recovery(
        ledger_id=session.ledger.identity, dry_run=dry_run, jobs=tuple(work.jobs), unlabelled=work.unlabelled
    )


@dataclass
class _Recovery:
    session: Session
    own_ledgers: frozenset[str]
    dry_run: bool
    jobs: list[RecoveredJob] = field(default_factory=list)
    unlabelled: dict[str, int] = field(default_factory=dict)
    _accounted: set[str] = field(default_factory=set)

    async def read_store(self) -> None:
        """Adopt the videos of the store that no job knows: whole ones first, and originals before their copies."""
        store, ledger = self.session.store, self.session.ledger
        await require_root(ledger, store)
        known = {SidecarName.of(print_, job) for job, print_ in await ledger.recovery.paid_jobs()}
        videos: list[StoredVideo] = []
        kept: list[KeptVideo] = []
        for folder in await store.folders():
            files = await list_folder(store, folder)
            unknown = {uri: name for uri, name in sidecars_of(files).items() if name not in known}
            videos += await read_videos(store, unknown, files)
            kept += await read_all_kept(store, files)
        for video in sorted(videos, key=lambda video: (not video.is_whole, _is_copy(video), video.uri)):
            await self._adopt_video(video)
        for rejected in await find_unknown(self.session.ledger, kept):
            await self._adopt_kept(rejected)

    async def read_account(self, account: Session) -> None:
        """Adopt the generations on an account's list that bear this product's labels and are in no job."""
        try:
            listed = [generation async for generation in account.provider.list()]
            known = {
                job.generation_id
                for job in await self.session.ledger.recovery.find_paid((), [generation.id for generation in listed])
            }
            for generation in listed:
                if generation.id not in known | self._accounted:
                    await self._adopt_generation(account, await account.provider.retrieve(generation.id))
        except ProviderError as error:
            self._leave(
                account.provider.account.id,
                f"its generations cannot be read ({error}); what is in flight or unstored there is not recovered: run"
                " again, or look at the provider's console",
            )

    async def _adopt_video(self, video: StoredVideo) -> None:
        if video.sidecar is None:
            return self._leave(video.uri, "the sidecar cannot be read: restore it from a backup, or remove the video")
        reference, asset = video.sidecar.ledger, video.sidecar.asset
        if reference is not None and reference.id not in self.own_ledgers:
            return self._leave(
                video.uri,
                f"ledger {reference.id} has paid for it; if that ledger is lost, run again with"
                f" --lost-ledger {reference.id}",
                generation_id=asset.generation_id,
            )
        names = [reference.job] if reference else []
        known = await self.session.ledger.recovery.find_paid(names, [asset.generation_id])
        if asset.generation_id in self._accounted or any(job.generation_id for job in known):
            return None
        if not video.is_whole and asset.origin == "by hand":
            return self._leave(video.uri, "its file, made by hand, is missing or cut: adopt the clip again")
        if not video.is_whole and reference is None:
            return self._leave(video.uri, "its video is missing or cut, and it names no job to fetch it again for")
        try:
            job = _job_of_video(self.session, video)
        except ValidationError as error:
            return self._leave(video.uri, f"it describes no shot that could be requested ({error.errors()[0]['msg']})")
        if video.is_whole:
            return await self._adopt(job, "stored", video.uri, "its sidecar and its video are in the store")
        return await self._adopt(job, "submitted", video.uri, "its sidecar is in the store, its video is to be fetched")

    async def _adopt_kept(self, video: KeptVideo) -> None:
        draft, reference = video.draft, video.draft.ledger
        assert reference is not None
        if draft.generation_id in self._accounted:
            return None
        if reference.id not in self.own_ledgers:
            return self._leave(
                video.uri,
                f"ledger {reference.id} has paid for it, and it is not as requested; if that ledger is lost, run again"
                f" with --lost-ledger {reference.id}",
                generation_id=draft.generation_id,
            )
        request = _new_request(self.session, draft.fingerprint, reference.shot, draft.take, draft.project)
        costs = {"reserved_usd": reference.reserved_usd, "actual_usd": draft.cost_usd}
        job = held_job(self.session, request, video).model_copy(update=costs | {"created_at": reference.reserved_at})
        await self._adopt(job, "held", video.uri, "it was paid, is not as requested, and is kept in the store")

    async def _adopt_generation(self, account: Session, generation: Generation) -> None:
        source = f"{generation.provider}:{generation.id}"
        labels = Labels.parse(generation.metadata)
        if labels is None:
            name = account.provider.account.id
            self.unlabelled[name] = self.unlabelled.get(name, 0) + 1
            return
        if labels.ledger is not None and labels.ledger not in self.own_ledgers:
            return self._leave(
                source,
                f"ledger {labels.ledger} has sent it; if that ledger is lost, run again with"
                f" --lost-ledger {labels.ledger}",
                generation_id=generation.id,
            )
        existing = next(iter(await self.session.ledger.jobs.get_many([labels.job])), None)
        try:
            job, exact = await self._job_of_generation(account, generation, labels, existing)
        except ValidationError as error:
            return self._leave(
                source,
                f"job {labels.job} has sent it, and its shot cannot be made out ({error.errors()[0]['msg']})",
                generation_id=generation.id,
            )
        if job.state is not State.SUBMITTED:
            return await self._adopt(job, "ended", source, f"it is {generation.status} at the provider")
        if exact:
            return await self._adopt(job, "submitted", source, "the provider's list names its job")
        return await self._adopt(job, "held", source, "the provider's list names its job only")

    async def _job_of_generation(
        self, account: Session, generation: Generation, labels: Labels, existing: Job | None
    ) -> tuple[Job, bool]:
        """Build the job of a listed generation, and tell whether its fingerprint and environment are certain."""
        shot = existing.shot if existing else _shot_of(generation, labels)
        print_ = existing.fingerprint if existing else labels.fingerprint
        take = existing.take if existing else labels.take
        environment = existing.environment if existing else labels.environment
        exact = print_ is not None and environment is not None
        print_ = print_ or fingerprint(shot, provider=generation.provider, take=take)
        base = existing or _new_job(account, print_, shot, take, labels.project or "recovered", labels.job)
        state = _ENDS.get(generation.status, State.SUBMITTED)
        created_at = generation.created_at or base.created_at
        owed = None if generation.status not in account.provider.capabilities.free_outcomes else Decimal(0)
        settings = account.settings
        return base.model_copy(
            update={
                "state": state,
                "environment": environment or base.environment,
                "account": account.provider.account.id,
                "credentials": account.credentials,
                "key_fingerprint": account.provider.account.sole_key_fingerprint,
                "generation_id": generation.id,
                "reserved_usd": base.reserved_usd if existing else account.provider.estimate(shot),
                "actual_usd": None if state is State.SUBMITTED else _first_known(generation.cost_usd, owed),
                "created_at": created_at if existing is None else base.created_at,
                "sent_at": base.sent_at or created_at,
                "submitted_at": created_at,
                "deadline_at": datetime.now(UTC) + timedelta(seconds=settings.deadline_seconds),
                "error_message": generation.fault.message if generation.fault else None,
                "hold_reason": None if exact or state is not State.SUBMITTED else self._question(base, generation),
                "flow_run_id": base.flow_run_id if existing else None,
            }
        ), exact

    def _question(self, job: Job, generation: Generation) -> str:
        return hold_message(
            HoldReason.RECOVERED,
            job=job.id,
            shot=job.shot.id,
            ledger=self.session.ledger.command_option,
            generation=generation.id,
        )

    async def _adopt(self, job: Job, outcome: RecoveryOutcome, source: str, proof: str) -> None:
        assert job.generation_id is not None
        details: dict[str, Any] = {
            "job_id": job.id,
            "project": job.project,
            "shot_id": job.shot.id,
            "generation_id": job.generation_id,
        }
        if not self.dry_run:
            try:
                job = await self.session.ledger.recovery.adopt(job, f"recovered from {source}: {proof}")
            except InvalidTransition as error:
                return self._leave(source, str(error), **details)
        self._accounted.add(job.generation_id or "")
        cost = _first_known(job.actual_usd, job.reserved_usd)
        self.jobs.append(RecoveredJob(outcome=outcome, source=source, reason=proof, cost_usd=cost, **details))
        logger.info("%s/%s: recovered as %s from %s", job.project, job.shot.id, outcome, source)

    def _leave(self, source: str, reason: str, **details: Any) -> None:
        self.jobs.append(RecoveredJob(outcome="left", source=source, reason=reason, **details))
        logger.warning("not recovered: %s: %s", source, reason)


def _job_of_video(session: Session, video: StoredVideo) -> Job:
    assert video.sidecar is not None
    asset, reference = video.sidecar.asset, video.sidecar.ledger
    shot = reference.shot if reference else _shot_of_asset(video)
    project = reference.project if reference else asset.project
    base = _new_job(session, asset.fingerprint, shot, asset.take, project, reference.job if reference else None)
    made: dict[str, Any] = {
        "provider": asset.provider,
        "generation_id": asset.generation_id,
        "actual_usd": video.sidecar.cost_usd,
        "sent_at": asset.created_at,
        "submitted_at": asset.created_at,
        "created_at": reference.reserved_at if reference else asset.created_at,
        **(_reference_columns(reference) if reference else {}),
    }
    if not video.is_whole:
        limit = datetime.now(UTC) + timedelta(seconds=session.settings.deadline_seconds)
        return base.model_copy(update={**made, "state": State.SUBMITTED, "actual_usd": None, "deadline_at": limit})
    stored = {
        "state": State.STORED,
        "completed_at": asset.created_at,
        "stored_at": asset.created_at,
        "asset": relocate_asset(video),
        "quality": asset.quality,
    }
    return base.model_copy(update={**made, **stored})


def _reference_columns(reference: LedgerReference) -> dict[str, Any]:
    return {
        "environment": reference.environment,
        "account": reference.account,
        "credentials": reference.credentials,
        "key_fingerprint": reference.key_fingerprint,
        "reserved_usd": reference.reserved_usd,
    }


def _new_job(session: Session, print_: str, shot: Shot, take: int, project: str, job: str | None) -> Job:
    job_request = _new_request(session, print_, shot, take, project)
    values = row_from_request(job_request, State.SUBMITTED, 1, None, datetime.now(UTC))
    return job_from_values({**values, "id": job or values["id"]})


def _new_request(session: Session, print_: str, shot: Shot, take: int, project: str) -> JobRequest:
    return JobRequest(
        fingerprint=print_,
        shot=shot,
        take=take,
        project=project,
        provider=session.provider.name,
        account=session.provider.account.id,
        environment=session.settings.environment,
        credentials=session.credentials,
        store=session.store_name,
    )


def _shot_of_asset(video: StoredVideo) -> Shot:
    """Rebuild the shot as far as a sidecar tells that names no job; its fingerprint is in the sidecar, and counts."""
    assert video.sidecar is not None
    asset = video.sidecar.asset
    duration = min(20, max(1, round(asset.duration_seconds)))
    return Shot(id=asset.shot_id, prompt=asset.prompt, model=asset.model, duration=duration)


def _shot_of(generation: Generation, labels: Labels) -> Shot:
    """Rebuild the shot as far as a provider echoes it.

    Raises:
        ValidationError: It does not echo enough.
    """
    echoed = {
        name: value
        for name, value in generation.parameters.items()
        if name in ("duration", "aspect_ratio", "resolution") and value is not None
    }
    values = {**echoed, "id": labels.shot_id or "recovered", "prompt": generation.prompt or ""}
    return Shot.model_validate(values | ({"model": generation.model} if generation.model else {}))


def _is_copy(video: StoredVideo) -> bool:
    if video.sidecar is None or video.sidecar.ledger is None:
        return False
    asset, reference = video.sidecar.asset, video.sidecar.ledger
    return (asset.project, asset.shot_id) != (reference.project, reference.shot.id)


def _first_known(*values: Decimal | None) -> Decimal | None:
    return next((value for value in values if value is not None), None)
