"""Claim: find out which shots are stored, which are in progress elsewhere, and reserve those to make here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

from prefect_video.downloads import prepare_private_folder
from prefect_video.errors import InvalidTransition
from prefect_video.ledger import (
    UNFINISHED,
    Budget,
    ClaimOutcome,
    ClaimResult,
    Job,
    JobRequest,
    State,
    StoredMatch,
    is_late,
)
from prefect_video.pipeline.steps.adopt import adopt_stored
from prefect_video.pipeline.steps.store_check import can_fetch, find_flaws, relocate_stored, require_single_flaw
from prefect_video.pipeline.steps.store_identity import accept_store, check_store, require_root
from prefect_video.pipeline.steps.whole_copies import use_whole_copies
from prefect_video.projects import Project
from prefect_video.providers import Account
from prefect_video.session import Session, SessionEvent

logger = logging.getLogger(__name__)


def project_budgets(session: Session, project: Project) -> tuple[Budget, ...]:
    """Return all limits that a project's claims must keep to: the ledger's, the plan's and its own."""
    own = (
        Budget(scope="plan", limit_videos=session.provider.capabilities.monthly_videos),
        Budget(scope="project", limit_usd=project.budget_usd, limit_videos=project.budget_videos),
    )
    return (*session.budgets, *(budget for budget in own if not budget.is_empty))


async def find_stored(
    session: Session,
    job_requests: Sequence[JobRequest],
    *,
    rebuy_missing: bool = False,
    accounts: Collection[Account] = (),
) -> list[StoredMatch | None]:
    """Find the stored job of each request, or None, with one query of the ledger and one check of the store.

    Where a job's file is missing or damaged, a whole copy in reach is used. Where there is none it is reopened, so that
    a claim fetches it again from the provider, and buys it again only where the provider no longer has it.

    Args:
        session: The ledger and store to search.
        job_requests: The requests.
        rebuy_missing: Accept the store, although files are missing there; a refresh of everything does too. What is in
            another store that is out of reach counts as missing.
        accounts: Further accounts that the run has open, and can fetch videos from.

    Raises:
        StoreOutage: The store is not the one that the ledger knows, or several files are missing at once.
        StoreError: The store cannot be read.
    """
    reusable = [job_request for job_request in job_requests if not job_request.refresh]
    if rebuy_missing or not reusable:
        if not rebuy_missing:
            await require_root(session.ledger, session.store)
        await accept_store(session.ledger, session.store)
    else:
        await check_store(session.ledger, session.store, session.store_name)
    if not reusable:
        return [None] * len(job_requests)
    found = await session.ledger.jobs.find_stored(job_requests)
    stored = {
        match.job.id: match.job
        for match, wanted in zip(found, job_requests, strict=True)
        if match and not wanted.refresh
    }
    stored = await relocate_stored(session, stored)
    for job in stored.values():
        session.repairs.pop(job.id, None)
    flaws = await find_flaws(session, stored, must_reach=rebuy_missing)
    mended = await use_whole_copies(session, stored, flaws)
    stored |= mended
    flaws = {key: flaw for key, flaw in flaws.items() if key not in mended}
    reachable = (session.provider.account, *accounts)
    if flaws and not rebuy_missing:
        await require_single_flaw(session, stored, flaws, accounts=reachable)
    if rebuy_missing:
        session.accepted_rebuys.update(stored[key].id for key in flaws)
    for key, flaw in flaws.items():
        await _reopen(session, stored[key], flaw, is_fetchable=can_fetch(stored[key], reachable))
    # One that another process has changed while its copy was read is for the claim to answer.
    whole = {key: job for key, job in stored.items() if job.state is State.STORED and job.asset and key not in flaws}
    return [match._replace(job=whole[match.job.id]) if match and match.job.id in whole else None for match in found]


async def _reopen(session: Session, job: Job, flaw: str, *, is_fetchable: bool) -> None:
    """Reopen a job whose file is missing or damaged, so that a claim fetches it again or buys it again."""
    reason = f"its stored file was {flaw}"
    if not is_fetchable or job.generation_id is None:
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
    """Claim every request: the outcome for each is stored, joined, acquired, over budget or exhausted.

    Args:
        session: The account and ledger to claim at.
        job_requests: The requests.
        budgets: Limits that must hold.
        partial: Reserve the requests that fit the budget although other ones do not.

    Raises:
        InvalidInput: The account's key was used under another name; nothing was claimed.
        LedgerBehindStore: The ledger is an old backup, as the store shows; nothing was claimed.
        RequestRejected: The session's first read shows that the endpoint or the key is wrong; nothing was claimed.
        StoreError: The session's first check shows that no video could be published, or the spool is not this user's
            alone; nothing was claimed.
    """
    # Before the checks, which a video that the store holds does not need.
    existing = await adopt_stored(session, job_requests)
    await _check_for_free(session, existing)
    account = session.provider.account
    keys = {key for key in (account.key_fingerprint, account.previous_key_fingerprint) if key and key != account.id}
    batch = await session.ledger.claims.claim(job_requests, budgets, partial=partial, keys=keys)
    for warning in batch.warnings:
        logger.warning("budget: %s", warning)
    session.report_budgets(batch.nearly_used)
    for claim in batch.claims:
        if claim.kind is ClaimOutcome.ACQUIRED and claim.job and not is_late(claim.job.fingerprint):
            session.notify(SessionEvent.CLAIMED, claim.job)
    return list(batch.claims)


async def claim_shot(session: Session, job_request: JobRequest, *, budgets: Sequence[Budget]) -> ClaimResult:
    """Claim one request, as `claim_shots` does."""
    (claim,) = await claim_shots(session, [job_request], budgets=budgets, partial=True)
    return claim


async def require_writable(session: Session) -> None:
    """Check once a session that a video can be fetched into the spool and published to the store.

    Raises:
        StoreError: It could not be; nothing was sent.
    """
    if not session.write_check.is_done(session.store):
        await asyncio.to_thread(prepare_private_folder, session.settings.spool)
        await session.write_check.require_writable(session.store)


async def _check_for_free(session: Session, existing: Sequence[Job | None]) -> None:
    """Check the session's provider and store once, where they are needed: not for what is stored or held."""
    wants_access = session.settings.check_access and not session.access.is_done
    if not wants_access and session.write_check.is_done(session.store):
        return
    if any(job is None or (job.state in UNFINISHED and job.hold_reason is None) for job in existing):
        if wants_access:
            await session.access.require_access()
        await require_writable(session)
