"""The job API's projects: a project file becomes a run, here or at the workers, that survives restarts."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from prefect_video.errors import InvalidInput, LedgerError, ProjectFailed, VideoError
from prefect_video.ledger import Choice, Job, ProjectRequest, Requester
from prefect_video.pipeline import Plan, plan_project, run_project
from prefect_video.pipeline.steps import ClaimOptions, build_project_job_requests
from prefect_video.projects import Project
from prefect_video.service.deployment_queue import DeploymentQueue
from prefect_video.service.jobs.bodies import ProjectBody
from prefect_video.service.jobs.service import JobService, Outcome
from prefect_video.service.jobs.views import ProjectView
from prefect_video.service.sessions import Sessions
from prefect_video.session import Session

logger = logging.getLogger(__name__)

PROJECT_PREFIX: Final = "project-"
_NAMESPACE: Final = uuid.UUID("9c1f6a0e-52bb-4d0a-8a51-3b8b5a3f4f77")


class ProjectService:
    """The job API's projects: plan, create, find and resume.

    Args:
        sessions: The open sessions, one per account.
        jobs: The jobs of the projects.
        queue: Hands projects to the workers of a deployment; None to run them here.
    """

    def __init__(self, sessions: Sessions, jobs: JobService, *, queue: DeploymentQueue | None = None) -> None:
        self._sessions = sessions
        self._jobs = jobs
        self._queue = queue
        self._ledger = sessions.sessions[0].ledger
        self._running: dict[str, asyncio.Task[None]] = {}

    async def plan(self, body: ProjectBody, requester: Requester) -> Plan:
        """Plan a project: what it would buy, find and cost; nothing is reserved or sent.

        Raises:
            InvalidInput: A shot cannot be made, or names a file or an account that a client cannot choose.
            LedgerError: The ledger cannot be read.
            StoreError: The store cannot be read, or is not the one that the ledger knows.
        """
        return await self._plan(body.build_project(), body.refresh, requester)

    async def create(self, body: ProjectBody, *, key: str | None, requester: Requester) -> tuple[ProjectView, Outcome]:
        """Record a requested project, and run it in the background.

        Args:
            body: The request.
            key: The client's idempotency key: the same key is the same run.
            requester: The client that is charged.

        Raises:
            IdempotencyKeyReused: The key was used for another request; nothing was sent.
            InvalidInput: It cannot be made; nothing was sent.
            BudgetExceeded: It does not fit a limit; nothing was sent.
            LedgerError: The ledger cannot be used; nothing was sent.
            StoreError: The store cannot be read, or is not the one that the ledger knows; nothing was sent.
        """
        project = body.build_project()
        session = self._find_sessions(project)[0]
        environment = self._jobs.environment
        request_id = f"{PROJECT_PREFIX}{uuid.uuid4()}"
        if key is not None:
            request_id = f"{PROJECT_PREFIX}{uuid.uuid5(_NAMESPACE, f'{environment}/{requester.name}/{key}')}"
            await self._jobs.bind_key(session, key, body.digest, requester)
            if (existing := await self._ledger.project_requests.find(request_id)) is not None:
                return await self._view(existing), "stored" if existing.ended_at else "joined"
        (await self._plan(project, body.refresh, requester)).raise_if_over_budget()
        request = ProjectRequest(
            id=request_id,
            environment=environment,
            requester=requester,
            project=project,
            refresh=body.refresh,
            created_at=datetime.now(UTC),
        )
        if body.callback_url is not None:
            await self._ledger.callbacks.add(
                "project", request_id, requester=requester.name, url=body.callback_url, environment=environment
            )
        await self._ledger.project_requests.add(request)
        await self._start(request)
        return await self._view(request), "accepted"

    async def find(self, request_id: str) -> ProjectView | None:
        """Return a requested project by its id, None if there is none."""
        request = await self._ledger.project_requests.find(request_id)
        return None if request is None else await self._view(request)

    async def resume(self) -> None:
        """Run the projects that a dead process has accepted and not ended."""
        for request in await self._ledger.project_requests.unfinished(self._jobs.environment):
            await self._start(request)

    async def aclose(self) -> None:
        """Stop the runs; the next start goes on with them from the ledger."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _plan(self, project: Project, refresh: bool, requester: Requester) -> Plan:
        session, *others = self._find_sessions(project)
        return await plan_project(session, project, others=others, refresh=refresh, requester=requester)

    async def _start(self, request: ProjectRequest) -> None:
        """Run a project in the background, unless a living process does."""
        if request.id in self._running or not await self._ledger.project_requests.take(request):
            return
        work = self._run(request) if self._queue is None else self._follow(request, self._queue)
        task = asyncio.create_task(work, name=f"run {request.id}")
        self._running[request.id] = task
        task.add_done_callback(lambda _: self._running.pop(request.id, None))

    async def _run(self, request: ProjectRequest) -> None:
        """Run a project here; what is interrupted, or meets a ledger in trouble, is left for the next sweep."""
        try:
            session, *others = self._find_sessions(request.project)
            report = await run_project(
                session,
                request.project,
                others=others,
                refresh=request.refresh,
                flow_run_id=request.id,
                requester=request.requester,
            )
            error = str(ProjectFailed(report)) if report.failures else None
        except LedgerError as trouble:
            logger.warning("%s: not run now, the next sweep tries again: %s", request.id, trouble)
            await self._release(request)
            return
        except VideoError as refusal:
            error = str(refusal)
        except BaseException:
            await self._release(request)
            raise
        await self._end(request, error)

    async def _follow(self, request: ProjectRequest, queue: DeploymentQueue) -> None:
        """Hand a project to the workers, and record its end once its flow run has ended."""
        session = self._find_sessions(request.project)[0]
        run = await queue.enqueue(
            session,
            request.project,
            key=request.id,
            requester=request.requester,
            parameters={"refresh": True} if request.refresh else None,
        )
        if run is not None and request.flow_run_id != run.id:
            await self._ledger.project_requests.record_flow_run(request.id, run.id)
        if run is not None and run.has_ended:
            error = None if run.succeeded else f"flow run {run.id} ended as {run.state}: see its log in Prefect"
            await self._end(request, error)
            return
        await self._release(request)

    async def _end(self, request: ProjectRequest, error: str | None) -> None:
        try:
            await self._ledger.project_requests.end(request.id, error)
        except LedgerError as trouble:
            logger.warning("%s: its end is recorded by the next sweep: %s", request.id, trouble)

    async def _release(self, request: ProjectRequest) -> None:
        try:
            await self._ledger.project_requests.release(request.id)
        except LedgerError as trouble:
            logger.warning("%s: it stays with this process until that ends: %s", request.id, trouble)

    def _find_sessions(self, project: Project) -> Sequence[Session]:
        """Return the sessions of the accounts that a project names; the first one makes its shots.

        Raises:
            InvalidInput: The service has no such account.
        """
        names = project.accounts if project.is_routed else (project.provider,)
        wanted = (*names, *(fallback.provider for fallback in project.fallbacks if fallback.provider))
        found = {id(session): session for session in map(self._jobs.find_session, wanted)}
        return tuple(found.values())

    async def _view(self, request: ProjectRequest) -> ProjectView:
        jobs = {(job.shot.id, job.take): job for job in await self._existing(request)}
        for run_id in filter(None, (request.id, request.flow_run_id)):
            of_run = await self._ledger.jobs.find(flow_run_id=run_id, limit=None)
            jobs |= {(job.shot.id, job.take): job for job in reversed(of_run)}
        order = {shot.id: number for number, shot in enumerate(request.project.shots)}
        ordered = sorted(jobs.values(), key=lambda job: (order.get(job.shot.id, 0), job.take))
        choices: Mapping[str, Choice] = {}
        if any(shot.takes > 1 for shot in request.project.shots):
            choices = await self._ledger.choices.read(request.project.name, environment=request.environment)
        views = [self._jobs.build_view(job, choice=choices.get(job.shot.id)) for job in ordered]
        return ProjectView.from_request(request, views)

    async def _existing(self, request: ProjectRequest) -> list[Job]:
        """Return the jobs, of whichever run, that serve the takes of a project at its one account."""
        if request.project.is_routed or request.refresh:
            return []
        try:
            session = self._find_sessions(request.project)[0]
            wanted = await build_project_job_requests(session, request.project, ClaimOptions())
        except InvalidInput:
            # Adapted, or of an account that the service has no more: the jobs of its run are all that is known.
            return []
        found = await self._ledger.jobs.find_existing(wanted)
        named = zip(wanted, found, strict=True)
        return [job.model_copy(update={"shot": wish.shot, "take": wish.take}) for wish, job in named if job is not None]
