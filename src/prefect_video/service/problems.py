"""Refusals as problems (RFC 9457): one form for every answer that is not what was requested."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match

from prefect_video.errors import (
    BudgetExceeded,
    IdempotencyKeyReused,
    InvalidInput,
    LedgerError,
    ProviderError,
    StoreError,
    VideoError,
)
from prefect_video.service.metrics import Metrics

logger = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_T = TypeVar("_T")
_SCHEMA: Final = {"$ref": "#/components/schemas/Problem"}


class InvalidField(BaseModel):
    """A part of a request that cannot be used.

    Attributes:
        pointer: Its place, such as `/body/shots/0/prompt`.
        detail: The reason.
    """

    pointer: str
    detail: str


class Problem(BaseModel):
    """Refusal of a request, or its failure.

    Attributes:
        type: The kind of problem, which a program can test; `about:blank` where the status says it all.
        title: The kind of problem in words.
        status: The HTTP status.
        detail: The cause, and what to do.
        errors: Parts of the request that cannot be used.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "about:blank",
                "title": "Unprocessable Content",
                "status": 422,
                "detail": "body/duration: Input should be less than or equal to 20",
                "errors": [{"pointer": "/body/duration", "detail": "Input should be less than or equal to 20"}],
            }
        }
    )

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[InvalidField] = Field(default_factory=list)


class Refused(HTTPException):
    """A refusal with a kind of its own, which a program can test.

    Args:
        status: The HTTP status.
        kind: The last part of the problem's type.
        title: The kind of problem in words.
        detail: The cause, and what to do.
        headers: Further headers of the answer.
    """

    def __init__(
        self, status: int, kind: str, title: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, headers)
        self.kind = kind
        self.title = title


def build_problem(error: HTTPException) -> Problem:
    """Build the problem of a refusal."""
    if isinstance(error, Refused):
        kind = f"urn:prefect-video:{error.kind}"
        return Problem(type=kind, title=error.title, status=error.status_code, detail=error.detail)
    return Problem(title=_title(error.status_code), status=error.status_code, detail=str(error.detail))


def build_response(problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Build the response that carries a problem."""
    exclude = None if problem.errors else {"errors"}
    return JSONResponse(problem.model_dump(exclude=exclude), problem.status, headers, media_type=MEDIA_TYPE)


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every refusal of an application as a problem, those of the framework too."""
    app.add_exception_handler(HTTPException, _answer_refusal)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(Exception, _answer_defect)


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the refusals of an operation for OpenAPI."""
    return {
        status: {"description": _title(status), "content": {MEDIA_TYPE: {"schema": _SCHEMA}}} for status in statuses
    }


async def translate_errors(work: Awaitable[_T], metrics: Metrics | None = None) -> _T:
    """Await an operation; its errors become refusals, which are counted where metrics are given."""
    try:
        return await work
    except VideoError as error:
        if metrics is not None:
            metrics.jobs.labels("refused").inc()
        raise build_refusal(error) from error


def build_refusal(error: VideoError) -> HTTPException:
    """Build the refusal that an error stands for."""
    match error:
        case IdempotencyKeyReused():
            return Refused(422, "idempotency-key-reused", "The Idempotency-Key belongs to another request", str(error))
        case InvalidInput():
            return HTTPException(422, str(error))
        case BudgetExceeded():
            return Refused(402, "over-budget", "The request does not fit the budget", str(error))
        case LedgerError() | ProviderError() | StoreError():
            return HTTPException(503, str(error), {"Retry-After": "5"})
        case _:
            return HTTPException(503, str(error))


def _title(status: int) -> str:
    return HTTPStatus(status).phrase


async def _answer_refusal(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    return build_response(build_problem(error), headers)


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes at the request's path; the framework names those of the first only."""
    return [
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]


async def _answer_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors: list[InvalidField] = []
    status = 422
    for fault in error.errors():
        if fault["type"] == "json_invalid":
            status = 400
        path = [str(part) for part in fault["loc"]]
        errors.append(InvalidField(pointer="/" + "/".join(path), detail=fault["msg"]))
    detail = "; ".join(f"{item.pointer[1:]}: {item.detail}" for item in errors)
    return build_response(Problem(title=_title(status), status=status, detail=detail, errors=errors))


async def _answer_defect(request: Request, error: Exception) -> JSONResponse:
    """Answer a defect of the service; the framework logs it with its traceback."""
    detail = "the service has a defect, which is in its log; what was accepted is in the ledger"
    return build_response(Problem(title=_title(500), status=500, detail=detail))
