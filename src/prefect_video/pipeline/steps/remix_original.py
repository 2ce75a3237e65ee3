"""Originals of remixes: the generation that made a stored video, found in the ledger and at the provider for free."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_video.assets import Asset
from prefect_video.errors import InvalidInput, NotFound, RequestRejected
from prefect_video.generations import Status
from prefect_video.ledger import Job
from prefect_video.session import Session


async def find_original(sessions: Sequence[Session], asset: Asset) -> tuple[Session, Job]:
    """Find the job that made a stored video, and the account at which its generation can be remixed.

    Args:
        sessions: The accounts that are open.
        asset: The video.

    Raises:
        InvalidInput: It was made by hand, by another provider, or at an account that is not open or makes no remixes;
            nothing was sent.
    """
    original = f"{asset.shot_id!r}"
    if asset.origin == "by hand":
        raise InvalidInput(
            f"{original} was made by hand, and no provider has a generation to remix: let the project make it, or use"
            " continue_from"
        )
    jobs = await sessions[0].ledger.recovery.find_paid([], [asset.generation_id])
    made = [job for job in jobs if job.provider == asset.provider]
    open_here = [(session, job) for job in made for session in sessions if _has_made(session, job)]
    for session, job in open_here:
        if session.provider.capabilities_for(job.shot).can_remix:
            return session, job
    if open_here:
        ((session, job), *_) = open_here
        raise InvalidInput(
            f"{original} was made at account {session.provider.account.id} ({session.credentials}), which makes no"
            " remixes, and can be remixed there alone: make it anew by an account that does, with `--refresh`, or use"
            " continue_from"
        )
    where = f" at account {made[0].account} (credentials {made[0].credentials})" if made else ""
    used = ", ".join(f"{session.provider.account.id} ({session.credentials})" for session in sessions)
    raise InvalidInput(
        f"{original} was made by {asset.provider}{where}, where alone it can be remixed; this run uses {used}: run with"
        " those credentials, or make it anew with `--refresh`"
    )


def _has_made(session: Session, job: Job) -> bool:
    provider = session.provider
    return provider.name == job.provider and provider.account.has_made(job.account, job.key_fingerprint)


async def require_original(session: Session, job: Job) -> None:
    """Require that the provider still has the generation that a job remixes; a remix is not sent without it.

    Raises:
        RequestRejected: It has it no more, or without a video; nothing was sent.
        ProviderUnavailable: There was no response; nothing was sent.
    """
    if job.shot.remixed_from is None:
        return
    original = f"generation {job.shot.remixed_from} of {job.shot.remix_of!r}"
    advice = "nothing was sent: make that shot anew (`--refresh`, or another prompt for it), or use continue_from"
    try:
        generation = await session.provider.retrieve(job.shot.remixed_from)
    except NotFound as error:
        raise RequestRejected(
            f"shot {job.shot.id!r}: {job.provider} no longer has {original}, which it remixes; {advice}",
            provider=job.provider,
        ) from error
    if generation.status is not Status.COMPLETED:
        raise RequestRejected(
            f"shot {job.shot.id!r}: {original}, which it remixes, is {generation.status.value} at {job.provider};"
            f" {advice}",
            provider=job.provider,
        )
