"""`adopt`: a file that was made by hand becomes the video of a shot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from prefect_video.cli.job_view import public_job
from prefect_video.cli.options import JsonFlag, SessionOptions
from prefect_video.cli.output import DONE, display_path, print_json, stdout
from prefect_video.cli.sessions import run_async, use_sessions
from prefect_video.ledger import Job
from prefect_video.pipeline import adopt_clip
from prefect_video.project_files import load_project


def adopt(
    project_file: Annotated[Path, Parameter(help="A project in YAML or JSON.")],
    shot: Annotated[str, Parameter(help="The shot's id.")],
    file: Annotated[str, Parameter(help="The clip: an MP4, as a path or an https URL.")],
    /,
    *,
    take: Annotated[int, Parameter(help="Number of the take, for a shot with several.")] = 1,
    session: SessionOptions = SessionOptions(),  # noqa: B008 -- frozen
    json: JsonFlag = False,
) -> int:
    """Take a clip that was made in a web tool, or stock footage, as the video of a shot. Costs nothing.

    The file is checked, copied into the store and recorded as the shot's video, so that no run buys it. Give the same
    `--provider` as for a run: another provider's video of the shot is another one. While a generation of the shot is
    in progress or held, the clip is refused, and the message says how to settle that first.

    Try:

        prefect-video adopt film.yaml opening ~/Downloads/opening.mp4

        prefect-video adopt film.yaml opening take-two.mp4 --take 2
    """
    job = run_async(_adopt(project_file, shot, file, take, session))
    assert job.asset is not None
    if json:
        print_json(public_job(job))
        return DONE
    console = stdout()
    console.print(
        f"{job.project}/{job.shot.id}: stored as {display_path(job.asset.uri)}, at no cost",
        markup=False,
        soft_wrap=True,
    )
    for note in job.asset.notes:
        console.print(f"{job.shot.id}: {note}", markup=False, soft_wrap=True)
    return DONE


async def _adopt(project_file: Path, shot: str, file: str, take: int, options: SessionOptions) -> Job:
    project = load_project(project_file)
    async with use_sessions(options.refs(project)) as (session, *others):
        return await adopt_clip(session, project, shot, file, take=take, others=others)
