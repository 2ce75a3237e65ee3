"""The provider's own account of what happened: what tests hold a client's claims against."""

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


class Line(NamedTuple):
    """One counter: scope (``total``, ``prompt``, ``key``, ``request``), whom it is about, and its name."""

    scope: str
    subject: str
    name: str


class UsageCounters:
    """Counters that only grow, until a reset; ``changed`` names those not yet written down."""

    def __init__(self, lines: Iterable[tuple[Line, Decimal]] = ()) -> None:
        self._lines: dict[Line, Decimal] = dict(lines)
        self.changed: set[Line] = set()

    def count(self, name: str, *, prompt: str | None = None, key: str | None = None, amount: Decimal | int = 1) -> None:
        """Add to a total, and to the same counter of prompt and key where they keep one."""
        self._add(Line("total", "", name), amount)
        if prompt is not None and name in (*PER_PROMPT, "billed_usd"):
            self._add(Line("prompt", prompt, name), amount)
        if key is not None and name in (*PER_KEY, "billed_usd"):
            self._add(Line("key", key, name), amount)

    def count_scoped(self, name: str, *, prompt: str | None = None, key: str | None = None) -> None:
        """Add to the counter of the prompt or key alone, where the total was counted before they were known."""
        if prompt is not None:
            self._add(Line("prompt", prompt, name), 1)
        if key is not None:
            self._add(Line("key", key, name), 1)

    def count_request(self, operation: str) -> None:
        """Add one request of an operation."""
        self._add(Line("request", operation, "count"), 1)

    def record_peak(self, concurrency: int, *, key: str | None = None) -> None:
        """Remember the highest concurrency seen, of all accounts or of one."""
        line = Line("total", "", "peak_concurrency") if key is None else Line("key", key, "peak_concurrency")
        if concurrency > self._lines.get(line, Decimal(0)):
            self._lines[line] = Decimal(concurrency)
            self.changed.add(line)

    def value(self, line: Line) -> Decimal:
        """What a counter stands at."""
        return self._lines.get(line, Decimal(0))

    def clear(self) -> None:
        """Start from zero."""
        self._lines.clear()
        self.changed.clear()

    def report(self, now_concurrency: int) -> dict[str, Any]:
        """The books as JSON: counts as integers, money as a string in USD."""
        report: dict[str, Any] = {name: int(self.value(Line("total", "", name))) for name in TOTALS}
        report["billed_usd"] = _usd(self.value(Line("total", "", "billed_usd")))
        report["now_concurrency"] = now_concurrency
        report["by_prompt"] = self._by("prompt", PER_PROMPT)
        report["by_key"] = self._by("key", PER_KEY)
        report["requests"] = {
            line.subject: int(value) for line, value in sorted(self._lines.items()) if line.scope == "request"
        }
        return report

    def _by(self, scope: str, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        subjects: dict[str, dict[str, Any]] = {}
        for line, value in self._lines.items():
            if line.scope != scope:
                continue
            job = subjects.setdefault(line.subject, {**dict.fromkeys(names, 0), "billed_usd": "0.00"})
            job[line.name] = _usd(value) if line.name == "billed_usd" else int(value)
        return subjects

    def _add(self, line: Line, amount: Decimal | int) -> None:
        self._lines[line] = self._lines.get(line, Decimal(0)) + amount
        self.changed.add(line)


def _usd(value: Decimal) -> str:
    return str(value.quantize(Decimal("0.01")))
