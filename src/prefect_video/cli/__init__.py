"""The `prefect-video` command: one module of `commands` per command, and what they share.

The top of the house beside the service: may import every room and the Prefect folders, Prefect itself only when a
command needs it.
"""

from prefect_video.cli.app import main

__all__ = [
    "main",
]
