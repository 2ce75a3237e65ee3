"""Claiming: which shots are stored already, which are under way elsewhere, and which are ours to make."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from prefect_video.assets import Asset
from prefect_video.errors import ContentPolicyError, InvalidInput, InvalidTransition, PromptBlocked
from prefect_video.fingerprints import fingerprint
from prefect_video.ledger import UNFINISHED, Budget, ClaimOutcome, ClaimResult, Job, JobRequest, command_line
from prefect_video.pipeline.steps.adopt import adopt_stored
from prefect_video.pipeline.steps.store import asset_draft
from prefect_video.pipeline.steps.store_check import (
    accept_store,
    check_store,
    claim_store,
    find_flaws,
    require_single_flaw,
)
from prefect_video.session import Session, SessionEvent
from prefect_video.shots import Project, Shot
from prefect_video.storage import copy_video, sizes_anywhere

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClaimOptions:
    """The options that all claims of a run share.

    Attributes:
        refresh: Buy again although a stored asset exists.
        ttl_seconds: How old a stored asset may be to be the answer; None for any age.
        flow_run_id: The run that asks, within which attempts are counted.
    """

    refresh: bool = False
    ttl_seconds: float | None = None
    flow_run_id: str | None = None


async def build_project_intents(
    session: Session, project: Project, options: ClaimOptions = ClaimOptions()
) -> list[JobRequest]:
    """Build one intent for each take of each shot, in the project's order; nothing is sent or spent.

    Raises:
        InvalidInput: A shot cannot be made by this provider, or a reference cannot be read.
    """
    problems: list[str] = []
    job_requests: list[JobRequest] = []
    for shot in project.shots:
        try:
            session.provider.check(shot)
            job_requests += build_intents(session, shot, project, await reference_digests(shot), options)
        except InvalidInput as error:
            problems.append(str(error))
    if problems:
        raise InvalidInput("\n".join(problems))
    return job_requests


def build_intents(
    session: Session, shot: Shot, project: Project, digests: Mapping[str, str], options: ClaimOptions
) -> list[JobRequest]:
    """Build one intent for each take of a shot at an account that can make it.

    Args:
        session: The account's session.
        shot: The shot in the form that is requested there.
        project: The project that asks.
        digests: The digests of the shot's references, from `reference_digests`.
        options: The options that all claims of the run share.
    """
    model = session.provider.capabilities.aliases.get(shot.model)
    meant = shot if model is None else shot.model_copy(update={"model": model})
    hashed = tuple(digests[reference] for reference in shot.references)
    return [
        JobRequest(
            fingerprint=fingerprint(meant, provider=session.provider.name, take=take, reference_digests=hashed),
            shot=shot,
            take=take,
            project=project.name,
            provider=session.provider.name,
            account=session.provider.account.id,
            environment=session.settings.environment,
            credentials=session.credentials,
            store=session.store_name,
            estimate_usd=session.provider.estimate(shot),
            max_attempts=project.max_attempts,
            refresh=options.refresh,
            ttl_seconds=options.ttl_seconds,
            flow_run_id=options.flow_run_id,
            priority=project.priority,
        )
        for take in range(1, shot.takes + 1)
    ]


def project_budgets(session: Session, project: Project) -> tuple[Budget, ...]:
    """Every limit that a project's claims must keep to: the ledger's, the plan's and its own."""
    own = (
        Budget(scope="plan", limit_videos=session.provider.capabilities.monthly_videos),
        Budget(scope="project", limit_usd=project.budget_usd, limit_videos=project.budget_videos),
    )
    return (*session.budgets, *(budget for budget in own if not budget.is_empty))


async def find_assets(
    session: Session, job_requests: Sequence[JobRequest], *, rebuy_missing: bool = False, accounts: Collection[str] = ()
) -> dict[str, Asset]:
    """The stored assets for intents, by fingerprint; one query for all, and one look at the store.

    A row whose file is missing or damaged is reopened, so that a claim fetches it again from the provider, and buys it
    again only where the provider no longer has it.

    Args:
        session: Where to look.
        job_requests: What is wanted.
        rebuy_missing: Take the store as it stands, whatever is missing there; so does a refresh of everything.
        accounts: Ids of further accounts that the run has open, and can fetch videos from.

    Raises:
        StoreOutage: The store is not the one that the ledger knows, or several files are missing at once.
        StoreError: The store cannot be read.
    """
    wanted = [job_request for job_request in job_requests if not job_request.refresh]
    if rebuy_missing or not wanted:
        await accept_store(session.ledger, session.store)
    else:
        await check_store(session.ledger, session.store)
    if not wanted:
        return {}
    stored = await session.ledger.jobs.find_stored(
        [job_request.fingerprint for job_request in wanted],
        environment=session.settings.environment,
        ttl_seconds=wanted[0].ttl_seconds,
    )
    flaws = await find_flaws(session, stored)
    reachable = {session.provider.account.id, *accounts}
    if flaws and not rebuy_missing:
        await require_single_flaw(session, stored, flaws, accounts=reachable)
    for key, flaw in flaws.items():
        await _reopen(session, stored[key], flaw, can_fetch=stored[key].account in reachable)
    return {key: job.asset for key, job in stored.items() if job.asset and key not in flaws}


async def _reopen(session: Session, job: Job, flaw: str, *, can_fetch: bool) -> None:
    """Leave a row whose file is missing or damaged to a claim, which fetches it again or buys it again."""
    reason = f"its stored file was {flaw}"
    if not can_fetch or job.generation_id is None:
        logger.warning("%s/%s: %s; it is made again, as requested", job.project, job.shot.id, reason)
        await session.ledger.jobs.record_missing(job.id, reason)
        return
    logger.warning("%s/%s: %s; it is fetched again from %s", job.project, job.shot.id, reason, job.provider)
    try:
        await session.ledger.jobs.reopen_stored(job.id, reason)
    except InvalidTransition as error:
        # The same video is in progress, or another process was faster: the claim joins it.
        logger.info("%s/%s: %s", job.project, job.shot.id, error)


async def claim_shots(
    session: Session, job_requests: Sequence[JobRequest], *, budgets: Sequence[Budget], partial: bool
) -> list[ClaimResult]:
    """Claims every intent: the answer for each is stored, joined, yours, over budget or exhausted.

    Args:
        session: Where to claim.
        job_requests: What is wanted.
        budgets: Limits that must hold.
        partial: Whether shots that fit the budget are reserved although others do not.

    Raises:
        LedgerBehindStore: The ledger is an old backup, see `adopt_stored`; nothing was claimed.
        RequestRejected: The session's first read shows that the endpoint or the key is wrong; nothing was claimed.
    """
    # First, as what the store holds needs no provider.
    await adopt_stored(session, job_requests)
    await _check_access(session, job_requests)
    batch = await session.ledger.claims.claim(job_requests, budgets, partial=partial)
    for warning in batch.warnings:
        logger.warning("budget: %s", warning)
    for claim in batch.claims:
        if claim.kind is ClaimOutcome.ACQUIRED and claim.job:
            session.notify(SessionEvent.CLAIMED, claim.job)
    return list(batch.claims)


async def _check_access(session: Session, job_requests: Sequence[JobRequest]) -> None:
    """Check the session's access once, where the provider is needed: not for what is stored or held."""
    if session.access.is_done or not session.settings.check_access:
        return
    answers = await session.ledger.jobs.find_existing(job_requests)
    if any(row is None or (row.state in UNFINISHED and row.hold_reason is None) for row in answers):
        await session.access.demand()


async def screen_prompt(session: Session, job: Job) -> Job:
    """Let a reserved row pass, or release it and keep it for review; allow-listed prompts always pass.

    Raises:
        PromptBlocked: The message names the shot and the reason.
    """
    if not await session.ledger.reviews.allowed([job.fingerprint]):
        try:
            await session.screen.check(job.shot)
        except PromptBlocked as error:
            job = await session.ledger.jobs.release_reservation(job.id, error)
            session.notify(SessionEvent.ENDED, job, str(error))
            raise
    return job


async def refuse_blocked(session: Session, job: Job) -> None:
    """Release a reserved row whose prompt the provider's content policy stopped before, and keep it for review.

    A human who allows the prompt has it sent once more.

    Raises:
        ContentPolicyError: The message names the shot, the row that was stopped, and the command that allows it.
    """
    blocked = await session.ledger.reviews.blocked(job)
    if blocked is None:
        return
    ledger = session.ledger.command_option
    error = ContentPolicyError(
        f"shot {job.shot.id!r}: the content policy of {job.provider} stopped this prompt before (row {blocked.id}),"
        f" so that it is not sent. Change the prompt; see: {command_line('review', ledger=ledger)}. To send it once"
        f" more, and perhaps pay for it: {command_line('review', '--allow', job.fingerprint, ledger=ledger)}",
        provider=job.provider,
        generation_id=blocked.generation_id,
    )
    job = await session.ledger.jobs.release_reservation(job.id, error)
    session.notify(SessionEvent.ENDED, job, str(error))
    raise error


async def load_copies(session: Session, claims: Sequence[ClaimResult]) -> dict[tuple[str, str], Asset]:
    """Load what earlier runs have copied into the asking project's folder, by (row, shot id); few queries for all."""
    hits = [(claim.job, claim.request) for claim in claims if claim.kind is ClaimOutcome.STORED and claim.job]
    foreign = [(job, job_request) for job, job_request in hits if not _is_in_project(session, job, job_request)]
    copied: dict[tuple[str, str], Asset] = {}
    for project in {job_request.project for _, job_request in foreign}:
        known = await session.ledger.jobs.copies([job.id for job, _ in foreign], project)
        sizes = await sizes_anywhere(session.store, [asset.uri for asset in known.values()])
        copied |= {key: asset for key, asset in known.items() if sizes.get(asset.uri) == asset.bytes}
    return copied


async def copy_to_project(session: Session, job: Job, asset: Asset, job_request: JobRequest) -> Asset:
    """The asset of a stored row, in the folder of the project that asks.

    One of another project or another store is copied there, on the server's side where that can be done.

    Raises:
        StoreError: It cannot be copied; the original is as it was.
    """
    if _is_in_project(session, job, job_request):
        return asset
    draft = asset_draft(job, session.ledger.identity).model_copy(
        update={"project": job_request.project, "shot_id": job_request.shot.id, "take": job_request.take}
    )
    await claim_store(session.ledger, session.store)
    async with session.download_slots:
        copied = await copy_video(session.store, asset, draft=draft)
    await session.ledger.jobs.record_copy(job.id, job_request.project, job_request.shot.id, copied)
    return copied


def _is_in_project(session: Session, job: Job, job_request: JobRequest) -> bool:
    return job.project == job_request.project and job.asset is not None and session.store.owns(job.asset.uri)


async def reference_digests(shot: Shot) -> dict[str, str]:
    """The SHA-256 of each reference's content.

    Raises:
        InvalidInput: A reference cannot be read.
    """
    return {reference: await asyncio.to_thread(_digest, shot, reference) for reference in shot.references}


def _digest(shot: Shot, reference: str) -> str:
    if urlsplit(reference).scheme in ("http", "https"):
        raise InvalidInput(
            f"shot {shot.id!r}: references: {reference}: what is at an address may change, and a shot is known by the"
            " content of its references: fetch it and give the file"
        )
    try:
        return hashlib.sha256(Path(PurePosixPath(reference)).read_bytes()).hexdigest()
    except OSError as error:
        raise InvalidInput(f"shot {shot.id!r}: references: cannot read {reference}: {error.strerror}") from error
