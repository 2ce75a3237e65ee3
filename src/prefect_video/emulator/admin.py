"""Admin API for tests and benchmarks, under `/_emulator`: usage, faults, speed, reset. It takes no key."""

from __future__ import annotations

import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_video.emulator.engine import Engine
from prefect_video.emulator.faults import parse_faults
from prefect_video.emulator.routes import route

PREFIX = "/_emulator"


class Admin:
    """Admin API of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def app(self) -> Starlette:
        """Build the ASGI application, to be mounted at `PREFIX`."""
        return Starlette(
            routes=[
                route("/usage", GET=self.usage),
                route("/requests", GET=self.requests),
                route("/faults", GET=self.faults, POST=self.add_faults, DELETE=self.clear_faults),
                route("/speed", PUT=self.change_speed),
                route("/reset", POST=self.reset),
                route("/restart", POST=self.restart),
            ]
        )

    async def usage(self, request: Request) -> Response:
        """Answer `GET /_emulator/usage` with the usage counters."""
        return JSONResponse(self._engine.usage.report(self._engine.now_concurrency))

    async def requests(self, request: Request) -> Response:
        """Answer `GET /_emulator/requests` with every accepted request, the oldest first."""
        return JSONResponse(self._engine.describe_requests())

    async def faults(self, request: Request) -> Response:
        """Answer `GET /_emulator/faults` with the rules in force and their counts."""
        return JSONResponse(self._engine.faults.describe())

    async def add_faults(self, request: Request) -> Response:
        """Answer `POST /_emulator/faults`: add one rule or a list, and return all rules in force."""
        try:
            rules = parse_faults(json.loads(await request.body()))
        except ValueError as error:
            return _reject(str(error))
        self._engine.faults.add(rules)
        return JSONResponse(self._engine.faults.describe(), 201)

    async def clear_faults(self, request: Request) -> Response:
        """Answer `DELETE /_emulator/faults`: remove every rule."""
        self._engine.faults.clear()
        return JSONResponse([])

    async def change_speed(self, request: Request) -> Response:
        """Answer `PUT /_emulator/speed`: divide all remaining work by this number from now on."""
        try:
            speed = float(await request.body())
        except ValueError:
            speed = 0.0
        if not 0 < speed < float("inf"):
            return _reject("the body must be one number above 0, such as 10")
        self._engine.change_speed(speed)
        return JSONResponse(speed)

    async def reset(self, request: Request) -> Response:
        """Answer `POST /_emulator/reset`: delete every generation, counter and fault."""
        await self._engine.reset()
        return JSONResponse(self._engine.usage.report(self._engine.now_concurrency))

    async def restart(self, request: Request) -> Response:
        """Answer `POST /_emulator/restart`: delete every generation, keep the usage, and restart counted ids."""
        await self._engine.restart()
        return JSONResponse(self._engine.usage.report(self._engine.now_concurrency))


def _reject(message: str) -> Response:
    return JSONResponse({"error": {"type": "invalid_request_error", "message": message}}, 400)
