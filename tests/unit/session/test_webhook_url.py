"""Where a provider is told to announce an end."""

from __future__ import annotations

from dataclasses import replace

from tests.support.polling_fixtures import MakeEmulator, SessionOpener, submitted

ADDRESSES = {
    "https://video.example.com": "https://video.example.com/webhooks/emulator",
    "https://webhooks.example.com": "https://webhooks.example.com/webhooks/emulator",
    "https://webhook.example.com:8443/": "https://webhook.example.com:8443/webhooks/emulator",
    "https://example.com/webhook/{job_id}": "https://example.com/webhook/ROW",
    "https://example.com/video/webhooks/sora": "https://example.com/video/webhooks/sora",
}


async def test_the_path_says_whether_an_address_is_complete(open_session: SessionOpener, crowded: MakeEmulator) -> None:
    with crowded() as emulator:
        async with open_session(emulator) as session:
            (job,) = await submitted(session, 1)
            for address, expected in ADDRESSES.items():
                session.settings = session.settings.model_copy(update={"webhook_url": address})
                assert session.webhook_url(job) == expected.replace("ROW", job.id)


async def test_a_provider_that_takes_no_address_is_looked_at_as_if_there_were_none(
    open_session: SessionOpener, crowded: MakeEmulator
) -> None:
    with crowded() as emulator:
        async with open_session(emulator, webhook_url="https://video.example.com") as session:
            (job,) = await submitted(session, 1)
            session.provider.capabilities = replace(session.provider.capabilities, supports_webhook_url=False)
            assert session.webhook_url(job) is None
