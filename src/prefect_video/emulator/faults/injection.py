"""Fault injection around the work of a request; no answer leaves before its changes are durable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.responses import HTMLResponse, Response

from prefect_video.emulator.engine import Engine
from prefect_video.emulator.errors import ApiError
from prefect_video.emulator.faults.broken_responses import HungResponse, ResetResponse, SlowResponse, TruncatedResponse
from prefect_video.emulator.faults.odd_responses import build_key_error, build_odd_response
from prefect_video.emulator.faults.rules import FaultRule, Operation

WRONG_PAGE = "<!doctype html><title>Welcome</title><h1>Please sign in to the network</h1>"

Answer = Callable[[FaultRule | None], Awaitable[Response]]


async def with_faults(
    engine: Engine,
    operation: Operation,
    answer: Answer,
    *,
    prompt: str | None = None,
    generation_id: str | None = None,
) -> Response:
    """Answer a request with the fault that is due for it, if any.

    Args:
        engine: Engine whose faults apply, and whose changes are committed.
        operation: Operation of the request.
        answer: Does the work; it gets the rule, to apply the faults that show inside of the answer.
        prompt: Prompt of the request or its generation, for rules that match on it.
        generation_id: Id of the generation, for rules that match on it.

    Raises:
        ApiError: The work raised it, or the fault is a rejection.
    """
    rule = engine.faults.match(operation, prompt=prompt, generation_id=generation_id)
    try:
        if rule is None:
            return await answer(None)
        early = _respond_before_work(rule)
        if early is not None:
            return early
        return await _distort_response(engine, rule, await answer(rule))
    finally:
        # A rejection changes the usage, too.
        await engine.commit()


def _respond_before_work(rule: FaultRule) -> Response | None:
    """Return the response of a fault that prevents the work; None if the work is to be done."""
    match rule.kind:
        case "rate_limited":
            raise ApiError("rate", "Too many requests; slow down", retry_after=rule.retry_after)
        case "quota_exhausted":
            raise ApiError("quota", "The quota is used up: exhausted balance")
        case "error_before":
            raise ApiError("server", "The server had an error while processing the request")
        case "not_found":
            raise ApiError("not_found", "No such generation")
        case "not_ready":
            raise ApiError("not_found", "The file is not there yet", status=rule.not_ready_status)
        case "denied":
            raise ApiError("authentication", "This key is not known here", status=rule.denied_status)
        case "list_off":
            raise ApiError("unavailable", "Listing is not available", status=rule.http_status)
        case "reset_before":
            return ResetResponse()
        case "quoted_key":
            return build_key_error(rule.quoted)
        case "wrong_content":
            return HTMLResponse(WRONG_PAGE)
        case _:
            return None


async def _distort_response(engine: Engine, rule: FaultRule, response: Response) -> Response:
    """Return the response that the client gets once the work is done."""
    # Durable before a fault can hide the answer: otherwise "accepted, then the connection broke" could be lost.
    await engine.commit()
    match rule.kind:
        case "error_after":
            raise ApiError("server", "The server had an error while processing the request")
        case "reset_after":
            return ResetResponse()
        case "hang":
            return HungResponse(rule.wait_seconds, engine.closing)
        case "delay":
            await pause(rule.wait_seconds, engine.closing)
            return response
        case "slow":
            return SlowResponse(response, rule.bytes_per_second, engine.closing)
        case "truncated":
            return TruncatedResponse(response, rule.fraction)
        case "cached":
            response.headers["age"] = str(rule.age)
            return response
        case _:
            return build_odd_response(rule, response) or response


async def pause(seconds: float, closing: asyncio.Event) -> None:
    """Wait for a time, or until the emulator closes."""
    try:
        async with asyncio.timeout(seconds):
            await closing.wait()
    except TimeoutError:
        return
