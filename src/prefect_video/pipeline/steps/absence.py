"""Absence: when what a provider does not show counts as not being there, for a job that another key may have sent.

A key shows what its tenant has. A new key under an account's name may be another tenant's by mistake, and its "not
found" and its lists then say nothing about the job. So absence counts

- with the very key that the job was sent with, or
- with another key whose own list shows a generation that was sent with that key: it is of the same tenant.

Anything else holds the job for a human. What is found counts with every key.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from prefect_video.errors import AuthenticationFailed, HeldForReview, InvalidResponse, NotFound
from prefect_video.generations import Generation, Status
from prefect_video.ledger import UNFINISHED, HoldReason, Job, hold_message
from prefect_video.providers import Provider, echoes_key
from prefect_video.session import Session

logger = logging.getLogger(__name__)


class AbsenceUnproven(HeldForReview):
    """Absence that no key of the job's tenant has shown: nothing may be sent in the job's place."""


async def require_loss_proven(session: Session, job: Job, generation: Generation) -> None:
    """Refuse to take a generation for lost that the key in use does not know, and the one that sent it might.

    Raises:
        AbsenceUnproven: It is not proven; an unfinished job is held.
        ProviderError: The provider gives no answer; the job stays as it is.
    """
    if generation.status is not Status.LOST or await _is_unknown_to_sender(session, job):
        return
    if await is_of_same_tenant(session, job, session.provider):
        return
    message = hold_message(
        HoldReason.KEY_REPLACED,
        job=job.id,
        shot=job.shot.id,
        ledger=session.ledger.command_option,
        generation=generation.id,
        key=job.key_fingerprint or "that is not on record",
        used_key=session.provider.account.key_fingerprint,
    )
    # A stored one stays as it is: its file may come back.
    if job.state in UNFINISHED:
        await session.ledger.jobs.hold(job.id, message)
    raise AbsenceUnproven(message)


async def search_sent(
    session: Session, job: Job, search: Callable[[Provider], Awaitable[Generation | None]]
) -> Generation | None:
    """Search for the generation of an unanswered submit by the key that has sent it, else by the one in use.

    Returns:
        The generation, or None where the tenant that it was sent to does not have it.

    Raises:
        AbsenceUnproven: The key that has sent it is gone or refused, and the one in use may be another tenant's.
        HeldForReview: The provider cannot tell.
        ProviderError: The list could not be read.
    """
    sender = session.provider_with_key(job.key_fingerprint)
    if sender is not None:
        try:
            return await search(sender)
        except AuthenticationFailed:
            if sender.account.key_fingerprint == session.provider.account.key_fingerprint:
                raise
            logger.info("shot %s: the key that sent it is refused, the one in use is asked", job.shot.id)
    found = await search(session.provider)
    if found is not None and echoes_key(found, job.id):
        return found
    if await is_of_same_tenant(session, job, session.provider):
        return found
    raise AbsenceUnproven(
        f"it was sent with key {job.key_fingerprint}, which cannot be used any more: the list of the key in use"
        f" ({session.provider.account.key_fingerprint}) shows nothing that was sent with that key, and may be another"
        " tenant's"
    )


async def is_of_same_tenant(session: Session, job: Job, provider: Provider) -> bool:
    """Tell whether a provider's key is of the same tenant as the one that has sent a job, as its list shows.

    Args:
        session: The account.
        job: The job.
        provider: The account by the key that is asked.

    Raises:
        ProviderError: The list could not be read.
    """
    if provider.account.key_fingerprint == job.key_fingerprint:
        return True
    if job.key_fingerprint is None:
        # Without a name, the account is the key.
        return provider.account.name is None and job.account == provider.account.id
    if not provider.capabilities.can_list:
        return False
    sent = await session.ledger.jobs.generations_sent_with(job.key_fingerprint)
    others = sent - {job.generation_id}
    if not others:
        return False
    async for listed in provider.list():
        if listed.id in others:
            return True
    return False


async def _is_unknown_to_sender(session: Session, job: Job) -> bool:
    """Tell whether the very key that has sent a job says that it does not know its generation."""
    account = session.provider.account
    if job.key_fingerprint == account.key_fingerprint and account.previous_key_fingerprint is None:
        # That key was asked, and no other.
        return True
    sender = session.provider_with_key(job.key_fingerprint)
    if sender is None:
        return False
    try:
        await sender.retrieve(job.generation_id or "")
    except NotFound:
        return True
    except AuthenticationFailed:
        return False
    raise InvalidResponse(
        f"{job.provider}: generation {job.generation_id} is unknown to one key and known to another",
        provider=job.provider,
        generation_id=job.generation_id,
    )
