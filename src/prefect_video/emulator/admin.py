"""The back door for tests and benchmarks, under ``/_emulator``: books, faults, speed, reset. It takes no key."""

from __future__ import annotations

import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_video.emulator.engine import Engine
from prefect_video.emulator.faults.rules import parse_faults
from prefect_video.emulator.routes import route

PREFIX = "/_emulator"


class Admin:
    """Routes over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def app(self) -> Starlette:
        """The ASGI application, to be mounted at PREFIX."""
        return Starlette(
            routes=[
                route("/books", GET=self.usage),
                route("/faults", GET=self.faults, POST=self.add_faults, DELETE=self.clear_faults),
                route("/speed", PUT=self.change_speed),
                route("/reset", POST=self.reset),
                route("/restart", POST=self.restart),
            ]
        )

    async def usage(self, request: Request) -> Response:
        """``GET /_emulator/books``."""
        return JSONResponse(self._engine.books.report(self._engine.now_concurrency))

    async def faults(self, request: Request) -> Response:
        """``GET /_emulator/faults``: the rules with their counts."""
        return JSONResponse(self._engine.faults.describe())

    async def add_faults(self, request: Request) -> Response:
        """``POST /_emulator/faults``: one rule or a list; answers all rules in force."""
        try:
            rules = parse_faults(json.loads(await request.body()))
        except ValueError as error:
            return _refusal(str(error))
        self._engine.faults.add(rules)
        return JSONResponse(self._engine.faults.describe(), 201)

    async def clear_faults(self, request: Request) -> Response:
        """``DELETE /_emulator/faults``."""
        self._engine.faults.clear()
        return JSONResponse([])

    async def change_speed(self, request: Request) -> Response:
        """``PUT /_emulator/speed``: a number by which the work is divided from now on, that under way too."""
        try:
            speed = float(await request.body())
        except ValueError:
            speed = 0.0
        if not 0 < speed < float("inf"):
            return _refusal("the body must be one number above 0, such as 10")
        self._engine.change_speed(speed)
        return JSONResponse(speed)

    async def reset(self, request: Request) -> Response:
        """``POST /_emulator/reset``: forget every generation, count and fault."""
        await self._engine.reset()
        return JSONResponse(self._engine.books.report(self._engine.now_concurrency))

    async def restart(self, request: Request) -> Response:
        """``POST /_emulator/restart``: forget every generation and keep the books; counted ids begin anew."""
        await self._engine.restart()
        return JSONResponse(self._engine.books.report(self._engine.now_concurrency))


def _refusal(message: str) -> Response:
    return JSONResponse({"error": {"type": "invalid_request_error", "message": message}}, 400)
