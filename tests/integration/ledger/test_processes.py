"""Several processes on one ledger, and processes that die."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from benchmarks.workers import Worker
from prefect_video.ledger import Ledger, State, leases
from prefect_video.ledger.leases import is_held, runtime_folder
from prefect_video.ledger.tables import jobs_table, owners
from tests.support.claim_worker import work
from tests.support.records import a_request, claim_one, submit_one


class Claimer:
    """A running `claimer` process."""

    def __init__(self, url: str) -> None:
        self._worker = Worker(work, url)

    async def read(self) -> str:
        line: str = await asyncio.to_thread(self._worker.line.recv)
        return line

    async def ask(self, command: str) -> str:
        self._worker.line.send(command)
        return await self.read()

    async def kill(self) -> None:
        await asyncio.to_thread(self._worker.kill)

    def close(self) -> None:
        self._worker.close()


@asynccontextmanager
async def claimers(url: str, number: int) -> AsyncIterator[list[Claimer]]:
    started = [Claimer(url) for _ in range(number)]
    try:
        assert {await claimer.read() for claimer in started} == {"ready"}
        yield started
    finally:
        for claimer in started:
            claimer.close()


async def test_eight_processes_buy_every_video_once_and_keep_the_budget(ledger: Ledger, url: str) -> None:
    async with claimers(url, 8) as started:
        yours = await asyncio.gather(*(claimer.ask("race") for claimer in started))
        assert sum(map(int, yours)) == 100
        yours = await asyncio.gather(*(claimer.ask("budget") for claimer in started))
        assert sum(map(int, yours)) == 10
    assert len(await ledger.jobs.unfinished(project="race")) == 100
    assert len(await ledger.jobs.unfinished(project="budget")) == 10


async def test_eight_processes_open_a_new_file_at_once(sqlite_url: str) -> None:
    async with claimers(sqlite_url, 8) as started:
        yours = await asyncio.gather(*(claimer.ask("race") for claimer in started))
    assert sum(map(int, yours)) == 100


async def test_what_a_killed_process_held_is_taken_over_at_once(ledger: Ledger, url: str) -> None:
    async with claimers(url, 1) as (claimer,):
        job_id = await claimer.ask("hold")
        owner = (await ledger.jobs.get(job_id)).owner
        assert owner is not None
        assert await ledger.claims.is_owner_alive(owner)
        assert await ledger.claims.take_over(job_id) is None
        assert (await ledger.claims.claim([a_request(7)])).claims[0].kind == "joined"
        await claimer.kill()
    assert [await ledger.claims.is_owner_alive(owner) for _ in range(2)] == [False, False]
    (claim,) = (await ledger.claims.claim([a_request(7)])).claims
    assert (claim.kind, claim.job.id, claim.job.state) == ("acquired", job_id, State.SUBMITTING)


@pytest.mark.parametrize(("age_seconds", "alive"), [(5, True), (31, False), (None, False)])
async def test_the_heartbeat_tells_of_other_machines(ledger: Ledger, age_seconds: int | None, alive: bool) -> None:
    job = await submit_one(ledger)
    stranger = "elsewhere:1:abc"
    async with ledger._database.writing() as connection:
        await connection.execute(update(jobs_table).values(owner=stranger))
        if age_seconds is not None:
            beat = datetime.now(UTC) - timedelta(seconds=age_seconds)
            row = {"id": stranger, "host": "elsewhere", "pid": 1, "heartbeat_at": beat}
            await connection.execute(insert(owners).values(row))
    assert await ledger.claims.is_owner_alive(stranger) is alive
    taken = await ledger.claims.take_over(job.id)
    assert (taken is None) is alive
    assert (await ledger.claims.claim([a_request()])).claims[0].kind == "joined"


async def test_an_owner_keeps_beating(url: str) -> None:
    async with await Ledger.open(url, lease_seconds=0.03, migrate=True) as ledger:
        beats = set()
        async with asyncio.timeout(300):
            while len(beats) < 3:
                async with ledger._database.reading() as connection:
                    beats.add((await connection.execute(owners.select())).one().heartbeat_at)


async def test_old_lock_files_are_removed_and_held_ones_are_not(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with await Ledger.open(url, migrate=True) as ledger:
        # As an hour later.
        monkeypatch.delitem(leases._swept_at, runtime_folder())
        held = runtime_folder() / f"{ledger.owner_id.rpartition(':')[2]}.lock"
        left, fresh = runtime_folder() / "left.lock", runtime_folder() / "fresh.lock"
        for path in (held, left, fresh):
            path.touch()
        for path in (held, left):
            os.utime(path, (0, 0))
        async with await Ledger.open(url):
            assert [path.exists() for path in (held, left, fresh)] == [True, False, True]
        fresh.unlink()
    assert not held.exists()


_HOLD_AND_FORK = """
import os, pathlib, sys
from prefect_video.ledger.leases import try_lock
lock = try_lock(pathlib.Path(sys.argv[1]))
if os.fork() == 0:
    # It says so itself: by now it has closed its copy of the lock.
    print(os.getpid(), flush=True)
    sys.stdin.read()
    os._exit(0)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_does_not_keep_the_lock_of_its_dead_parent(tmp_path: Path) -> None:
    path = tmp_path / "owner.lock"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD_AND_FORK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_held(path) is True
        parent.kill()
        parent.wait()
        os.kill(child, 0)  # the child is there and outlives its parent
        assert is_held(path) is False
        os.kill(child, signal.SIGTERM)


async def test_taking_over(ledger: Ledger, other: Ledger) -> None:
    job = await claim_one(ledger)
    assert await ledger.claims.take_over(job.id) is None
    assert await other.claims.take_over(job.id) is None
    await ledger.claims.release_ownership([job.id])
    taken = await other.claims.take_over(job.id)
    assert taken is not None
    assert taken.owner == other.owner_id
    await other.jobs.release_reservation(job.id, "done with")
    assert await other.claims.take_over(job.id) is None
