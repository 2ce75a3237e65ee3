"""The routes of the job API: `POST /generate` and `GET /jobs/{job_id}`, behind a bearer token."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import SecretStr
from starlette.types import Message

from prefect_video.errors import (
    BudgetExceeded,
    IdempotencyKeyReused,
    InvalidInput,
    LedgerError,
    ProviderError,
    StoreError,
)
from prefect_video.pipeline.steps import traced_request
from prefect_video.service.jobs.service import GenerateBody, JobService, JobView
from prefect_video.service.metrics import Metrics
from prefect_video.service.request_bodies import read_body, require_usable_json

_BEARER: Final = HTTPBearer(auto_error=False)
_IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]


def job_routes(jobs: JobService, token: SecretStr, metrics: Metrics, *, body_limit_bytes: int) -> APIRouter:
    """Build the job API's routes, behind a bearer token."""

    async def generate(body: GenerateBody, response: Response, key: _IdempotencyKey = None) -> JobView | JSONResponse:
        """Request a video. The same request again is answered with the same job, and is not paid for again."""
        try:
            # The job that it begins goes on in a task, whose steps belong to the request's trace.
            with traced_request("generate"):
                job, outcome = await jobs.create(body, key=key)
        except IdempotencyKeyReused as error:
            metrics.jobs.labels("refused").inc()
            return _build_problem(
                422, "idempotency-key-reused", "The Idempotency-Key belongs to another request", error
            )
        except InvalidInput as error:
            raise _build_refusal(422, error, metrics) from error
        except BudgetExceeded as error:
            raise _build_refusal(402, error, metrics) from error
        except (LedgerError, ProviderError, StoreError) as error:
            raise _build_refusal(503, error, metrics) from error
        metrics.jobs.labels(outcome).inc()
        response.status_code = 202 if job.status in ("queued", "processing") else 200
        response.headers["Location"] = f"/jobs/{job.job_id}"
        return job

    async def job(job_id: str) -> JobView:
        """Return the state of a job."""
        try:
            # No database has an id with control characters, and not every one can be asked for it.
            view = await jobs.find(job_id) if job_id.isprintable() else None
        except LedgerError as error:
            raise HTTPException(503, str(error)) from error
        if view is None:
            raise HTTPException(404, f"there is no job {job_id!r}")
        return view

    # This dependency only documents the scheme in OpenAPI: the guarded route checks the token before it runs.
    routes = APIRouter(
        tags=["jobs"], dependencies=[Depends(_BEARER)], route_class=_build_guarded_route(token, body_limit_bytes)
    )
    routes.add_api_route("/generate", generate, methods=["POST"], status_code=202, response_model=JobView)
    routes.add_api_route("/jobs/{job_id}", job, methods=["GET"])
    return routes


def _build_guarded_route(token: SecretStr, body_limit_bytes: int) -> type[APIRoute]:
    """Build the class of routes that check a token, and limit the size of the body."""
    secret = token.get_secret_value().encode()

    class GuardedRoute(APIRoute):
        """A route that checks the token before it reads the body, and reads no more than the limit."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """Wrap FastAPI's handler, which reads and parses the whole body before any dependency runs."""
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                authorization = await _BEARER(request)
                # Compared in constant time, so that response times reveal nothing about the token.
                if authorization is None or not hmac.compare_digest(authorization.credentials.encode(), secret):
                    raise HTTPException(401, "a valid bearer token is needed", {"WWW-Authenticate": "Bearer"})
                body = await read_body(request, body_limit_bytes)
                if body is None:
                    raise HTTPException(413, f"the body is larger than {body_limit_bytes} bytes")
                require_usable_json(body)
                return await handle(_with_body(request, body))

            return guarded

    return GuardedRoute


def _with_body(request: Request, body: bytes) -> Request:
    """Return a request whose body, which has been read, can be read again."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, receive)


def _build_problem(status: int, kind: str, title: str, error: Exception) -> JSONResponse:
    """Build a refusal as an RFC 9457 problem, whose type a client can test."""
    content = {"type": f"urn:prefect-video:{kind}", "title": title, "status": status, "detail": str(error)}
    return JSONResponse(content, status, media_type="application/problem+json")


def _build_refusal(status: int, error: Exception, metrics: Metrics) -> HTTPException:
    """Count a refused request, and build its response."""
    metrics.jobs.labels("refused").inc()
    return HTTPException(status, str(error))
