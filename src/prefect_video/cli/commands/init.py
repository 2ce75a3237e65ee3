"""`init`: a folder with everything that a deployment begins with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from prefect_video.cli.options import JsonFlag
from prefect_video.cli.output import DONE, print_json, print_status
from prefect_video.deployments import write_folder


def init(
    folder: Annotated[Path, Parameter(help="Where to write; created where it is missing.")] = Path(),
    /,
    *,
    force: Annotated[
        bool, Parameter(negative="", show_default=False, help="Replace files that are there already.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Write a folder to deploy from: prefect.yaml, film.yaml, .env.example, Dockerfile, README.md.

    Try:

        prefect-video init films
    """
    paths = write_folder(folder, force=force)
    if json:
        print_json({"written": [str(path) for path in paths]})
        return DONE
    for path in paths:
        print_status(f"written: {path}")
    film = shlex.quote(str(folder / "film.yaml"))
    print_status(f"\nNext:\n  prefect-video plan {film}     checks the project and shows its cost; free")
    print_status(f"  prefect-video setup {shlex.quote(str(folder))}     makes what prefect.yaml names in Prefect")
    return DONE
