"""Service: `prefect-video serve`, the webhook receiver and the job API.

The top of the house beside the command line: may import every room and the Prefect folders.
"""

from prefect_video.service.app import create_app
from prefect_video.service.sessions import Sessions, open_sessions
from prefect_video.service.settings import ServiceSettings

__all__ = [
    "ServiceSettings",
    "Sessions",
    "create_app",
    "open_sessions",
]
