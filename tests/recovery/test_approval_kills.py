"""Workers killed by SIGKILL before and after an approval: each take and what continues it is paid once."""

from __future__ import annotations

from benchmarks.torture_worker import Kill
from prefect_video.pipeline import approve_as_proposed, list_pending
from prefect_video.session import SessionEvent
from tests.support.recovery import RecoveryHarness, a_shot, film
from tests.support.workers import KILLED, end, start


async def test_a_chain_with_takes_and_an_approval_is_paid_once(harness: RecoveryHarness) -> None:
    project = film(a_shot(1, takes=2, approve=True), a_shot(2, continue_from="shot-1"))
    # Both takes are sent, none is fetched; no one was asked yet.
    assert end(start(harness, project, Kill(event=SessionEvent.ANSWERED, skip=1))).status == KILLED
    report = end(start(harness, project)).report
    assert [shot["status"] for shot in report["shots"]] == ["stored", "stored", "waiting"]
    assert harness.paid == (2, 2)
    async with harness.ledger() as ledger:
        (waiting,) = await list_pending(ledger, "film", environment="production")
        assert (waiting.shot.id, list(waiting.takes)) == ("shot-1", [1, 2])
        await approve_as_proposed(ledger, "film", None, by="me", environment="production")
    # The shot that continues the chosen take is sent, and its answer lost with the process.
    assert end(start(harness, project, Kill(event=SessionEvent.ANSWERED))).status == KILLED
    last = end(start(harness, project))
    assert last.status == 0, last.report
    assert harness.paid == (3, 3)
    assert len(harness.videos) == 3
