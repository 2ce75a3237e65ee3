"""Receiving webhooks: verify, write down, acknowledge; everything else happens afterwards."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from prefect_video.errors import LedgerError, ProviderUnavailable
from prefect_video.generations import WebhookEvent
from prefect_video.ledger import ReceivedEvent
from prefect_video.service.metrics import Metrics
from prefect_video.service.sessions import Sessions, sessions_that_signed
from prefect_video.service.webhooks.handler import find_job, is_about, is_progress_event
from prefect_video.service.webhooks.inbox import Inbox
from prefect_video.service.webhooks.workers import Workers
from prefect_video.session import Session

logger = logging.getLogger(__name__)


async def read_body(request: Request, limit: int) -> bytes | None:
    """The raw body; None as soon as it is larger than the limit."""
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > limit:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


class WebhookReceiver:
    """The two addresses that providers are given."""

    def __init__(
        self, accounts: Sessions, inbox: Inbox, workers: Workers, metrics: Metrics, *, body_limit_bytes: int
    ) -> None:
        self._accounts = accounts
        self._inbox = inbox
        self._workers = workers
        self._metrics = metrics
        self._limit = body_limit_bytes

    async def of_account(self, request: Request) -> JSONResponse:
        """`POST /webhooks/{account or provider}`."""
        began = time.perf_counter()
        answer = await self._receive(request, name=request.path_params["name"])
        self._metrics.seconds.observe(time.perf_counter() - began)
        return answer

    async def of_job(self, request: Request) -> JSONResponse:
        """`POST /webhook/{job_id}`."""
        began = time.perf_counter()
        answer = await self._receive(request, job_id=request.path_params["job_id"])
        self._metrics.seconds.observe(time.perf_counter() - began)
        return answer

    async def _receive(self, request: Request, *, name: str | None = None, job_id: str | None = None) -> JSONResponse:
        candidates = self._accounts.sessions if name is None else self._accounts.by_name(name)
        if not candidates:
            return self._refuse(404, "unknown")
        body = await read_body(request, self._limit)
        if body is None:
            return self._refuse(413, "too_large")
        try:
            genuine = await sessions_that_signed(candidates, request.headers, body)
        except ProviderUnavailable as error:
            logger.error("a webhook cannot be verified now, its sender is asked to come again: %s", error)
            return self._refuse(503, "unavailable")
        if not genuine:
            return self._refuse(401, "forged")
        if not all(_is_readable(told) for _, told in genuine):
            return self._refuse(400, "unreadable")
        now = datetime.now(UTC)
        events = [_event(session, told, now) for session, told in genuine]
        try:
            event = events[0] if len(events) == 1 else await self._whose(events)
            if job_id is not None and not await self._belongs(event, job_id):
                return self._refuse(404, "unknown")
            is_new = await self._inbox.put(event)
        except LedgerError as error:
            logger.error("a webhook could not be written down, its sender is asked to come again: %s", error)
            return self._refuse(503, "unavailable")
        self._metrics.received.labels("accepted" if is_new else "duplicate").inc()
        if is_new and event.handled_at is None:
            self._workers.enqueue(event)
        return JSONResponse({"received": True})

    async def _belongs(self, event: ReceivedEvent, job_id: str) -> bool:
        found = await self._accounts.sessions[0].ledger.jobs.get_many([job_id])
        return any(
            job.account == event.account and (job.generation_id is None or is_about(event, job)) for job in found
        )

    async def _whose(self, events: list[ReceivedEvent]) -> ReceivedEvent:
        """Of several accounts with the same secret, the one whose ledger row the event is about."""
        for event in events:
            session = self._accounts.by_id(event.account)
            if session is not None and await find_job(session, event) is not None:
                return event
        return events[0]

    def _refuse(self, status: int, outcome: str) -> JSONResponse:
        self._metrics.received.labels(outcome).inc()
        return JSONResponse({"received": False}, status)


def _event(session: Session, told: WebhookEvent, now: datetime) -> ReceivedEvent:
    return ReceivedEvent(
        account=session.provider.account.id,
        event_id=told.event_id,
        generation_id=told.generation_id,
        type=told.event_type,
        received_at=now,
        handled_at=now if is_progress_event(told.event_type) else None,
    )


def _is_readable(told: WebhookEvent) -> bool:
    """Whether a database can keep its names: JSON allows NUL, and halves of characters."""
    return f"{told.event_id}{told.generation_id}{told.event_type}".isprintable()


def webhook_routes(receiver: WebhookReceiver) -> list[Route]:
    """The receiver's routes; an account's name may hold slashes.

    Plain routes, as raw bytes are read and nothing is left to validate by declaration.
    """
    return [
        Route("/webhooks/{name:path}", receiver.of_account, methods=["POST"]),
        Route("/webhook/{job_id}", receiver.of_job, methods=["POST"]),
    ]
