"""`cut`: the final cut of a project, from its stored shots."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from prefect_video.cli.options import JsonFlag, QuietFlag, SessionOptions
from prefect_video.cli.output import DONE, print_json
from prefect_video.cli.progress import FilmLines
from prefect_video.cli.report_view import show_film
from prefect_video.cli.sessions import run_async, use_sessions
from prefect_video.pipeline import FilmReport, cut_project, observe_films, refresh_gallery
from prefect_video.project_files import load_project
from prefect_video.projects import Project
from prefect_video.session import SessionRef


def cut(
    project_file: Annotated[Path, Parameter(help="A project in YAML or JSON, with `cut:`.")],
    /,
    *,
    session: SessionOptions = SessionOptions(),  # noqa: B008 -- frozen
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Make the film of a project from its stored shots, without touching them; an unchanged one is found, not remade.

    Exit status: 0 the film is in the store, 1 a shot is missing or the film cannot be made, 2 bad input.

    Try:

        prefect-video cut film.yaml

        prefect-video cut film.yaml --store s3://films/ads --json
    """
    project = load_project(project_file)
    with contextlib.nullcontext() if quiet else observe_films(FilmLines()):
        film = run_async(_cut(project, session.refs(project)))
    if json:
        print_json(film.model_dump(mode="json"))
    else:
        show_film(film)
    return DONE


async def _cut(project: Project, refs: Sequence[SessionRef]) -> FilmReport:
    async with use_sessions(refs) as (session, *others):
        film = await cut_project(session, project, others=others)
        await refresh_gallery(session, project.name, project=project)
        return film
