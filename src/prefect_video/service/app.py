"""The application: what it opens when it starts, and its routes."""

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
from prefect_video._crash_trace import enable_crash_trace
from prefect_video.errors import LedgerError
from prefect_video.ledger import Job, ReceivedEvent, State
from prefect_video.pipeline import collect_job
from prefect_video.service.jobs.routes import job_routes
from prefect_video.service.jobs.service import JobService
from prefect_video.service.metrics import CONTENT_TYPE, Metrics
from prefect_video.service.prefect_events import Announce, open_announcer, outcome_of
from prefect_video.service.sessions import Sessions, open_sessions
from prefect_video.service.settings import ServiceSettings
from prefect_video.service.webhooks.handler import handle
from prefect_video.service.webhooks.inbox import Inbox
from prefect_video.service.webhooks.routes import WebhookReceiver, webhook_routes
from prefect_video.service.webhooks.workers import Workers
from prefect_video.session import Session

logger = logging.getLogger(__name__)

_STRANGER: Final = 2.0
"""How many times `settle_seconds` an unanswered submit may take to be found at the provider and recorded."""


def create_app(settings: ServiceSettings | None = None, *, announce: Announce | None = None) -> FastAPI:
    """The service as an ASGI application.

    Args:
        settings: How it behaves; by default as the environment says.
        announce: Told of each generation that has ended; by default a Prefect event is emitted.
    """
    chosen = settings or ServiceSettings.from_environment()
    metrics = Metrics()

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        enable_crash_trace()
        async with open_sessions(chosen) as accounts:
            teller = announce or (await open_announcer() if chosen.announce else None)
            work = ServiceRuntime(accounts, chosen, metrics, teller)
            app.router.routes.extend(webhook_routes(work.receiver))
            if chosen.api_token is not None:
                limit = chosen.body_limit_bytes
                app.include_router(job_routes(work.jobs, chosen.api_token, metrics, body_limit_bytes=limit))
            app.state.accounts = accounts
            await work.start()
            try:
                yield
            finally:
                await work.aclose()

    app = FastAPI(title="prefect-video", version=__version__, lifespan=running, docs_url=None, redoc_url=None)

    @app.get("/healthz", tags=["operation"])
    async def healthz() -> JSONResponse:
        """Whether the ledger can be used."""
        try:
            await app.state.accounts.sessions[0].ledger.check()
        except LedgerError as error:
            logger.error("not healthy: %s", error)
            return JSONResponse({"status": "the ledger cannot be used"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", tags=["operation"])
    async def prometheus() -> Response:
        """Counters, for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return app


@dataclass
class ServiceRuntime:
    sessions: Sessions
    settings: ServiceSettings
    metrics: Metrics
    announce: Announce | None

    def __post_init__(self) -> None:
        ledger = self.sessions.sessions[0].ledger
        self.inbox = Inbox(ledger)
        self.jobs = JobService(self.sessions, collect=self.settings.collect)
        self.workers = Workers(
            self._handle,
            ledger=ledger,
            accounts=self.sessions.ids,
            settings=self.settings,
            metrics=self.metrics,
            stranger_seconds=_STRANGER * max(session.settings.settle_seconds for session in self.sessions.sessions),
        )
        self.receiver = WebhookReceiver(
            self.sessions, self.inbox, self.workers, self.metrics, body_limit_bytes=self.settings.body_limit_bytes
        )
        self._finishing: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()
        self._resuming: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.workers.start()
        if self.settings.api_token is not None:
            self._resuming = asyncio.create_task(self._resume(), name="resume jobs")

    async def aclose(self) -> None:
        for task in (self._resuming, *self._finishing):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self.jobs.aclose()
        await self.inbox.aclose()
        await self.workers.aclose()

    async def _handle(self, event: ReceivedEvent) -> None:
        session = self.sessions.by_id(event.account)
        assert session is not None
        job = await handle(session, event, self.announce, turn=self._turn)
        self.metrics.handled.labels(outcome_of(job)).inc()
        if self.settings.collect and job.state is State.COMPLETED:
            task = asyncio.create_task(_finish(session, job), name=f"store {job.id}")
            self._finishing.add(task)
            task.add_done_callback(self._finishing.discard)
        else:
            session.fresh_generations.discard(job.generation_id)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """To use the ledger for one event: one does at a time, and gives way to deliveries."""
        async with self._one_at_a_time:
            await self.inbox.wait_until_idle()
            yield

    async def _resume(self) -> None:
        while True:
            try:
                await self.jobs.resume()
            except LedgerError as error:
                logger.warning("jobs that were not sent are not looked for now: %s", error)
            await asyncio.sleep(self.settings.sweep_seconds)


async def _finish(session: Session, job: Job) -> None:
    """Stores a video that nobody alive is waiting for; not in a worker, which the next event needs."""
    try:
        await collect_job(session, job, wait=False)
    finally:
        session.fresh_generations.discard(job.generation_id)
