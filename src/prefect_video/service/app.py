"""The ASGI application: its start-up, its routes, and the parts that run behind them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict

from prefect_video import __version__
from prefect_video._clean_text import enable_clean_logs
from prefect_video._crash_trace import enable_crash_trace
from prefect_video.errors import LedgerError
from prefect_video.ledger import Callback, Job, Ledger, ReceivedEvent, State
from prefect_video.pipeline import collect_job
from prefect_video.service.api_tokens import ApiTokens
from prefect_video.service.callback_sender import CallbackSender
from prefect_video.service.credentials_watch import CredentialsWatch
from prefect_video.service.deferred_projects import DeferredProjects
from prefect_video.service.deployment_queue import DeploymentQueue
from prefect_video.service.docs_page import PAGE_HEADERS, render_docs
from prefect_video.service.galleries import StaleGalleries
from prefect_video.service.jobs import (
    Guard,
    JobApi,
    JobChanges,
    JobService,
    ProjectService,
    RequestPrecedence,
    VideoLinks,
    job_routes,
    video_routes,
)
from prefect_video.service.known_hosts import KnownHosts
from prefect_video.service.ledger_metrics import LedgerMetrics
from prefect_video.service.metrics import CONTENT_TYPE, Metrics
from prefect_video.service.openapi import build_openapi
from prefect_video.service.prefect_events import Announce, get_outcome, has_prefect_api, open_announcer
from prefect_video.service.problems import add_problem_handlers
from prefect_video.service.readiness import Readiness
from prefect_video.service.sessions import Sessions, open_sessions
from prefect_video.service.settings import ServiceSettings
from prefect_video.service.status import StatusPage
from prefect_video.service.token_source import open_tokens, watch_block
from prefect_video.service.webhooks import Inbox, WebhookReceiver, Workers, handle, webhook_routes
from prefect_video.session import Session

logger = logging.getLogger(__name__)

_TURN_WAIT_SECONDS: Final = 0.05
"""Longest wait of a webhook's handler for the requests: each slot that it frees lets another job be sent."""
_UNKNOWN_AGE_FACTOR: Final = 2.0
"""An unanswered submit is found at the provider and recorded within this many times `settle_seconds`."""


def create_app(settings: ServiceSettings | None = None, *, announce: Announce | None = None) -> FastAPI:
    """Build the service as an ASGI application.

    Args:
        settings: The settings; by default those of the environment.
        announce: Called with each generation that has ended; by default it emits a Prefect event.
    """
    settings = settings or ServiceSettings.from_environment()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        enable_crash_trace()
        enable_clean_logs()
        async with open_runtime(settings, metrics, announce=announce) as runtime:
            _add_service(app, runtime)
            yield

    app = FastAPI(
        title="prefect-video", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    add_problem_handlers(app)
    _add_operation_routes(app, metrics)
    _add_document_routes(app)
    if settings.hosts:
        app.add_middleware(KnownHosts, names=settings.hosts)
    return app


def _add_service(app: FastAPI, runtime: ServiceRuntime) -> None:
    """Add to the application what it answers from a running service."""
    sessions, has_job_api = runtime.sessions, runtime.settings.has_job_api
    app.router.routes.extend(webhook_routes(runtime.receiver))
    if has_job_api:
        app.include_router(job_routes(runtime.api))
        app.include_router(video_routes(runtime.api))
    app.state.sessions = sessions
    app.state.watch = runtime.watch
    app.state.status_page = StatusPage(sessions, runtime.api.guard, runtime.tokens, has_tokens=has_job_api)
    app.state.readiness = Readiness(sessions)
    app.state.document = build_openapi(app, sessions, knows_hosts=bool(runtime.settings.hosts))
    app.state.ledger_metrics = LedgerMetrics(sessions)


def _add_operation_routes(app: FastAPI, metrics: Metrics) -> None:
    """Add the routes for health checks and for Prometheus."""
    trouble: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "It cannot be used"}}

    @app.get("/healthz", tags=["operation"], response_model=Health, responses=trouble)
    async def healthz() -> JSONResponse:
        """Report if the ledger can be used."""
        try:
            await app.state.sessions.sessions[0].ledger.check()
        except LedgerError as error:
            logger.error("not healthy: %s", error)
            return JSONResponse({"status": "the ledger cannot be used"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get(
        "/readyz",
        tags=["operation"],
        response_model=Ready,
        responses={503: {"model": Ready, "description": "It is not ready"}},
    )
    async def readyz() -> JSONResponse:
        """Report if the ledger and the store can be used."""
        parts = await app.state.readiness.check()
        ready = set(parts.values()) == {"ok"}
        return JSONResponse({"status": "ok" if ready else "not ready", **parts}, 200 if ready else 503)

    text: dict[str, Any] = {"content": {"text/plain": {"schema": {"type": "string"}}}}

    @app.get("/metrics", tags=["operation"], response_class=Response, responses={200: text})
    async def prometheus() -> Response:
        """Return the counters of this process and the gauges of the ledger in Prometheus's text format."""
        return Response(metrics.text() + await app.state.ledger_metrics.text(), media_type=CONTENT_TYPE)


def _add_document_routes(app: FastAPI) -> None:
    """Add the OpenAPI document, for programs and as a page that loads nothing."""

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(app.state.document)

    @app.get("/status", include_in_schema=False)
    async def status(request: Request) -> Response:
        page: StatusPage = app.state.status_page
        return await page.show(request)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render_docs(app.state.document), headers=PAGE_HEADERS)


class Health(BaseModel):
    """State of the service.

    Attributes:
        status: `ok`, or what is wrong.
    """

    model_config = ConfigDict(json_schema_extra={"example": {"status": "ok"}})

    status: str


class Ready(Health):
    """State of the service and its parts.

    Attributes:
        ledger: `ok`, or what is wrong.
        store: `ok`, or what is wrong.
    """

    model_config = ConfigDict(json_schema_extra={"example": {"status": "ok", "ledger": "ok", "store": "ok"}})

    ledger: str
    store: str


@dataclass
class ServiceRuntime:
    """The parts of a running service, and the tasks that run in the background.

    Attributes:
        sessions: The open sessions, one per account.
        settings: The settings of the service.
        metrics: The counters of the service.
        announce: Called with each generation that has ended; None for nothing.
        tokens: The tokens of the job API.
        watch: Watch over the blocks that the sessions were opened with.
    """

    sessions: Sessions
    settings: ServiceSettings
    metrics: Metrics
    announce: Announce | None
    tokens: ApiTokens
    watch: CredentialsWatch

    def __post_init__(self) -> None:
        ledger = self.sessions.sessions[0].ledger
        self.inbox = Inbox(ledger)
        self.precedence = RequestPrecedence()
        self.galleries = StaleGalleries()
        self.deferred = DeferredProjects(
            self.sessions, self.settings.ledger, announces=self.settings.announce and self.announce is not None
        )
        self._build_job_api(ledger)
        self.workers = Workers(
            self._handle,
            ledger=ledger,
            accounts=self.sessions.ids,
            settings=self.settings,
            metrics=self.metrics,
            unknown_seconds=_UNKNOWN_AGE_FACTOR
            * max(session.settings.settle_seconds for session in self.sessions.sessions),
        )
        self.receiver = WebhookReceiver(
            self.sessions, self.inbox, self.workers, self.metrics, body_limit_bytes=self.settings.body_limit_bytes
        )
        self._finishing: set[asyncio.Task[None]] = set()
        # The deliveries, which must be answered at once, keep a connection; so does whatever else the service reads.
        self._ledger_turn = asyncio.Semaphore(max(1, ledger.parallel_writes - 2))
        self._sweeps: list[asyncio.Task[None]] = []

    def _build_job_api(self, ledger: Ledger) -> None:
        settings = self.settings
        queue = DeploymentQueue(settings.deployment, settings.ledger) if settings.deployment else None
        self.jobs = JobService(
            self.sessions,
            collect=settings.collect,
            queue=queue,
            ledger_name=settings.ledger,
            tokens=self.tokens,
            galleries=self.galleries,
            precedence=self.precedence,
        )
        self.projects = ProjectService(self.sessions, self.jobs, queue=queue)
        self.changes = JobChanges(ledger)
        hosts = frozenset(settings.callback_hosts)
        self.api = JobApi(
            jobs=self.jobs,
            projects=self.projects,
            sessions=self.sessions,
            guard=Guard(self.tokens, self.metrics, settings.body_limit_bytes),
            links=VideoLinks(self.tokens, settings.public_url, settings.link_seconds),
            changes=self.changes,
            metrics=self.metrics,
            project_limit_bytes=settings.project_limit_bytes,
            callback_hosts=hosts,
            event_streams=settings.event_streams,
        )
        self.callbacks = CallbackSender(
            ledger,
            self.jobs.environment,
            self.tokens,
            self._describe,
            self.changes,
            self.metrics,
            hosts=hosts,
            retry_seconds=settings.callback_retry_seconds,
        )

    async def _describe(self, callback: Callback) -> tuple[str, dict[str, Any]] | None:
        """Describe what a callback reports: its type, and the job or the project as the API shows it."""
        if callback.kind == "project":
            project = await self.projects.find(callback.subject)
            return None if project is None else (f"project.{project.status}", project.model_dump(mode="json"))
        job = await self.jobs.find(callback.subject)
        return None if job is None else (f"job.{job.status}", job.model_dump(mode="json"))

    async def start(self) -> None:
        """Start the workers and the sweeps: for jobs that an earlier process left, and for pages that are behind."""
        self.workers.start()
        self._sweeps.append(asyncio.create_task(self.watch.run(self.sessions.sessions), name="watch credentials"))
        if self.settings.has_job_api:
            self.callbacks.start()
            if (block := self.settings.tokens_block) is not None:
                watching = watch_block(self.tokens, block, self.settings.reload_seconds)
                self._sweeps.append(asyncio.create_task(watching, name="watch tokens"))
            self._sweeps.append(asyncio.create_task(self._resume(), name="resume jobs"))
        if self.settings.collect:
            self._sweeps.append(asyncio.create_task(self._refresh_galleries(), name="refresh galleries"))

    async def aclose(self) -> None:
        """Stop in the reverse order of the data's way; what is not finished stays in the ledger."""
        for task in (*self._sweeps, *self._finishing):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.callbacks.aclose()
        await self.projects.aclose()
        await self.changes.aclose()
        self.receiver.close()
        await self.jobs.aclose()
        await self.galleries.refresh()
        await self.inbox.aclose()
        await self.workers.aclose()

    async def _handle(self, event: ReceivedEvent) -> None:
        """Handle an event, and store its video if no run will."""
        session = self.sessions.by_id(event.account)
        assert session is not None
        job = await handle(session, event, self.announce, turn=self._turn)
        self.metrics.handled.labels(get_outcome(job)).inc()
        self.deferred.note_end()
        if self.settings.collect and job.state is State.COMPLETED:
            # Not in the worker, which the next event needs: a download may take minutes.
            task = asyncio.create_task(self._store_video(session, job), name=f"store {job.id}")
            # The event loop keeps weak references only.
            self._finishing.add(task)
            task.add_done_callback(self._finishing.discard)
        else:
            session.fresh_generations.discard(job.generation_id)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Hold a turn at the ledger, after what waits for its answer: deliveries, requests; PostgreSQL has several."""
        async with self._ledger_turn:
            await self.inbox.wait_until_idle()
            await self.precedence.wait_until_idle(_TURN_WAIT_SECONDS)
            yield

    async def _resume(self) -> None:
        """Resume unsent jobs at every sweep."""
        while True:
            try:
                await self.jobs.resume()
                await self.projects.resume()
            except LedgerError as error:
                logger.warning("jobs that were not sent are not resumed now, the next sweep tries again: %s", error)
            await asyncio.sleep(self.settings.sweep_seconds)

    async def _refresh_galleries(self) -> None:
        """Complete deferred projects that are over, and write the pages that are behind, at every sweep."""
        while True:
            await asyncio.sleep(self.settings.sweep_seconds)
            await self.deferred.complete()
            await self.galleries.refresh()

    async def _store_video(self, session: Session, job: Job) -> None:
        """Store the video of a job without a live owner."""
        try:
            collected = await collect_job(session, job, wait=False)
            self.galleries.note_collected(session, collected.job)
            self.deferred.note_end()
        finally:
            session.fresh_generations.discard(job.generation_id)


@asynccontextmanager
async def open_runtime(
    settings: ServiceSettings, metrics: Metrics, *, announce: Announce | None = None
) -> AsyncIterator[ServiceRuntime]:
    """Open and start the parts of a service, for as long as the context lasts.

    Args:
        settings: The settings.
        metrics: The counters of the service.
        announce: Called with each generation that has ended. By default Prefect events are emitted, of generations,
            projects, budgets, volumes, breakers and keys, unless the settings say no or no Prefect API is configured.

    Raises:
        InvalidInput: An account, the store, the ledger or a source of tokens is not known.
        LedgerError: The ledger cannot be used.
    """
    watch = await CredentialsWatch.begin(settings.accounts, settings.reload_seconds)
    announces = announce is None and settings.announce and await has_prefect_api()
    async with open_sessions(settings, announces=announces) as sessions:
        announcer = announce or (await open_announcer() if settings.announce else None)
        runtime = ServiceRuntime(sessions, settings, metrics, announcer, await open_tokens(settings), watch)
        await runtime.start()
        try:
            yield runtime
        finally:
            await runtime.aclose()
