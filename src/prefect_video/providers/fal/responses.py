"""How fal's JSON is read: tickets of the queue, statuses, results, errors and events."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import httpx
from pydantic import Field

from prefect_video.errors import (
    InvalidResponse,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RequestRejected,
)
from prefect_video.generations import ProviderFault, Status, VideoResult
from prefect_video.providers.refusals import ACCOUNT, ErrorBody, RefusalRule, RefusalTable, fastapi_message, text_of
from prefect_video.providers.responses import (
    Evidence,
    LenientModel,
    build_error,
    decode_body,
    error_for_status,
    fault_of,
    parse,
    parse_status,
    request_id,
    share_of,
    unwrapped,
)

_UNTOLD: Final = "error"
_CANCELLED_TYPES: Final = frozenset({"client_cancelled", "request_cancelled", "cancelled"})


class QueuedRequest(LenientModel):
    """The answer to a submit.

    Attributes:
        request_id: What webhooks call the job.
        status_url: Where the job is polled; the model's path without what follows owner and app.
    """

    request_id: str = Field(min_length=1)
    status_url: str | None = None


class QueueStatus(LenientModel):
    """The status of a job."""

    status: str
    response_url: str | None = None
    error: Any = None
    error_type: str | None = None
    progress: float | None = None

    @property
    def fault(self) -> ProviderFault | None:
        """Why it failed, where the status itself says so."""
        return fault_of(self.status, self._fault)

    @property
    def _fault(self) -> ProviderFault | None:
        if not self.error and not self.error_type:
            return None
        message = str(self.error or self.error_type)
        # fal's own words: "Invalid status code: 422".
        return ProviderFault(code=self.error_type or "error", message=message, of_request="status code: 422" in message)


class _File(LenientModel):
    url: str = Field(min_length=1)
    file_size: int | None = None
    width: int | None = None
    height: int | None = None
    duration: float | None = None


class _Payload(LenientModel):
    video: _File | str | None = None
    video_url: str | None = None
    videos: list[_File | str] | None = None
    output: _File | str | None = None

    @property
    def file(self) -> _File | str | None:
        """The video, under any of the names that models use."""
        return self.video or self.video_url or next(iter(self.videos or ()), None) or self.output


class ResultError(ProviderError):
    """A result that is an error: the job is over, and `fault` says why."""

    fault: ProviderFault = ProviderFault(code="error", message="no reason given")


def read_ticket(response: httpx.Response, *, provider: str) -> QueuedRequest:
    """The ticket of a job that was queued.

    Raises:
        InvalidResponse: It is not one of the contract.
    """
    return parse(QueuedRequest, response, provider=provider)


def read_status(response: httpx.Response, *, provider: str, generation_id: str) -> tuple[Status, QueueStatus]:
    """What a status answer says; a job that is completed with an error has failed or was cancelled.

    Raises:
        InvalidResponse: It is not one of the contract.
    """
    told = parse(QueueStatus, response, provider=provider)
    evidence = Evidence(told.response_url is not None, share_of(told.progress), bool(told.error or told.error_type))
    status = parse_status(told.status, provider=provider, generation_id=generation_id, evidence=evidence)
    if status is Status.COMPLETED and told.fault is not None:
        status = final_status(told.fault)
    return status, told


def final_status(fault: ProviderFault) -> Status:
    """Whether a fault is a failure or the end of something that was cancelled."""
    return Status.CANCELLED if fault.code in _CANCELLED_TYPES else Status.FAILED


def read_result(response: httpx.Response, *, provider: str) -> VideoResult:
    """The video in what the model answered.

    Raises:
        InvalidResponse: It names none.
    """
    parse(_Payload, response, provider=provider)
    payloads = (_Payload.model_validate(document) for document in unwrapped(decode_body(response)))
    found = next((file for payload in payloads if (file := payload.file)), None)
    if not found:
        raise InvalidResponse(
            f"{provider}: the result names no video under any of the names that are known",
            provider=provider,
            request_id=request_id(response),
        )
    if isinstance(found, str):
        return VideoResult(video_url=found)
    return VideoResult(
        video_url=found.url,
        duration_seconds=found.duration,
        width=found.width,
        height=found.height,
        file_size=found.file_size if found.file_size and found.file_size > 0 else None,
    )


def read_error(response: httpx.Response, *, provider: str) -> ProviderError:
    """The error that an unsuccessful answer of the queue means."""
    return REFUSALS.read_error(response, provider=provider)


def read_result_error(response: httpx.Response, *, provider: str) -> ProviderError:
    """The error that an unsuccessful answer in place of a result means.

    It is the job's end only where fal says that the error is the job's, by its type, or by the 422 with which a model
    refuses its input. Anything else may be the passing trouble of the queue or of a proxy before it, and what is paid
    must not be given up for that.
    """
    fault = _fault(response)
    kind = error_for_status(response.status_code)
    if kind is RequestRejected or kind is ProviderUnavailable:
        if fault.code == _UNTOLD and not fault.of_request:
            return build_error(ProviderUnavailable, fault.message, response, provider=provider)
        error = ResultError(f"{provider}: {fault.message}", provider=provider)
        error.fault = fault
        return error
    return build_error(kind, fault.message, response, provider=provider)


def _fault(response: httpx.Response) -> ProviderFault:
    """Code and message of an error body: a list of typed errors by the model, or one by the queue."""
    body = decode_body(response)
    detail = body.get("detail") if isinstance(body, Mapping) else None
    of_request = response.status_code == 422 and detail is not None
    code = body.get("error_type") if isinstance(body, Mapping) else None
    code = code or response.headers.get("x-fal-error-type")
    if isinstance(detail, list) and detail and isinstance(detail[0], Mapping):
        first = detail[0]
        where = ".".join(str(part) for part in first.get("loc") or ())
        message = f"{where}: {first.get('msg')}" if where else str(first.get("msg"))
        return ProviderFault(code=str(first.get("type") or code or _UNTOLD), message=message, of_request=of_request)
    told = str(detail or f"HTTP {response.status_code}")
    return ProviderFault(code=str(code or _UNTOLD), message=told, of_request=of_request)


def _error_body(document: Any, _status: int) -> ErrorBody | None:
    """fal's `{"detail": …}`: a text by the queue, or a list of typed errors by the model."""
    if not isinstance(document, Mapping) or not set(document) <= {"detail", "error_type", "timeout_type"}:
        return None
    detail = document.get("detail")
    message = fastapi_message(detail)
    if message is None:
        return None
    kind = detail[0].get("type") if isinstance(detail, list) else document.get("error_type")
    return ErrorBody(type=text_of(kind), message=message)


def _is_of_balance(body: ErrorBody) -> bool:
    return re.search(r"balance|top[_ ]?up", body.message, re.IGNORECASE) is not None


def _is_of_application(body: ErrorBody) -> bool:
    return re.match(r"(?:application|path|app)\b.*\bnot found", body.message, re.IGNORECASE) is not None


REFUSALS: Final = RefusalTable(
    _error_body,
    (
        RefusalRule((402, 403), error=QuotaExhausted, applies=_is_of_balance),
        ACCOUNT,
        RefusalRule((404,), applies=_is_of_application),
        RefusalRule((400, 422)),
    ),
)
"""What the queue says when it takes nothing in."""
