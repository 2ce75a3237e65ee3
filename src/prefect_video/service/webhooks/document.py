"""Document of the receiver's routes: they are plain routes, of which the framework knows no bodies and answers."""

from __future__ import annotations

from typing import Any, Final

from prefect_video.service.problems import describe_problems

_SIGNATURES: Final = {
    "X-Sora-Signature": "Signature of the Sora dialect.",
    "X-OpenRouter-Signature": "Signature of OpenRouter.",
    "X-Fal-Webhook-Signature": "Signature of fal, with its `X-Fal-Webhook-` headers for request, user and time.",
    "webhook-signature": "Signature of OpenAI and Replicate (Standard Webhooks), with `webhook-id` and"
    " `webhook-timestamp`.",
}
_EVENT: Final = {
    "event_type": "generation.completed",
    "event_id": "evt_01",
    "timestamp": 1769867518,
    "data": {"generation_id": "gen_01", "status": "completed"},
}
_ANSWERS: Final = {
    200: "It is stored, and handled afterwards; so is one that is repeated",
    400: "It cannot be read or stored",
    401: "Its signature fits no account, or it is too old",
    404: "The address names no account of this service, or not the job that it is about",
    413: "It is too large",
    503: "It cannot be verified or stored now: repeat it",
}


def describe_webhooks() -> dict[str, Any]:
    """Describe the receiver's routes for OpenAPI."""
    name = "Account: its id, its provider's name, or its block as `block-type/block-name`."
    return {
        "/webhooks/{name}": _describe_path("name", name, "Receive an event of an account."),
        "/webhook/{job_id}": _describe_path("job_id", "Id of the job.", "Receive an event of one job."),
    }


def _describe_path(parameter: str, meaning: str, description: str) -> dict[str, Any]:
    signatures = [
        {"name": header, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for header, text in _SIGNATURES.items()
    ]
    path = {
        "name": parameter,
        "in": "path",
        "required": True,
        "description": meaning,
        "schema": {"type": "string", "minLength": 1},
    }
    body = {"schema": {"type": "object"}, "example": _EVENT}
    return {
        "post": {
            "tags": ["webhooks"],
            "summary": description.rstrip("."),
            "description": f"{description} The provider's event as it sends it, signed as that provider signs.",
            "operationId": f"receive_by_{parameter}",
            "parameters": [path, *signatures],
            "requestBody": {"required": True, "content": {"application/json": body}},
            "responses": {
                **{str(status): _describe_answer(status, meaning) for status, meaning in _ANSWERS.items()},
                **{str(status): described for status, described in describe_problems(408).items()},
            },
        }
    }


def _describe_answer(status: int, meaning: str) -> dict[str, Any]:
    schema = {"type": "object", "required": ["received"], "properties": {"received": {"type": "boolean"}}}
    return {
        "description": meaning,
        "content": {"application/json": {"schema": schema, "example": {"received": status == 200}}},
    }
