"""Deployments: the folder that `init` writes, and what `setup` makes of it in Prefect.

May import the domain, blocks, tasks and flows.
"""

from typing import TYPE_CHECKING

from prefect_video._lazy_names import import_at_first_use

if TYPE_CHECKING:
    from prefect_video.deployments.changes import Change, Outcome
    from prefect_video.deployments.declaration import DeploymentFile, read_deployment_file
    from prefect_video.deployments.folder import write_folder
    from prefect_video.deployments.saved_blocks import find_saved_blocks
    from prefect_video.deployments.setup import setup_prefect
else:
    # Only what talks to Prefect needs it, which takes seconds to import.
    __getattr__ = import_at_first_use(
        __name__,
        {
            "Change": "changes",
            "DeploymentFile": "declaration",
            "Outcome": "changes",
            "find_saved_blocks": "saved_blocks",
            "read_deployment_file": "declaration",
            "setup_prefect": "setup",
            "write_folder": "folder",
        },
    )

__all__ = [
    "Change",
    "DeploymentFile",
    "Outcome",
    "find_saved_blocks",
    "read_deployment_file",
    "setup_prefect",
    "write_folder",
]
