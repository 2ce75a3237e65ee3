"""An emulator for all tests of a module, its webhook receiver, and each account of the list on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.providers.base import Provider
from tests.support.accounts import ACCOUNTS, TestAccount
from tests.support.webhook_receiver import WebhookReceiver


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    """Where events of dialects go that register an address once."""
    with WebhookReceiver() as running:
        yield running


@pytest.fixture(scope="module")
def shared_emulator(receiver: WebhookReceiver) -> Iterator[Emulator]:
    """Five hundred times faster than real time, with one clip for all videos of a shape."""
    settings = EmulatorSettings(port=0, speed=500, render="plate", registered_webhook_url=receiver.url)
    with Emulator(settings) as running:
        yield running


@pytest.fixture
def emulator(shared_emulator: Emulator) -> Emulator:
    """The module's, with nothing in it."""
    shared_emulator.reset()
    return shared_emulator


@pytest.fixture(params=ACCOUNTS, ids=lambda account: str(account.name))
def account(request: pytest.FixtureRequest) -> TestAccount:
    """Each line of the list."""
    chosen: TestAccount = request.param
    return chosen


@pytest.fixture
async def provider(account: TestAccount, emulator: Emulator) -> AsyncIterator[Provider]:
    """Its provider."""
    opened = account.open(emulator)
    yield opened
    await opened.aclose()
