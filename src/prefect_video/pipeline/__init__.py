"""The pipeline: from a project to its stored videos, its plan and its report.

It may import the session, and everything below that; it knows of no orchestrator, command line or service.
"""

from prefect_video.pipeline.cancel import CancelledJob, cancel_jobs
from prefect_video.pipeline.collect import CollectedJob, collect
from prefect_video.pipeline.plan import Plan, PlannedShot, plan_project
from prefect_video.pipeline.project_run import ProjectRun, run_project
from prefect_video.pipeline.reports import ProjectReport, ShotReport
from prefect_video.pipeline.shot_run import StepRunner

__all__ = [
    "CancelledJob",
    "CollectedJob",
    "Plan",
    "PlannedShot",
    "ProjectReport",
    "ProjectRun",
    "ShotReport",
    "StepRunner",
    "cancel_jobs",
    "collect",
    "plan_project",
    "run_project",
]
