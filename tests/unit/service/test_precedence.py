"""Requests go before the work in the background, which goes on all the same."""

from __future__ import annotations

import asyncio

from prefect_video.service.jobs.precedence import RequestPrecedence


async def test_work_waits_for_the_last_request_and_never_longer_than_its_limit() -> None:
    precedence = RequestPrecedence()
    with precedence.request():
        with precedence.request():
            work = asyncio.create_task(precedence.wait_until_idle(60))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not work.done()
        # A burst that does not end: the work goes on after its own limit.
        await precedence.wait_until_idle(0.01)
        assert not work.done()
    async with asyncio.timeout(60):
        await work
        await precedence.wait_until_idle(60)
