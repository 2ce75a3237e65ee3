"""Processes that join one another's shots on one SQLite ledger, and end while others still use it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.support.recovery import RecoveryHarness, a_shot, film
from tests.support.recovery_fixtures import OpenHarness
from tests.support.workers import race

PROCESSES = 8
ROUNDS = 30


async def test_eight_processes_that_join_one_another_end_well_thirty_times(open_harness: OpenHarness) -> None:
    """Two ledgers at once, so that there are more processes than even a large machine has cores."""
    common = open_harness(speed=2000, capacity=100)
    harnesses = [
        replace(common, folder=common.folder / name, ledger_url=f"sqlite:///{common.folder / name / 'ledger.db'}")
        for name in ("first", "second")
    ]

    async def race_repeatedly(harness: RecoveryHarness) -> None:
        for number in range(ROUNDS // len(harnesses)):
            # One process buys the round's shot, and seven wait for it.
            shot = a_shot(number, prompt=f"a cat on roof {number} of {harness.folder.name}")
            ends = await race(harness, [film(shot)] * PROCESSES)
            assert [end.status for end in ends] == [0] * PROCESSES, ends

    await asyncio.gather(*(race_repeatedly(harness) for harness in harnesses))
    assert common.paid == (ROUNDS, ROUNDS)
    assert common.emulator.usage()["submitted"] == ROUNDS
