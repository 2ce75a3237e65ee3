"""The error with which a request is rejected, before a dialect renders it."""

from __future__ import annotations

from typing import Literal

ErrorKind = Literal[
    "invalid", "policy", "authentication", "not_found", "conflict", "capacity", "quota", "rate", "generation",
    "server", "unavailable",
]  # fmt: skip

_STATUS: dict[ErrorKind, int] = {
    "invalid": 400,
    "policy": 400,
    "authentication": 401,
    "not_found": 404,
    "conflict": 409,
    "capacity": 429,
    "quota": 429,
    "rate": 429,
    "generation": 500,
    "server": 500,
    "unavailable": 404,
}


class ApiError(Exception):
    """Rejection of a request.

    Attributes:
        kind: Cause, in the engine's own terms.
        status: HTTP status.
        retry_after: Seconds to wait before another attempt, where waiting helps.
        generation_id: Generation that failed, for the kind `generation`.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        generation_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status if status is not None else _STATUS[kind]
        self.retry_after = retry_after
        self.generation_id = generation_id
