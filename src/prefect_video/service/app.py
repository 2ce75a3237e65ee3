"""The ASGI application: its start-up, its routes, and the parts that run behind them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from prefect_video import __version__
from prefect_video._clean_text import enable_clean_logs
from prefect_video._crash_trace import enable_crash_trace
from prefect_video.errors import LedgerError
from prefect_video.ledger import Job, ReceivedEvent, State
from prefect_video.pipeline import collect_job
from prefect_video.service.galleries import StaleGalleries
from prefect_video.service.jobs.routes import job_routes
from prefect_video.service.jobs.service import JobService
from prefect_video.service.known_hosts import KnownHosts
from prefect_video.service.metrics import CONTENT_TYPE, Metrics
from prefect_video.service.prefect_events import Announce, get_outcome, open_announcer
from prefect_video.service.sessions import Sessions, open_sessions
from prefect_video.service.settings import ServiceSettings
from prefect_video.service.webhooks.handler import handle
from prefect_video.service.webhooks.inbox import Inbox
from prefect_video.service.webhooks.routes import WebhookReceiver, webhook_routes
from prefect_video.service.webhooks.workers import Workers
from prefect_video.session import Session

logger = logging.getLogger(__name__)

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
        async with open_sessions(settings) as sessions:
            announcer = announce or (await open_announcer() if settings.announce else None)
            runtime = ServiceRuntime(sessions, settings, metrics, announcer)
            app.router.routes.extend(webhook_routes(runtime.receiver))
            if settings.api_token is not None:
                limit = settings.body_limit_bytes
                app.include_router(job_routes(runtime.jobs, settings.api_token, metrics, body_limit_bytes=limit))
            app.state.sessions = sessions
            await runtime.start()
            try:
                yield
            finally:
                await runtime.aclose()

    app = FastAPI(title="prefect-video", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_operation_routes(app, metrics)
    if settings.hosts:
        app.add_middleware(KnownHosts, names=settings.hosts)
    return app


def _add_operation_routes(app: FastAPI, metrics: Metrics) -> None:
    """Add the routes for health checks and for Prometheus."""

    @app.get("/healthz", tags=["operation"])
    async def healthz() -> JSONResponse:
        """Report if the ledger can be used."""
        try:
            await app.state.sessions.sessions[0].ledger.check()
        except LedgerError as error:
            logger.error("not healthy: %s", error)
            return JSONResponse({"status": "the ledger cannot be used"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", tags=["operation"])
    async def prometheus() -> Response:
        """Return the counters in Prometheus's text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)


@dataclass
class ServiceRuntime:
    """The parts of a running service, and the tasks that run in the background.

    Attributes:
        sessions: The open sessions, one per account.
        settings: The settings of the service.
        metrics: The counters of the service.
        announce: Called with each generation that has ended; None for nothing.
    """

    sessions: Sessions
    settings: ServiceSettings
    metrics: Metrics
    announce: Announce | None

    def __post_init__(self) -> None:
        ledger = self.sessions.sessions[0].ledger
        self.inbox = Inbox(ledger)
        self.galleries = StaleGalleries()
        self.jobs = JobService(self.sessions, collect=self.settings.collect, galleries=self.galleries)
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

    async def start(self) -> None:
        """Start the workers and the sweeps: for jobs that an earlier process left, and for pages that are behind."""
        self.workers.start()
        if self.settings.api_token is not None:
            self._sweeps.append(asyncio.create_task(self._resume(), name="resume jobs"))
        if self.settings.collect:
            self._sweeps.append(asyncio.create_task(self._refresh_galleries(), name="refresh galleries"))

    async def aclose(self) -> None:
        """Stop in the reverse order of the data's way; what is not finished stays in the ledger."""
        for task in (*self._sweeps, *self._finishing):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
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
        """Hold a turn at the ledger, after the deliveries that wait for their answer; PostgreSQL has several turns."""
        async with self._ledger_turn:
            await self.inbox.wait_until_idle()
            yield

    async def _resume(self) -> None:
        """Resume unsent jobs at every sweep."""
        while True:
            try:
                await self.jobs.resume()
            except LedgerError as error:
                logger.warning("jobs that were not sent are not resumed now, the next sweep tries again: %s", error)
            await asyncio.sleep(self.settings.sweep_seconds)

    async def _refresh_galleries(self) -> None:
        """Write the pages that are behind, at every sweep."""
        while True:
            await asyncio.sleep(self.settings.sweep_seconds)
            await self.galleries.refresh()

    async def _store_video(self, session: Session, job: Job) -> None:
        """Store the video of a job without a live owner."""
        try:
            collected = await collect_job(session, job, wait=False)
            self.galleries.note_collected(session, collected.job)
        finally:
            session.fresh_generations.discard(job.generation_id)
