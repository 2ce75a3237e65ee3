"""The HTTP face: providers announce changes here, and other services ask for videos."""

from prefect_video.service.app import create_app
from prefect_video.service.settings import ServiceSettings

__all__ = ["ServiceSettings", "create_app"]
