"""The routes of webhooks: verify, store, acknowledge; everything else happens afterwards."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from prefect_video.errors import InvalidInput, LedgerError, ProviderUnavailable
from prefect_video.generations import WebhookEvent, is_progress_event
from prefect_video.ledger import ReceivedEvent
from prefect_video.providers import check_depth
from prefect_video.service.metrics import Metrics
from prefect_video.service.request_bodies import read_body
from prefect_video.service.sessions import Sessions, sessions_that_signed
from prefect_video.service.webhooks.handler import find_job, is_about
from prefect_video.service.webhooks.inbox import Inbox
from prefect_video.service.webhooks.refused_deliveries import RefusalLog
from prefect_video.service.webhooks.workers import Workers
from prefect_video.session import Session


class WebhookReceiver:
    """The receiver of webhooks: verifies, stores and acknowledges deliveries at both addresses that providers call.

    Args:
        sessions: The open sessions, one per account.
        inbox: Stores the events.
        workers: Handle the events afterwards.
        metrics: Counts the deliveries by outcome.
        body_limit_bytes: Largest body that is read.
    """

    def __init__(
        self, sessions: Sessions, inbox: Inbox, workers: Workers, metrics: Metrics, *, body_limit_bytes: int
    ) -> None:
        self._sessions = sessions
        self._inbox = inbox
        self._workers = workers
        self._metrics = metrics
        self._limit = body_limit_bytes
        self._refusals = RefusalLog()

    def close(self) -> None:
        """Log the refusals that are counted and not logged yet."""
        self._refusals.close()

    async def receive(self, request: Request) -> JSONResponse:
        """Answer `POST /webhooks/{account, provider or block}` and `POST /webhook/{job_id}`."""
        started = time.perf_counter()
        response = await self._receive(request, **request.path_params)
        self._metrics.seconds.observe(time.perf_counter() - started)
        return response

    async def _receive(self, request: Request, *, name: str | None = None, job_id: str | None = None) -> JSONResponse:
        if job_id is not None and not job_id.isprintable():
            return self._refuse(404, "unknown", "it is not about the job that its address names")
        candidates = self._sessions.sessions if name is None else self._sessions.by_name(name)
        if not candidates:
            return self._refuse(404, "unknown", "the address names no account of this service")
        body = await read_body(request, self._limit)
        if body is None:
            return self._refuse(413, "too_large", "the body is too large")
        try:
            check_depth(body)
        except ValueError as error:
            return self._refuse(400, "unreadable", str(error))
        try:
            verified = await sessions_that_signed(candidates, request.headers, body)
        except ProviderUnavailable as error:
            return self._refuse(503, "unavailable", f"it cannot be verified now, its sender repeats it: {error}")
        except InvalidInput as error:
            return self._refuse(401, "forged", str(error))
        if not all(_is_storable(event) for _, event in verified):
            return self._refuse(400, "unreadable", "a name in it holds characters that cannot be stored")
        now = datetime.now(UTC)
        events = [_build_event(session, event, now) for session, event in verified]
        try:
            event = events[0] if len(events) == 1 else await self._choose_event(events)
            if job_id is not None and not await self._is_for_job(event, job_id):
                return self._refuse(404, "unknown", "it is not about the job that its address names")
            is_new = await self._inbox.put(event)
        except LedgerError as error:
            return self._refuse(503, "unavailable", f"it cannot be stored now, its sender repeats it: {error}")
        self._metrics.received.labels("accepted" if is_new else "duplicate").inc()
        if is_new and event.handled_at is None:
            self._workers.enqueue(event)
        return JSONResponse({"received": True})

    async def _is_for_job(self, event: ReceivedEvent, job_id: str) -> bool:
        """Check if an event is about a job; one whose generation is not recorded yet may be."""
        jobs = await self._sessions.sessions[0].ledger.jobs.get_many([job_id])
        return any(job.account == event.account and (job.generation_id is None or is_about(event, job)) for job in jobs)

    async def _choose_event(self, events: list[ReceivedEvent]) -> ReceivedEvent:
        """Choose, of several accounts with the same secret, the one that has the event's generation in the ledger."""
        for event in events:
            session = self._sessions.by_id(event.account)
            if session is not None and await find_job(session, event) is not None:
                return event
        return events[0]

    def _refuse(self, status: int, outcome: str, reason: str) -> JSONResponse:
        """Count a refused delivery; its reason goes into the log only, as it would help a forger."""
        self._metrics.received.labels(outcome).inc()
        self._refusals.count(f"HTTP {status}: {reason}")
        return JSONResponse({"received": False}, status)


def _build_event(session: Session, event: WebhookEvent, now: datetime) -> ReceivedEvent:
    return ReceivedEvent(
        account=session.provider.account.id,
        event_id=event.event_id,
        generation_id=event.generation_id,
        type=event.event_type,
        received_at=now,
        # Progress needs no work, but is stored, so that a duplicate is recognised.
        handled_at=now if is_progress_event(event.event_type) else None,
    )


def _is_storable(event: WebhookEvent) -> bool:
    """Check if databases can store an event's names: JSON allows NUL and lone surrogates, PostgreSQL does not."""
    return f"{event.event_id}{event.generation_id}{event.event_type}".isprintable()


def webhook_routes(receiver: WebhookReceiver) -> list[Route]:
    """Build the receiver's routes; an account's name may contain slashes, as a block's does.

    They are plain Starlette routes, because a signature is over the raw bytes of the body.
    """
    return [
        Route("/webhooks/{name:path}", receiver.receive, methods=["POST"]),
        Route("/webhook/{job_id}", receiver.receive, methods=["POST"]),
    ]
