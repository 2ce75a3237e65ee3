"""The receiver by itself: the account of an event, and the answer to one that cannot be stored."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from prefect_video.emulator import Emulator
from prefect_video.ledger import Job, Ledger, ReceivedEvent
from prefect_video.ledger.webhook_events import WebhookEvents
from prefect_video.service.metrics import Metrics
from prefect_video.service.sessions import Sessions
from prefect_video.service.webhooks import inbox as inbox_module
from prefect_video.service.webhooks.handler import is_about
from prefect_video.service.webhooks.inbox import Inbox
from prefect_video.service.webhooks.routes import WebhookReceiver, webhook_routes
from prefect_video.session import Session
from tests.support.records import submit_one
from tests.support.service_fixtures import open_environment_session
from tests.unit.service.test_webhooks import build_event, sign, submit_generation


def an_event(event_id: str = "evt_1", generation_id: str = "gen_1", account: str = "sora-1") -> ReceivedEvent:
    return ReceivedEvent(
        account=account,
        event_id=event_id,
        generation_id=generation_id,
        type="generation.completed",
        received_at=datetime.now(UTC),
    )


class QueuedEvents(list[ReceivedEvent]):
    """A stand-in for the workers that only collects the events."""

    def enqueue(self, event: ReceivedEvent) -> None:
        self.append(event)


async def deliver(sessions: tuple[Session, ...], path: str, body: bytes, secret: str) -> tuple[int, QueuedEvents]:
    """Send a delivery to a receiver of these accounts; return its status and the queued events."""
    queued = QueuedEvents()
    inbox = Inbox(sessions[0].ledger)
    receiver = WebhookReceiver(Sessions(sessions), inbox, queued, Metrics(), body_limit_bytes=10_000)  # type: ignore[arg-type]
    transport = httpx.ASGITransport(Starlette(routes=list(webhook_routes(receiver))))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        answer = await client.post(path, content=body, headers=sign(body, secret))
    await inbox.aclose()
    return answer.status_code, queued


@pytest.mark.parametrize("by_job", [False, True], ids=["provider", "job"])
async def test_accounts_with_one_secret_are_distinguished_by_their_rows(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch, by_job: bool
) -> None:
    async with await open_environment_session() as first:
        monkeypatch.setenv("SORA_API_ENDPOINT", provider.endpoint.replace("127.0.0.1", "localhost"))
        async with await open_environment_session() as second:
            job = await submit_generation(second)
            path = f"/webhook/{job.id}" if by_job else "/webhooks/sora"
            body = build_event(job.generation_id or "")
            status, queued = await deliver((first, second), path, body, provider.webhook_secret)
    assert (status, [event.account for event in queued]) == (200, [second.provider.account.id])


@pytest.mark.parametrize(
    ("known", "received", "same"),
    [
        ("fal-ai/veo3/requests/abc", "abc", True),
        ("fal-ai/veo3/requests/abc", "bc", False),
        ("gen_1", "gen_1", True),
        ("gen_1", "gen_11", False),
        (None, "None", False),
    ],
)
async def test_a_generation_goes_by_the_last_part_of_its_name_too(
    ledger: Ledger, known: str | None, received: str, same: bool
) -> None:
    job: Job = (await submit_one(ledger)).model_copy(update={"generation_id": known})
    assert is_about(an_event(generation_id=received), job) is same


async def test_a_defect_in_writing_leaves_no_delivery_without_an_answer(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: Ledger, events: list[ReceivedEvent]) -> list[bool]:
        raise UnicodeEncodeError("utf-8", "e\ud800", 1, 2, "surrogates not allowed")

    inbox = Inbox(ledger)
    with monkeypatch.context() as patch:
        patch.setattr(WebhookEvents, "receive_events", fail)
        with pytest.raises(UnicodeEncodeError):
            await inbox.put(an_event())
    assert await inbox.put(an_event())
    await inbox.aclose()


async def test_deliveries_that_come_in_together_share_transactions(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    receive = WebhookEvents.receive_events

    async def counted(self: WebhookEvents, events: list[ReceivedEvent]) -> list[bool]:
        batches.append(len(events))
        return await receive(self, events)

    monkeypatch.setattr(WebhookEvents, "receive_events", counted)
    monkeypatch.setattr(inbox_module, "_GATHER_SECONDS", 0.5)
    inbox = Inbox(ledger)
    assert await inbox.put(an_event("evt_0"))
    later = [asyncio.create_task(inbox.put(an_event(f"evt_{number}"))) for number in (1, 1, 2)]
    await inbox.wait_until_idle()
    assert sorted(await asyncio.gather(*later)) == [False, True, True]
    assert batches == [1, 3]
    await inbox.aclose()
