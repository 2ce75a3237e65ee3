"""Pipeline: what a run does with its shots, from a project to a report.

`run_project` claims and runs shots side by side, `plan_project` says beforehand what that would do and cost,
`collect` finishes what no live owner works on, `cancel_jobs` cancels, `cut_project` makes the film of what is stored.
May import session and every room below it.
"""

from prefect_video.pipeline.approval import (
    ShotTakes,
    approve_as_proposed,
    choose_take,
    drop_shot,
    list_pending,
    list_takes,
    redo_shot,
)
from prefect_video.pipeline.cancel import CancelledJob, cancel_jobs
from prefect_video.pipeline.clip_adoption import adopt_clip
from prefect_video.pipeline.collect import CollectedJob, collect, collect_job
from prefect_video.pipeline.cut import cut_project
from prefect_video.pipeline.deletion import settle_deleted
from prefect_video.pipeline.entry_points import reserve_project, run_project
from prefect_video.pipeline.ledger_recovery import Recovery, recover_ledger
from prefect_video.pipeline.plan import Plan, PlannedShot, RouteOption, plan_project
from prefect_video.pipeline.project_gallery import publish_lone_shot, publish_run, refresh_gallery
from prefect_video.pipeline.project_run import OnReport, ProjectRun
from prefect_video.pipeline.reports import FilmReport, ProjectReport, ShotReport, ShotStatus
from prefect_video.pipeline.run_completion import DeferredOutcome, OnDeferredOutcome, complete_runs
from prefect_video.pipeline.shot_run import abandon
from prefect_video.pipeline.split import split_project
from prefect_video.pipeline.step_runner import Inputs, Result, StepRunner
from prefect_video.pipeline.steps.accept import accept_rejected
from prefect_video.pipeline.steps.cut_film import observe_films
from prefect_video.pipeline.verification import Verification, verify_store

__all__ = [
    "CancelledJob",
    "CollectedJob",
    "DeferredOutcome",
    "FilmReport",
    "Inputs",
    "OnDeferredOutcome",
    "OnReport",
    "Plan",
    "PlannedShot",
    "ProjectReport",
    "ProjectRun",
    "Recovery",
    "Result",
    "RouteOption",
    "ShotReport",
    "ShotStatus",
    "ShotTakes",
    "StepRunner",
    "Verification",
    "abandon",
    "accept_rejected",
    "adopt_clip",
    "approve_as_proposed",
    "cancel_jobs",
    "choose_take",
    "collect",
    "collect_job",
    "complete_runs",
    "cut_project",
    "drop_shot",
    "list_pending",
    "list_takes",
    "observe_films",
    "plan_project",
    "publish_lone_shot",
    "publish_run",
    "recover_ledger",
    "redo_shot",
    "refresh_gallery",
    "reserve_project",
    "run_project",
    "settle_deleted",
    "split_project",
    "verify_store",
]
