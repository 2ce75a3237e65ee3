"""Responses of fal: queued requests, statuses, results and errors."""

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
from prefect_video.providers.refusals import ACCOUNT, ErrorBody, RefusalRule, RefusalTable, fastapi_message, to_text
from prefect_video.providers.responses import (
    GenerationId,
    LenientModel,
    build_error,
    compute_seconds_taken,
    decode_body,
    error_for_status,
    parse,
    parse_progress,
    request_id,
    unwrap,
)
from prefect_video.providers.statuses import Evidence, build_fault, parse_status

_UNKNOWN_CODE: Final = "error"
_CANCELLED_TYPES: Final = frozenset({"client_cancelled", "request_cancelled", "cancelled"})


class QueuedRequest(LenientModel):
    """Response to a submit.

    Attributes:
        request_id: Id of the job in webhooks.
        status_url: Address at which the job is polled: owner and app of the model, without the rest of its name.
    """

    request_id: GenerationId
    status_url: str | None = None


class QueueStatus(LenientModel):
    """Status of a job."""

    status: str
    response_url: str | None = None
    error: Any = None
    error_type: str | None = None
    progress: float | None = None
    metrics: dict[str, Any] | None = None

    @property
    def run_seconds(self) -> float | None:
        """Time that the model ran, without the queue; None where it is not reported."""
        return compute_seconds_taken(None, None, (self.metrics or {}).get("inference_time"))

    @property
    def fault(self) -> ProviderFault | None:
        """The reason of a failure, where the status itself reports one."""
        return build_fault(self.status, self.reported_fault)

    @property
    def reported_fault(self) -> ProviderFault | None:
        """The error that the response reports, without what its status alone means."""
        if not self.error and not self.error_type:
            return None
        message = str(self.error or self.error_type)
        # fal reports a model's rejection of its input as "Invalid status code: 422".
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
        """The video, from any of the fields that models use."""
        return self.video or self.video_url or next(iter(self.videos or ()), None) or self.output


class ResultError(ProviderError):
    """An error in place of a result: the job has ended. Read `fault` for the reason.

    Attributes:
        fault: The reason.
    """

    fault: ProviderFault = ProviderFault(code="error", message="no reason given")


def read_queued_request(response: httpx.Response, *, provider: str) -> QueuedRequest:
    """Read the response to a submit.

    Raises:
        InvalidResponse: It breaks the contract.
    """
    return parse(QueuedRequest, response, provider=provider)


def read_status(response: httpx.Response, *, provider: str, generation_id: str) -> tuple[Status, QueueStatus]:
    """Read a status; a job that is completed with an error has failed or was cancelled.

    Raises:
        InvalidResponse: It breaks the contract.
    """
    reported = parse(QueueStatus, response, provider=provider)
    has_error = bool(reported.error or reported.error_type)
    evidence = Evidence(reported.response_url is not None, parse_progress(reported.progress), has_error)
    status = parse_status(reported.status, provider=provider, generation_id=generation_id, evidence=evidence)
    if status is Status.COMPLETED and (fault := reported.reported_fault) is not None:
        status = final_status(fault)
    return status, reported


def final_status(fault: ProviderFault) -> Status:
    """Return the final status that a fault means: cancelled, or failed."""
    return Status.CANCELLED if fault.code in _CANCELLED_TYPES else Status.FAILED


def read_result(response: httpx.Response, *, provider: str) -> VideoResult:
    """Read the video in a model's result.

    Raises:
        InvalidResponse: It has none.
    """
    # Only for its error; the video may be in any of the wrappers, not in the first that parses.
    parse(_Payload, response, provider=provider)
    payloads = (_Payload.model_validate(document) for document in unwrap(decode_body(response)))
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
    """Build the error of an unsuccessful response of the queue."""
    return REFUSALS.read_error(response, provider=provider)


def read_result_error(response: httpx.Response, *, provider: str) -> ProviderError:
    """Build the error of an unsuccessful response in place of a result.

    It is the job's end only where fal marks the error as the job's, by its type, or by the 422 with which a model
    rejects its input. Anything else may be a transient fault of the queue or of a proxy, and a paid job must not be
    given up for that.
    """
    fault = _fault(response)
    kind = error_for_status(response.status_code)
    if kind is RequestRejected or kind is ProviderUnavailable:
        if fault.code == _UNKNOWN_CODE and not fault.of_request:
            return build_error(ProviderUnavailable, fault.message, response, provider=provider)
        error = ResultError(f"{provider}: {fault.message}", provider=provider)
        error.fault = fault
        return error
    return build_error(kind, fault.message, response, provider=provider)


def _fault(response: httpx.Response) -> ProviderFault:
    """Read code and message of an error body: a list of typed errors by the model, or one error by the queue."""
    body = decode_body(response)
    detail = body.get("detail") if isinstance(body, Mapping) else None
    of_request = response.status_code == 422 and detail is not None
    code = body.get("error_type") if isinstance(body, Mapping) else None
    code = code or response.headers.get("x-fal-error-type")
    if isinstance(detail, list) and detail and isinstance(detail[0], Mapping):
        first = detail[0]
        location = ".".join(str(part) for part in first.get("loc") or ())
        message = f"{location}: {first.get('msg')}" if location else str(first.get("msg"))
        return ProviderFault(
            code=str(first.get("type") or code or _UNKNOWN_CODE), message=message, of_request=of_request
        )
    message = str(detail or f"HTTP {response.status_code}")
    return ProviderFault(code=str(code or _UNKNOWN_CODE), message=message, of_request=of_request)


def _error_body(document: Any, _status: int) -> ErrorBody | None:
    """Read fal's `{"detail": …}`: a text by the queue, or a list of typed errors by the model."""
    if not isinstance(document, Mapping) or not set(document) <= {"detail", "error_type", "timeout_type"}:
        return None
    detail = document.get("detail")
    message = fastapi_message(detail)
    if message is None:
        return None
    kind = detail[0].get("type") if isinstance(detail, list) else document.get("error_type")
    return ErrorBody(type=to_text(kind), message=message)


def _is_about_balance(body: ErrorBody) -> bool:
    return re.search(r"balance|top[_ ]?up", body.message, re.IGNORECASE) is not None


def _is_about_application(body: ErrorBody) -> bool:
    return re.match(r"(?:application|path|app)\b.*\bnot found", body.message, re.IGNORECASE) is not None


REFUSALS: Final = RefusalTable(
    _error_body,
    (
        RefusalRule((402, 403), error=QuotaExhausted, applies=_is_about_balance),
        ACCOUNT,
        RefusalRule((404,), applies=_is_about_application),
        RefusalRule((400, 422)),
    ),
)
"""Responses with which the queue rejects a request: nothing was queued."""
