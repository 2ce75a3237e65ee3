"""Workers killed by SIGKILL between a rejected video and the next attempt; the provider's usage records are the judge."""

from __future__ import annotations

import pytest

from benchmarks.torture_worker import Kill
from prefect_video.ledger import State
from prefect_video.projects import Project
from prefect_video.session import SessionEvent
from tests.support.recovery import RecoveryHarness, a_shot, film
from tests.support.recovery_fixtures import OpenHarness
from tests.support.workers import KILLED, end, start

MOMENTS = [
    # Black, kept, not yet on record.
    Kill(event=SessionEvent.REJECTED),
    # On record, the next attempt not yet reserved.
    Kill(event=SessionEvent.ENDED),
    # Reserved, sent and fetched: each once.
    Kill(event=SessionEvent.CLAIMED, skip=1),
    Kill(event=SessionEvent.BEFORE_SEND, skip=1),
    Kill(event=SessionEvent.ANSWERED, skip=1),
]


def black_once(harness: RecoveryHarness) -> Project:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="black")
    return film(a_shot(), quality={"black": "retake"})


@pytest.mark.parametrize("kill", MOMENTS, ids=lambda kill: str(kill.event))
async def test_a_rejected_video_is_bought_anew_once(open_harness: OpenHarness, kill: Kill) -> None:
    harness = open_harness(speed=100)
    project = black_once(harness)
    assert end(start(harness, project, kill)).status == KILLED
    last = end(start(harness, project))
    assert last.status == 0, last.report
    assert harness.paid == (2, 2)
    assert [(row.state, row.attempt) for row in await harness.rows()] == [(State.LOST, 1), (State.STORED, 2)]
    assert (len(harness.rejected), len(harness.videos)) == (1, 1)
