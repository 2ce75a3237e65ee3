"""Clip adoption: a file that was made by hand becomes the video of one take of a shot, at no cost."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_video._counted import counted
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Job, JobRequest
from prefect_video.pipeline.routing import TakeRequest, build_take_requests
from prefect_video.pipeline.steps.job_requests import ClaimOptions
from prefect_video.pipeline.steps.manual_clips import require_settled, store_clip
from prefect_video.projects import Project
from prefect_video.session import Session


async def adopt_clip(
    session: Session, project: Project, shot_id: str, source: str, *, take: int = 1, others: Sequence[Session] = ()
) -> Job:
    """Store a clip as the video of a take, under the take's own fingerprint: a later run finds it and buys nothing.

    A video that the take has already stays in the store and in the ledger; the newest one counts.

    Args:
        session: The account that would make the shot, the ledger and the store.
        project: The project.
        shot_id: The shot.
        source: Path or https address of the clip.
        take: Number of the take, from 1.
        others: Further accounts of the project.

    Raises:
        InvalidInput: There is no such take, the clip cannot be used, or a generation of the take is in progress or
            held; nothing was changed.
        StoreError: The store cannot be written.
    """
    wanted = _find_shot(project, shot_id, take)
    takes = await build_take_requests(wanted, [session, *others], ClaimOptions())
    (found,) = (candidate for candidate in takes if candidate.job_request.take == take)
    await require_settled(session, _requests_of(found))
    return await store_clip(session, found.job_request, source)


def _requests_of(take: TakeRequest) -> list[JobRequest]:
    return [candidate.job_request for candidate in take.candidates]


def _find_shot(project: Project, shot_id: str, take: int) -> Project:
    """Return the project with the shot alone, so that the other shots need not be possible or readable."""
    shot = next((shot for shot in project.shots if shot.id == shot_id), None)
    if shot is None:
        names = ", ".join(shot.id for shot in project.shots[:20])
        raise InvalidInput(f"shot {shot_id!r}: project {project.name!r} has no such shot; it has {names}")
    if shot.clip is not None:
        raise InvalidInput(f"shot {shot_id!r}: its `clip` names its file: change it in the project file and run")
    if not 1 <= take <= shot.takes:
        raise InvalidInput(
            f"shot {shot_id!r}: --take: it has {counted(shot.takes, 'take')}, there is none of number {take}"
        )
    return project.model_copy(update={"shots": (shot,)})
