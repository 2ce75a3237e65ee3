"""The OpenAPI document of the service: every operation with every answer, and the accounts that it has."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from prefect_video.service.problems import Problem
from prefect_video.service.sessions import Sessions

_DESCRIPTION: Final = (
    "Requests for videos, paid for at most once: a request that is repeated with its `Idempotency-Key` is the same"
    " job. Every refusal is a problem (RFC 9457). Ask with a bearer token."
)


def build_openapi(app: FastAPI, sessions: Sessions) -> dict[str, Any]:
    """Build the document of an application, once its routes are there."""
    document = get_openapi(
        title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes, openapi_version="3.1.0"
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs", {})
    schemas["Problem"] = problem
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _name_accounts(schemas, sessions)
    return document


def _name_accounts(schemas: dict[str, Any], sessions: Sessions) -> None:
    """Write the names of the accounts where a client may choose one."""
    names = dict.fromkeys(
        name for session in sessions.sessions for name in (session.provider.name, session.account_name)
    )
    for record in ("GenerateBody",):
        if record in schemas:
            field = schemas[record]["properties"]["provider"]
            field["anyOf"] = [{"type": "string", "enum": list(names)}, {"type": "null"}]
