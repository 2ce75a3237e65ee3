"""The job API: `POST /generate` and `GET /jobs/{job_id}`, for whoever has the token."""

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
from prefect_video.service.jobs.service import GenerationRequest, JobService, JobView
from prefect_video.service.metrics import Metrics
from prefect_video.service.webhooks.routes import read_body

_BEARER: Final = HTTPBearer(auto_error=False)
_KEY = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]


def job_routes(jobs: JobService, token: SecretStr, metrics: Metrics, *, body_limit_bytes: int) -> APIRouter:
    """The job API's routes, behind a bearer token."""
    secret = token.get_secret_value().encode()

    class Guarded(APIRoute):
        """Asks for the token before a byte of the body is read, and reads no more than is allowed."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                given = await _BEARER(request)
                if given is None or not hmac.compare_digest(given.credentials.encode(), secret):
                    raise HTTPException(401, "a valid bearer token is needed", {"WWW-Authenticate": "Bearer"})
                body = await read_body(request, body_limit_bytes)
                if body is None:
                    raise HTTPException(413, f"the body is larger than {body_limit_bytes} bytes")
                return await handle(_with_body(request, body))

            return guarded

    async def generate(request: GenerationRequest, response: Response, key: _KEY = None) -> JobView | JSONResponse:
        """Asks for a video. The same request again is answered with the same job, and is not paid for again."""
        try:
            job, outcome = await jobs.create(request, key=key)
        except IdempotencyKeyReused as error:
            metrics.jobs.labels("refused").inc()
            return _problem(422, "idempotency-key-reused", "The Idempotency-Key stands for another request", error)
        except InvalidInput as error:
            raise _refusal(422, error, metrics) from error
        except BudgetExceeded as error:
            raise _refusal(402, error, metrics) from error
        except (LedgerError, ProviderError, StoreError) as error:
            raise _refusal(503, error, metrics) from error
        metrics.jobs.labels(outcome).inc()
        response.status_code = 202 if job.status in ("queued", "processing") else 200
        response.headers["Location"] = f"/jobs/{job.job_id}"
        return job

    async def job(job_id: str) -> JobView:
        """Where a request stands."""
        try:
            found = await jobs.find(job_id)
        except LedgerError as error:
            raise HTTPException(503, str(error)) from error
        if found is None:
            raise HTTPException(404, f"there is no job {job_id!r}")
        return found

    # The scheme stands in the document only: by the time that it is asked for, the route has let the request pass.
    routes = APIRouter(tags=["jobs"], dependencies=[Depends(_BEARER)], route_class=Guarded)
    routes.add_api_route("/generate", generate, methods=["POST"], status_code=202, response_model=JobView)
    routes.add_api_route("/jobs/{job_id}", job, methods=["GET"])
    return routes


def _with_body(request: Request, body: bytes) -> Request:
    """The request, to be read again."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, receive)


def _problem(status: int, kind: str, title: str, error: Exception) -> JSONResponse:
    """A refusal as RFC 9457 has it, so that a client can tell its kind."""
    content = {"type": f"urn:prefect-video:{kind}", "title": title, "status": status, "detail": str(error)}
    return JSONResponse(content, status, media_type="application/problem+json")


def _refusal(status: int, error: Exception, metrics: Metrics) -> HTTPException:
    metrics.jobs.labels("refused").inc()
    return HTTPException(status, str(error))
