"""Fixtures of provider tests: an emulator for each module, its webhook receiver, and each account of the suite on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.providers.base import Provider
from tests.support.accounts import ACCOUNTS, TestAccount
from tests.support.webhook_receiver import WebhookReceiver


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    """Receive the events of dialects whose webhook address is registered once."""
    with WebhookReceiver() as running:
        yield running


@pytest.fixture(scope="module")
def shared_emulator(receiver: WebhookReceiver) -> Iterator[Emulator]:
    """Run an emulator five hundred times faster than real time, with one clip for all videos of the same size."""
    settings = EmulatorSettings(port=0, speed=500, render="plate", registered_webhook_url=receiver.url)
    with Emulator(settings) as running:
        yield running


@pytest.fixture
def emulator(shared_emulator: Emulator) -> Emulator:
    """Return the module's emulator, emptied."""
    shared_emulator.reset()
    return shared_emulator


@pytest.fixture(params=ACCOUNTS, ids=lambda account: str(account.name))
def account(request: pytest.FixtureRequest) -> TestAccount:
    """Return each account of the suite."""
    chosen: TestAccount = request.param
    return chosen


@pytest.fixture
async def provider(account: TestAccount, emulator: Emulator) -> AsyncIterator[Provider]:
    """Open the account's provider."""
    opened = account.open(emulator)
    yield opened
    await opened.aclose()
