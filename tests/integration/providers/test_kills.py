"""Workers killed by SIGKILL on every provider: nothing is bought twice, and what no one can tell is held.

The provider's usage records are the judge. `python -m benchmarks.torture --provider all` is the long form.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from benchmarks.torture_points import POINTS
from benchmarks.torture_verdict import Shelf, judge
from benchmarks.torture_worker import Kill, Order, work
from benchmarks.workers import KILLED, End, Worker
from prefect_video.emulator import Emulator
from prefect_video.projects import Project
from prefect_video.shots import Shot
from tests.support.accounts import TestAccount
from tests.support.workers import end

NOT_RECORDED: Final = ("before send", "sent, not answered", "answered, not recorded")
RECORDED: Final = ("mid-poll", "mid-download", "published, not recorded")


class Site:
    """One provider's emulator, ledger and store, and the workers on them."""

    def __init__(self, account: TestAccount, emulator: Emulator, folder: Path) -> None:
        self.emulator = emulator
        self.ledger = f"sqlite:///{folder / 'ledger.db'}"
        self.shelf = Shelf(folder / "store")
        self._account = account
        self._folder = folder

    def work(self, *shots: Shot, kill: Kill | None = None) -> End:
        """One worker on some shots of the film."""
        order = Order(
            endpoint=self.emulator.endpoint,
            provider=self._account.name,
            ledger=self.ledger,
            folder=self._folder,
            project=Project(name="film", shots=shots),
            kill=kill,
            settle_seconds=0.5,
        )
        return end(Worker(work, order))

    def kill_at(self, name: str, shot: Shot) -> None:
        """One worker, which dies there."""
        point = POINTS[name]
        assert point.event is not None
        for fault in point.faults:
            self.emulator.add_fault(fault)
        delay = max(point.delay_seconds) / 2 if point.delay_seconds else None
        assert self.work(shot, kill=Kill(event=point.event, delay_seconds=delay)).status == KILLED
        self.emulator.clear_faults()


@pytest.fixture
def site(account: TestAccount, emulator: Emulator, tmp_path: Path) -> Site:
    return Site(account, emulator, tmp_path)


def test_wherever_a_worker_is_killed_nothing_is_bought_twice(site: Site, account: TestAccount) -> None:
    shots = {
        name: account.a_shot(id=f"shot-{number}", prompt=f"a cat, killed: {name}")
        for number, name in enumerate((*NOT_RECORDED, *RECORDED))
    }
    for name, shot in shots.items():
        site.kill_at(name, shot)
    held = set(NOT_RECORDED) if account.holds_at(site.emulator) else set()
    for _ in range(2):
        output = site.work(*shots.values()).report
        assert {name: report["status"] for name, report in zip(shots, output["shots"], strict=True)} == {
            name: "held" if name in held else "stored" for name in shots
        }
    site.emulator.wait_until_idle()
    site.shelf.inspect({shot.prompt: shot for shot in shots.values()})
    usage = site.emulator.usage()
    expected = dict.fromkeys((shot.prompt for shot in shots.values()), 1)
    verdict = judge(usage, site.shelf, expected, site.ledger, may_hold=bool(held))
    assert verdict.holds, str(verdict)
    assert verdict.held == len(held)
    sent = {name: usage["by_prompt"].get(shot.prompt, {}).get("submitted", 0) for name, shot in shots.items()}
    assert all(sent[name] == 1 for name in shots if name not in held)
    assert all(sent[name] <= 1 for name in held)
