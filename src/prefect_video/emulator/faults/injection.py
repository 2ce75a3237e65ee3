"""Takes a request through the fault due for it, and lets no answer leave before its changes are durable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.responses import HTMLResponse, Response

from prefect_video.emulator.engine import Engine
from prefect_video.emulator.errors import ApiError
from prefect_video.emulator.faults.broken_responses import HungResponse, ResetResponse, SlowResponse, TruncatedResponse
from prefect_video.emulator.faults.odd_responses import odd_answer
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
    """Answer a request, with the fault that is due for it, if any.

    Args:
        engine: Whose faults are asked, and whose changes are written down.
        operation: What the request wants.
        answer: Does the work; given the rule, so that it can play the faults that belong into the answer.
        prompt: What the request is about, for rules that match on it.
        generation_id: Likewise.

    Raises:
        Refusal: From the work, or because the fault is one.
    """
    rule = engine.faults.match(operation, prompt=prompt, generation_id=generation_id)
    try:
        if rule is None:
            return await answer(None)
        early = _before(rule)
        if early is not None:
            return early
        return await _after(engine, rule, await answer(rule))
    finally:
        await engine.commit()


def _before(rule: FaultRule) -> Response | None:
    """What is answered in place of doing the work; None when the work is done first."""
    match rule.kind:
        case "rate_limited":
            raise ApiError("rate", "Too many requests; slow down", retry_after=rule.retry_after)
        case "quota_exhausted":
            raise ApiError("quota", "The quota is used up: exhausted balance")
        case "error_before":
            raise ApiError("server", "The server had an error while processing the request")
        case "not_found":
            raise ApiError("not_found", "No such generation")
        case "list_off":
            raise ApiError("unavailable", "Listing is not available", status=rule.http_status)
        case "reset_before":
            return ResetResponse()
        case "wrong_content":
            return HTMLResponse(WRONG_PAGE)
        case _:
            return None


async def _after(engine: Engine, rule: FaultRule, response: Response) -> Response:
    """What becomes of the answer once the work is done."""
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
        case _:
            return odd_answer(rule, response) or response


async def pause(seconds: float, closing: asyncio.Event) -> None:
    """Wait, but not past the end of the emulator."""
    try:
        async with asyncio.timeout(seconds):
            await closing.wait()
    except TimeoutError:
        return
