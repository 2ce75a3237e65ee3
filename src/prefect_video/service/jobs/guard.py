"""Guard of the job API's routes: token, scope, rate and size are checked before a body is read or parsed."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import Message

from prefect_video.service.api_tokens import ApiToken, ApiTokens, Scope
from prefect_video.service.metrics import Metrics
from prefect_video.service.problems import Refused
from prefect_video.service.request_bodies import read_body, require_usable_json

BEARER: Final = HTTPBearer(auto_error=False, description="A token of `prefect-video tokens create`.")


@dataclass(frozen=True)
class Guard:
    """The guard of a service's routes.

    Attributes:
        tokens: The tokens.
        metrics: Counts the requests that are refused.
        body_limit_bytes: Largest body that is read.
    """

    tokens: ApiTokens
    metrics: Metrics
    body_limit_bytes: int

    def route_class(self, scope: Scope, *, body_limit_bytes: int | None = None) -> type[APIRoute]:
        """Build the class of routes that need a scope."""
        guard, limit = self, body_limit_bytes or self.body_limit_bytes

        class GuardedRoute(APIRoute):
            """A route that checks the token before it reads the body, and reads no more than the limit."""

            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                """Wrap FastAPI's handler, which reads and parses the whole body before any dependency runs."""
                handle = super().get_route_handler()

                async def guarded(request: Request) -> Response:
                    request.state.token = await guard.require(request, scope)
                    body = await read_body(request, limit)
                    if body is None:
                        raise HTTPException(413, f"the body is larger than {limit} bytes")
                    require_usable_json(body)
                    return await handle(_with_body(request, body))

                return guarded

        return GuardedRoute

    async def require(self, request: Request, scope: Scope) -> ApiToken:
        """Return the token of a request that has a scope, and has not made too many requests.

        Raises:
            HTTPException: There is no such token (401), it lacks the scope (403), or it asks too often (429).
        """
        authorization = await BEARER(request)
        return self.authorize(None if authorization is None else authorization.credentials, scope)

    def authorize(self, text: str | None, scope: Scope) -> ApiToken:
        """Return the token of a client that has a scope, and has not made too many requests.

        Args:
            text: What the client has sent; None for nothing.
            scope: The scope that its request needs.

        Raises:
            HTTPException: As of `require`.
        """
        token = None if text is None else self.tokens.authenticate(text)
        if token is None:
            raise HTTPException(401, "a valid bearer token is needed", {"WWW-Authenticate": "Bearer"})
        if scope not in token.scopes:
            detail = f"token {token.name!r} has no scope {scope!r}; a new one is made by `prefect-video tokens create`"
            raise Refused(403, "scope", "The token does not allow this", detail)
        if seconds := self.tokens.throttle(token):
            self.metrics.throttled.inc()
            detail = f"token {token.name!r} may make {token.per_minute} requests a minute; wait {seconds} s"
            raise Refused(429, "rate", "Too many requests", detail, {"Retry-After": str(seconds)})
        return token


def token_of(request: Request) -> ApiToken:
    """Return the token that a guarded request has."""
    token: ApiToken = request.state.token
    return token


def _with_body(request: Request, body: bytes) -> Request:
    """Return a request whose body, which has been read, can be read again."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, receive)
