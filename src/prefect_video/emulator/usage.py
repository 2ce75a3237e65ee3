"""Usage counters: the provider's own record of requests and bills, against which tests check a client's claims."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

TOTALS = (
    "submitted", "accepted", "refused", "billed", "completed", "failed", "cancelled", "polled", "listed",
    "downloaded", "download_bytes", "peak_concurrency", "leaked_keys", "webhooks_sent",
)  # fmt: skip
PER_PROMPT = ("submitted", "accepted", "refused", "billed", "downloaded", "polled")
PER_KEY = ("submitted", "accepted", "refused", "billed", "polled", "peak_concurrency")


class CounterKey(NamedTuple):
    """Key of one counter: its scope (`total`, `prompt`, `key`, `request`), the subject counted, and its name."""

    scope: str
    subject: str
    name: str


class UsageCounters:
    """Counters that only grow until a reset.

    Attributes:
        changed: Keys of the counters that are not yet durable.
    """

    def __init__(self, counters: Iterable[tuple[CounterKey, Decimal]] = ()) -> None:
        self._counters: dict[CounterKey, Decimal] = dict(counters)
        self.changed: set[CounterKey] = set()

    def count(self, name: str, *, prompt: str | None = None, key: str | None = None, amount: Decimal | int = 1) -> None:
        """Add to a total, and to the same counter of the prompt and the key where they have one."""
        self._add(CounterKey("total", "", name), amount)
        if prompt is not None and name in (*PER_PROMPT, "billed_usd"):
            self._add(CounterKey("prompt", prompt, name), amount)
        if key is not None and name in (*PER_KEY, "billed_usd"):
            self._add(CounterKey("key", key, name), amount)

    def count_scoped(self, name: str, *, prompt: str | None = None, key: str | None = None) -> None:
        """Add to the counters of the prompt and the key only.

        A total is counted as soon as a request arrives, before its key and prompt are known.
        """
        if prompt is not None:
            self._add(CounterKey("prompt", prompt, name), 1)
        if key is not None:
            self._add(CounterKey("key", key, name), 1)

    def count_request(self, operation: str) -> None:
        """Add one request of this operation."""
        self._add(CounterKey("request", operation, "count"), 1)

    def record_peak(self, concurrency: int, *, key: str | None = None) -> None:
        """Keep the highest concurrency seen, of all accounts or of one."""
        scope = "total" if key is None else "key"
        counter = CounterKey(scope, key or "", "peak_concurrency")
        if concurrency > self.value(counter):
            self._counters[counter] = Decimal(concurrency)
            self.changed.add(counter)

    def value(self, counter: CounterKey) -> Decimal:
        """Return the value of a counter."""
        return self._counters.get(counter, Decimal(0))

    def clear(self) -> None:
        """Reset every counter to zero."""
        self._counters.clear()
        self.changed.clear()

    def report(self, now_concurrency: int) -> dict[str, Any]:
        """Return the usage as JSON: counts as integers, money as a string in USD."""
        report: dict[str, Any] = {name: int(self.value(CounterKey("total", "", name))) for name in TOTALS}
        report["billed_usd"] = _format_usd(self.value(CounterKey("total", "", "billed_usd")))
        report["now_concurrency"] = now_concurrency
        report["by_prompt"] = self._group_by("prompt", PER_PROMPT)
        report["by_key"] = self._group_by("key", PER_KEY)
        report["requests"] = {
            counter.subject: int(value)
            for counter, value in sorted(self._counters.items())
            if counter.scope == "request"
        }
        return report

    def _group_by(self, scope: str, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        subjects: dict[str, dict[str, Any]] = {}
        for counter, value in self._counters.items():
            if counter.scope != scope:
                continue
            counts = subjects.setdefault(counter.subject, {**dict.fromkeys(names, 0), "billed_usd": "0.00"})
            counts[counter.name] = _format_usd(value) if counter.name == "billed_usd" else int(value)
        return subjects

    def _add(self, counter: CounterKey, amount: Decimal | int) -> None:
        self._counters[counter] = self.value(counter) + amount
        self.changed.add(counter)


def _format_usd(value: Decimal) -> str:
    return str(value.quantize(Decimal("0.01")))
