"""Work that is not left half-way, the one who cancels and however often."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from prefect_video._shield import shielded
from prefect_video.errors import LedgerError


async def test_its_result_and_its_error_are_handed_on() -> None:
    async def work(error: Exception | None) -> str:
        await asyncio.sleep(0)
        if error:
            raise error
        return "done"

    assert await shielded(work(None)) == "done"
    with pytest.raises(LedgerError, match="busy"):
        await shielded(work(LedgerError("busy")))


@pytest.mark.parametrize("error", [None, LedgerError("busy")])
async def test_cancelled_again_and_again_it_is_waited_for(error: Exception | None) -> None:
    ended = []

    async def work() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        ended.append(True)
        if error:
            raise error

    waiting = asyncio.create_task(shielded(work()))
    for _ in range(4):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.wait([waiting])
    assert ended
    assert waiting.cancelled()


async def test_a_cancel_scope_does_not_cut_it_off() -> None:
    ended = []

    async def work() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        ended.append(True)

    with anyio.CancelScope() as scope:
        try:
            scope.cancel()
            await asyncio.sleep(0)
        finally:
            await shielded(work())
    assert scope.cancelled_caught
    assert ended
