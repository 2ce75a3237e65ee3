"""A forged delivery beside a genuine one: every dialect tells them apart."""

import asyncio

import pytest

from prefect_video import InvalidInput
from prefect_video.emulator import Emulator
from prefect_video.generations import WebhookEvent
from prefect_video.providers.base import Provider
from tests.support.accounts import TestAccount
from tests.support.webhook_receiver import WebhookReceiver


async def test_a_forged_delivery_is_refused_and_the_genuine_one_beside_it_is_not(
    provider: Provider, account: TestAccount, emulator: Emulator, receiver: WebhookReceiver
) -> None:
    if not account.delivers:
        pytest.skip(f"{provider.name} sends no webhooks")
    emulator.add_fault(operation="webhook", kind="forged")
    accepted = await provider.submit(account.a_shot(), idempotency_key="k", project="film", webhook_url=receiver.url)
    name = accepted.id.rpartition("/")[2]
    genuine, forged = 0, 0
    while not (genuine and forged):
        (delivery,) = await asyncio.to_thread(receiver.take, 1)
        if name.encode() not in delivery.body:
            continue
        if isinstance(read(provider, delivery.headers, delivery.body), WebhookEvent):
            genuine += 1
        else:
            forged += 1
    assert forged == 1


def read(provider: Provider, headers: dict[str, str], body: bytes) -> WebhookEvent | None:
    try:
        return provider.parse_webhook(headers, body)
    except InvalidInput:
        return None
