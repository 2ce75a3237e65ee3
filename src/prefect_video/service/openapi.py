"""The OpenAPI document of the service: every operation with every answer, and the accounts that it has."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from prefect_video.service.problems import Problem, describe_problems
from prefect_video.service.sessions import Sessions
from prefect_video.service.webhooks import describe_webhooks

_DESCRIPTION: Final = (
    "Requests for videos, paid for at most once: a request that is repeated with its `Idempotency-Key` is the same"
    " job. Every refusal is a problem (RFC 9457). Ask with a bearer token."
)


def build_openapi(app: FastAPI, sessions: Sessions, *, knows_hosts: bool) -> dict[str, Any]:
    """Build the document of an application, once its routes are there.

    Args:
        app: The application.
        sessions: The open sessions, one per account.
        knows_hosts: Whether requests for hosts that are not known are refused.
    """
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
    document["paths"] |= describe_webhooks()
    if knows_hosts:
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"] |= {str(status): entry for status, entry in describe_problems(421).items()}
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
