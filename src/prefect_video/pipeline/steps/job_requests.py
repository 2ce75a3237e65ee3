"""Requests: what a project asks of the ledger, one request for each take of each shot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefect_video.errors import InvalidInput
from prefect_video.fingerprints import fingerprint
from prefect_video.ledger import JobRequest, Requester, share_field_names
from prefect_video.pipeline.steps.shot_images import ImageFile, ImageLoader
from prefect_video.pipeline.steps.spans import current_traceparent
from prefect_video.projects import Project
from prefect_video.session import Session
from prefect_video.shots import Shot


@dataclass(frozen=True, kw_only=True)
class ClaimOptions:
    """The options that all claims of a run share.

    Attributes:
        refresh: Buy again although a stored asset exists.
        ttl_seconds: Greatest age of a stored asset that is reused; None for any age.
        flow_run_id: The run that claims, within which attempts are counted.
        accepts_store: Take the store as it is, although the ledger knows another one at its address.
        requester: The client of the service that is charged.
        idempotency_key: Its bound key that the claim answers.
    """

    refresh: bool = False
    ttl_seconds: float | None = None
    flow_run_id: str | None = None
    accepts_store: bool = False
    requester: Requester | None = None
    idempotency_key: str | None = None


async def build_project_job_requests(
    session: Session, project: Project, options: ClaimOptions = ClaimOptions()
) -> list[JobRequest]:
    """Build one request for each take of each shot, in the project's order; nothing is sent or spent.

    Raises:
        InvalidInput: A shot cannot be made by this provider, or one of its images cannot be used.
        StoreError: The store, which keeps the copies of fetched images, cannot be used.
    """
    images = ImageLoader(session, project.name, accepts_store=options.accepts_store)
    problems: list[str] = []
    job_requests: list[JobRequest] = []
    for shot in project.shots:
        try:
            session.provider.check(shot)
            job_requests += build_job_requests(session, shot, project, await images.load(shot), options)
        except InvalidInput as error:
            problems.append(str(error))
    if problems:
        raise InvalidInput("\n".join(problems))
    return job_requests


def build_job_requests(
    session: Session, shot: Shot, project: Project, images: Mapping[str, ImageFile], options: ClaimOptions
) -> list[JobRequest]:
    """Build one request for each take of a shot at an account that can make it.

    Args:
        session: The account's session.
        shot: The shot in the form that is requested there.
        project: The project of the shot.
        images: The shot's images, from `ImageLoader.load`.
        options: The options that all claims of the run share.
    """
    return [
        share_field_names(
            JobRequest(
                fingerprint=compute_fingerprint(session, shot.for_take(take), take, images),
                shot=shot.for_take(take),
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
                quality_policy=project.quality,
                requester=options.requester,
                traceparent=current_traceparent(),
                idempotency_key=options.idempotency_key,
            )
        )
        for take in range(1, shot.takes + 1)
    ]


def compute_fingerprint(session: Session, shot: Shot, take: int, images: Mapping[str, ImageFile]) -> str:
    """Compute the fingerprint of one take of a shot at an account.

    It is of the model that an alias stands for, and of what the images contain.
    """
    model = session.provider.capabilities.aliases.get(shot.model)
    return fingerprint(
        shot if model is None else shot.model_copy(update={"model": model}),
        provider=session.provider.name,
        take=take,
        reference_digests=tuple(images[reference].sha256 for reference in shot.references),
        frame_digests={name: images[paths[0]].sha256 for name, paths in shot.images.items() if name != "references"},
    )
