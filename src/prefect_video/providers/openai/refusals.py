"""Refusal tables of the servers of the OpenAI Videos dialect: the error bodies with which each rejects a request.

By OpenAI's document, and by the sources of vLLM-Omni 0.30, SGLang 0.5.23, TensorRT-LLM (main) and LiteLLM 1.106.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from prefect_video.errors import AuthenticationFailed, QuotaExhausted
from prefect_video.providers.refusals import ACCOUNT, ErrorBody, RefusalRule, RefusalTable, fastapi_message, to_text

_POLICY: Final = (
    "content_policy_violation",
    "moderation_blocked",
    "policy_violation",
    "sentinel_block",
    "content_filter",
    "contentpolicyviolationerror",
)
_QUOTA: Final = (
    "insufficient_quota",
    "billing_hard_limit_reached",
    "budget_exceeded",
    "quota_exceeded",
    "billing_not_active",
)
_INVALID: Final = ("invalid_request_error", "video_generation_user_error", "image_generation_user_error", *_POLICY)
_UNKNOWN_TO_LITELLM: Final = (
    *("badrequesterror", "bad_request_error", "unsupportedparamserror", "invalidrequesterror", "invalid_request"),
    *("notfounderror", "unprocessableentityerror"),
)
_KEY_OF_LITELLM: Final = (
    # Without a database, each key but the master key is looked up in vain.
    *("auth_error", "authenticationerror", "expired_key", "token_not_found_in_db", "no_db_connection"),
    *("key_model_access_denied", "team_model_access_denied", "user_model_access_denied", "org_model_access_denied"),
)


def find_refusal_table(provider: str) -> RefusalTable:
    """Return the table of a provider of the dialect; OpenAI's for one without a table of its own."""
    return _TABLES.get(provider, _OPENAI)


def _openai_body(document: Any, _status: int) -> ErrorBody | None:
    """Read OpenAI's `{"error": {message, type, param, code}}`, with a type or a code that is text."""
    error = document.get("error") if isinstance(document, Mapping) else None
    if not isinstance(error, Mapping) or not isinstance(error.get("message"), str):
        return None
    # A gateway's body has the same form, with the HTTP status as its only code.
    if not any(isinstance(value, str) and value for value in (error.get("type"), error.get("code"))):
        return None
    return ErrorBody(to_text(error.get("type")), to_text(error.get("code")), error["message"])


def _litellm_body(document: Any, status: int) -> ErrorBody | None:
    """Read OpenAI's body as LiteLLM fills it: the cause is the first line of many."""
    body = _openai_body(document, status)
    return None if body is None else replace(body, message=body.message.strip().partition("\n")[0].strip())


def _vllm_body(document: Any, status: int) -> ErrorBody | None:
    """Read vLLM's body: OpenAI's with the HTTP status as code, or FastAPI's for a request that fails validation."""
    error = document.get("error") if isinstance(document, Mapping) else None
    if isinstance(error, Mapping) and _repeats_status(error, status) and isinstance(error.get("type"), str):
        return ErrorBody(error["type"], "", error["message"])
    return _engine_body(document, status)


def _trtllm_body(document: Any, status: int) -> ErrorBody | None:
    """Read TensorRT-LLM's `{"object": "error", message, type, param, code}`, or FastAPI's for a failed validation."""
    if isinstance(document, Mapping) and document.get("object") == "error" and _repeats_status(document, status):
        return ErrorBody(to_text(document.get("type")), "", document["message"])
    return _engine_body(document, status)


def _engine_body(document: Any, status: int) -> ErrorBody | None:
    """Read FastAPI's `{"detail": …}`, or the engines' response to a wrong key, `{"error": "Unauthorized"}`."""
    if not isinstance(document, Mapping):
        return None
    if status == 401 and dict(document) == {"error": "Unauthorized"}:
        return ErrorBody(message="Unauthorized")
    message = fastapi_message(document["detail"]) if set(document) == {"detail"} else None
    return None if message is None else ErrorBody(message=message)


def _repeats_status(error: Mapping[str, Any], status: int) -> bool:
    """Return whether an error repeats the HTTP status as its code and is no gateway's, which adds a `status`."""
    return error.get("code") == status and isinstance(error.get("message"), str) and "status" not in error


_REFUSED_BY_ENGINES: Final = RefusalRule((400, 401, 415, 422, 429))
"""Statuses by which engines reject a request, besides 404; a 403 or a 409 comes from a proxy before them."""

_OPENAI: Final = RefusalTable(
    _openai_body,
    (
        RefusalRule((400, 402, 403, 429), types=_QUOTA, error=QuotaExhausted),
        ACCOUNT,
        RefusalRule((400, 404, 415, 422), types=_INVALID),
    ),
)
_TABLES: Final[Mapping[str, RefusalTable]] = {
    "openai": _OPENAI,
    "vllm_omni": RefusalTable(_vllm_body, (_REFUSED_BY_ENGINES, RefusalRule((404,), types=("notfounderror",)))),
    "sglang": RefusalTable(_engine_body, (_REFUSED_BY_ENGINES,)),
    "trtllm": RefusalTable(_trtllm_body, (_REFUSED_BY_ENGINES,)),
    "litellm": RefusalTable(
        _litellm_body,
        (
            RefusalRule((400, 402, 403, 429), types=_QUOTA, error=QuotaExhausted),
            RefusalRule((400, 401, 403), types=_KEY_OF_LITELLM, error=AuthenticationFailed),
            ACCOUNT,
            RefusalRule((400, 404, 415, 422), types=(*_INVALID, *_UNKNOWN_TO_LITELLM)),
        ),
    ),
}
