"""The metrics of money and work, read from the ledger when Prometheus asks for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from prefect_video.errors import LedgerError
from prefect_video.ledger import (
    OTHER_REASON,
    UNFINISHED,
    AccountMeasurement,
    AccountStatus,
    HoldReason,
    Ledger,
    Measurement,
    State,
)
from prefect_video.service.sessions import Sessions

logger = logging.getLogger(__name__)

_FRESH_SECONDS: Final = 5.0
"""For so long one reading serves all who ask: the route needs no token, and must not be a way to load the ledger."""
_BREAKER_STATES: Final = ("closed", "half_open", "open")


class LedgerMetrics(Collector):
    """The gauges of a ledger, for every account that has something in it or is served here.

    Args:
        sessions: The open sessions of the service, all of one ledger.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._ledger: Ledger = sessions.sessions[0].ledger
        self._slots = {session.provider.account.id: session.account_slots for session in sessions.sessions}
        self._families: list[GaugeMetricFamily] = []
        self._read_at: float | None = None
        self._turn = asyncio.Lock()

    async def text(self) -> bytes:
        """Return the gauges in Prometheus's text format; of a ledger that cannot be read, only that it is down."""
        async with self._turn:
            now = asyncio.get_running_loop().time()
            if self._read_at is None or now - self._read_at > _FRESH_SECONDS:
                self._families = await self._read()
                self._read_at = now
        return generate_latest(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return the gauges as they were read last."""
        yield from self._families

    async def _read(self) -> list[GaugeMetricFamily]:
        try:
            measurement = await self._ledger.measurements.read(self._slots)
            statuses = [
                await self._ledger.accounts.status(item.account, slots=self._slots.get(item.account))
                for item in measurement.accounts
            ]
        except LedgerError as error:
            logger.warning("the ledger cannot be measured: %s", error)
            return [_gauge("ledger_up", "1 if the ledger can be read.", [((), 0)])]
        return [
            _gauge("ledger_up", "1 if the ledger can be read.", [((), 1)]),
            *_measure_money(measurement),
            *_measure_work(measurement),
            *_measure_accounts(statuses),
        ]


Samples = Sequence[tuple[tuple[str, ...], float]]
"""Values with those of their labels."""


def _gauge(name: str, meaning: str, samples: Samples, labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"prefect_video_{name}", meaning, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _measure_money(measurement: Measurement) -> list[GaugeMetricFamily]:
    accounts = measurement.accounts
    return [
        _gauge(
            "spent_usd",
            "USD spent in this calendar month (UTC), as budgets count it; it begins at 0 with each month.",
            [((item.account,), float(item.spent_usd)) for item in accounts],
            ("account",),
        ),
        _gauge(
            "reserved_usd",
            "USD set aside for generations in progress.",
            [((item.account,), float(item.reserved_usd)) for item in accounts],
            ("account",),
        ),
    ]


def _measure_work(measurement: Measurement) -> list[GaugeMetricFamily]:
    accounts = measurement.accounts

    def age(moment: datetime | None) -> float:
        return max(0.0, (measurement.at - moment).total_seconds()) if moment else 0.0

    def by_account(name: str, meaning: str, values: Sequence[float]) -> GaugeMetricFamily:
        samples = [((item.account,), value) for item, value in zip(accounts, values, strict=True)]
        return _gauge(name, meaning, samples, ("account",))

    states = [((item.account, state.value), float(count)) for item in accounts for state, count in _states(item)]
    held = [((reason,), float(count)) for reason, count in _held(measurement)]
    return [
        _gauge("unfinished_jobs", "Jobs in progress, by state.", states, ("account", "state")),
        by_account("queued_jobs", "Jobs that wait for a slot of their account.", [item.queued for item in accounts]),
        by_account(
            "oldest_unfinished_seconds",
            "Age of the oldest job in progress; 0 without one.",
            [age(item.oldest_unfinished_at) for item in accounts],
        ),
        by_account(
            "webhook_lag_seconds",
            "Age of the oldest webhook event that is not handled; 0 without one.",
            [age(item.oldest_event_at) for item in accounts],
        ),
        _gauge("held_jobs", "Jobs that wait for a human, by hold reason.", held, ("reason",)),
    ]


def _states(item: AccountMeasurement) -> list[tuple[State, int]]:
    """Return the number of jobs in every state, so that one that empties falls to 0 and does not vanish."""
    return [(state, item.unfinished.get(state, 0)) for state in sorted(UNFINISHED)]


def _held(measurement: Measurement) -> list[tuple[str, int]]:
    return [(reason, measurement.held.get(reason, 0)) for reason in (*sorted(HoldReason), OTHER_REASON)]


def _measure_accounts(statuses: Sequence[AccountStatus]) -> list[GaugeMetricFamily]:
    breaker = [
        ((status.account, state), float(status.breaker == state)) for status in statuses for state in _BREAKER_STATES
    ]
    return [
        _gauge(
            "slots",
            "Generations that the account may have unfinished at once; missing where that is unlimited.",
            [((status.account,), status.slots) for status in statuses if status.slots is not None],
            ("account",),
        ),
        _gauge(
            "in_flight",
            "Slots taken: generations that the provider may be working on.",
            [((status.account,), status.occupied) for status in statuses],
            ("account",),
        ),
        _gauge("breaker_state", "1 for the state that the circuit breaker is in.", breaker, ("account", "state")),
        _gauge(
            "quota_exhausted",
            "1 while the provider says that the account's quota is used up.",
            [((status.account,), float(status.quota_until is not None)) for status in statuses],
            ("account",),
        ),
    ]
