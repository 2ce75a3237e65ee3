"""A clock that is set while a submit is unanswered brings no second payment."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from prefect_video.errors import SubmitOutcomeUnknown
from prefect_video.generations import Generation
from prefect_video.ledger import Ledger
from prefect_video.providers.sora.provider import SoraProvider
from tests.support.recovery import RecoveryHarness, a_shot, statuses


@pytest.mark.parametrize("minutes", [10, 60 * 24])
async def test_a_clock_that_is_set_forward_does_not_settle_anything(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    """The request is accepted after its answer was given up, and after the first looks at the list."""
    accepting: list[asyncio.Task[Generation]] = []
    now = Ledger.now

    class Slow(SoraProvider):
        async def submit(self, *shot: Any, **options: Any) -> Generation:
            if accepting:
                return await super().submit(*shot, **options)

            async def accept() -> Generation:
                await asyncio.sleep(1.6)
                return await super(Slow, self).submit(*shot, **options)

            accepting.append(asyncio.create_task(accept()))
            raise SubmitOutcomeUnknown("its answer was lost", provider=self.name)

    async def set_forward(ledger: Ledger) -> datetime:
        return await now(ledger) + (timedelta(minutes=minutes) if accepting else timedelta(0))

    monkeypatch.setattr(Ledger, "now", set_forward)
    assert statuses(await harness.run(a_shot(), kind=Slow, settle_seconds=2.5)) == ["stored"]
    await asyncio.gather(*accepting)
    assert harness.paid == (1, 1)
