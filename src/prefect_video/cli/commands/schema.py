"""`schema`: the JSON Schema of project files, for editors, and of manifests, for programs."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_video.cli.output import print_json
from prefect_video.gallery import manifest_schema
from prefect_video.project_files import project_schema


def schema(
    *,
    manifest: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Of the `manifest.json` that a run leaves in the store."),
    ] = False,
) -> None:
    """Print the JSON Schema of project files, or of manifests.

    Save it and name it in the first line of a YAML file for completion and checks while typing:

        prefect-video schema > project.schema.json

        # yaml-language-server: $schema=project.schema.json
    """
    print_json(manifest_schema() if manifest else project_schema())
