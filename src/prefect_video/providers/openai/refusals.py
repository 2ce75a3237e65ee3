"""The words with which servers of the OpenAI Videos dialect turn a request down: one table for each of them.

By OpenAI's document, and by the sources of vLLM-Omni 0.30, SGLang 0.5.23, TensorRT-LLM (main) and LiteLLM 1.106.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from prefect_video.errors import AuthenticationFailed, QuotaExhausted
from prefect_video.providers.refusals import ACCOUNT, ErrorBody, RefusalRule, RefusalTable, fastapi_message, text_of

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
    *("auth_error", "authenticationerror", "expired_key", "token_not_found_in_db"),
    *("key_model_access_denied", "team_model_access_denied", "user_model_access_denied", "org_model_access_denied"),
)


def table_of(provider: str) -> RefusalTable:
    """The table of a provider of the dialect; OpenAI's own for one that has none."""
    return _TABLES.get(provider, _OPENAI)


def _openai_body(document: Any, _status: int) -> ErrorBody | None:
    """OpenAI's `{"error": {message, type, param, code}}`: with a type or a code that is a word."""
    error = document.get("error") if isinstance(document, Mapping) else None
    if not isinstance(error, Mapping) or not isinstance(error.get("message"), str):
        return None
    words = [error.get("type"), error.get("code")]
    if not any(isinstance(word, str) and word for word in words):
        return None
    return ErrorBody(text_of(error.get("type")), text_of(error.get("code")), error["message"])


def _vllm_body(document: Any, status: int) -> ErrorBody | None:
    """vLLM's: as OpenAI's, with the HTTP status as code; FastAPI's own for a form that does not fit."""
    error = document.get("error") if isinstance(document, Mapping) else None
    if isinstance(error, Mapping) and _repeats(error, status) and isinstance(error.get("type"), str):
        return ErrorBody(error["type"], "", error["message"])
    return _engine_body(document, status)


def _trtllm_body(document: Any, status: int) -> ErrorBody | None:
    """TensorRT-LLM's `{"object": "error", message, type, param, code}`; FastAPI's own for a form that does not fit."""
    if isinstance(document, Mapping) and document.get("object") == "error" and _repeats(document, status):
        return ErrorBody(text_of(document.get("type")), "", document["message"])
    return _engine_body(document, status)


def _engine_body(document: Any, status: int) -> ErrorBody | None:
    """FastAPI's `{"detail": …}`, and what the engines' guards answer to a wrong key: `{"error": "Unauthorized"}`."""
    if not isinstance(document, Mapping):
        return None
    if status == 401 and dict(document) == {"error": "Unauthorized"}:
        return ErrorBody(message="Unauthorized")
    message = fastapi_message(document["detail"]) if set(document) == {"detail"} else None
    return None if message is None else ErrorBody(message=message)


def _repeats(error: Mapping[str, Any], status: int) -> bool:
    """Whether an error repeats the HTTP status as its code and is none of a gateway's, which add a `status`."""
    return error.get("code") == status and isinstance(error.get("message"), str) and "status" not in error


_REFUSED_BY_ENGINES: Final = RefusalRule((400, 401, 415, 422, 429))
"""Engines tell these and 404; a 403 or a 409 is what stands before them."""

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
        _openai_body,
        (
            RefusalRule((400, 402, 403, 429), types=_QUOTA, error=QuotaExhausted),
            RefusalRule((400, 401, 403), types=_KEY_OF_LITELLM, error=AuthenticationFailed),
            ACCOUNT,
            RefusalRule((400, 404, 415, 422), types=(*_INVALID, *_UNKNOWN_TO_LITELLM)),
        ),
    ),
}
