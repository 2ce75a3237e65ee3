"""`schema`: the JSON Schema of project files, for editors."""

from __future__ import annotations

from prefect_video.cli.output import print_json
from prefect_video.project_files import project_schema


def schema() -> None:
    """Print the JSON Schema of project files.

    Save it and name it in the first line of a YAML file for completion and checks while typing:

        prefect-video schema > project.schema.json

        # yaml-language-server: $schema=project.schema.json
    """
    print_json(project_schema())
