"""The `prefect-video` command."""

from prefect_video.cli.app import main

__all__ = [
    "main",
]
