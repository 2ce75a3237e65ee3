"""Requests: what a project asks of the ledger, one request for each take of each shot."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from prefect_video.errors import InvalidInput
from prefect_video.fingerprints import fingerprint
from prefect_video.ledger import JobRequest, Requester
from prefect_video.session import Session
from prefect_video.shots import Project, Shot


@dataclass(frozen=True, kw_only=True)
class ClaimOptions:
    """The options that all claims of a run share.

    Attributes:
        refresh: Buy again although a stored asset exists.
        ttl_seconds: Greatest age of a stored asset that is reused; None for any age.
        flow_run_id: The run that claims, within which attempts are counted.
        requester: The client of the service that is charged.
    """

    refresh: bool = False
    ttl_seconds: float | None = None
    flow_run_id: str | None = None
    requester: Requester | None = None


async def build_project_job_requests(
    session: Session, project: Project, options: ClaimOptions = ClaimOptions()
) -> list[JobRequest]:
    """Build one request for each take of each shot, in the project's order; nothing is sent or spent.

    Raises:
        InvalidInput: A shot cannot be made by this provider, or a reference cannot be read.
    """
    problems: list[str] = []
    job_requests: list[JobRequest] = []
    for shot in project.shots:
        try:
            session.provider.check(shot)
            job_requests += build_job_requests(session, shot, project, await reference_digests(shot), options)
        except InvalidInput as error:
            problems.append(str(error))
    if problems:
        raise InvalidInput("\n".join(problems))
    return job_requests


def build_job_requests(
    session: Session, shot: Shot, project: Project, digests: Mapping[str, str], options: ClaimOptions
) -> list[JobRequest]:
    """Build one request for each take of a shot at an account that can make it.

    Args:
        session: The account's session.
        shot: The shot in the form that is requested there.
        project: The project of the shot.
        digests: The digests of the shot's references, from `reference_digests`.
        options: The options that all claims of the run share.
    """
    model = session.provider.capabilities.aliases.get(shot.model)
    resolved = shot if model is None else shot.model_copy(update={"model": model})
    # The fingerprint is of the model that an alias stands for, and of what the references contain.
    reference_hashes = tuple(digests[reference] for reference in shot.references)
    return [
        JobRequest(
            fingerprint=fingerprint(
                resolved, provider=session.provider.name, take=take, reference_digests=reference_hashes
            ),
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
            on_mismatch=project.on_mismatch,
            requester=options.requester,
        )
        for take in range(1, shot.takes + 1)
    ]


async def reference_digests(shot: Shot) -> dict[str, str]:
    """Compute the SHA-256 of each reference's content.

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
