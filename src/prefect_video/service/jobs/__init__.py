"""Job API: requests for videos and projects, their state, events and links, and what a client may do.

May import what the service may, and of the service its tokens, sessions, settings and problems; never the application
that mounts it, nor the webhooks.
"""

from prefect_video.service.jobs.bodies import GenerateBody, ProjectBody
from prefect_video.service.jobs.callback_policy import build_policy
from prefect_video.service.jobs.event_stream import JobChanges
from prefect_video.service.jobs.guard import Guard
from prefect_video.service.jobs.precedence import RequestPrecedence
from prefect_video.service.jobs.project_service import ProjectService
from prefect_video.service.jobs.routes import JobApi, job_routes, video_routes
from prefect_video.service.jobs.service import JobService
from prefect_video.service.jobs.video_links import VideoLinks
from prefect_video.service.jobs.views import ENDED, JobPage, JobView, SpendView

__all__ = [
    "ENDED",
    "GenerateBody",
    "Guard",
    "JobApi",
    "JobChanges",
    "JobPage",
    "JobService",
    "JobView",
    "ProjectBody",
    "ProjectService",
    "RequestPrecedence",
    "SpendView",
    "VideoLinks",
    "build_policy",
    "job_routes",
    "video_routes",
]
