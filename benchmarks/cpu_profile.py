"""Profile of a process by samples of its processor time, which an event loop's coroutines do not distort."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Final

STEP_SECONDS: Final = 0.002
LINES: Final = 40


@dataclass
class CpuProfile:
    """Samples of the main thread's stack, one each `STEP_SECONDS` of the process's processor time.

    Time of other threads is found where the main thread waits, in `select`; what SQLAlchemy runs in greenlets counts as
    own time, and not for its callers.

    Attributes:
        own: Samples by the function that was running.
        inclusive: Samples by the functions that had called it or awaited it.
    """

    own: Counter[CodeType] = field(default_factory=Counter)
    inclusive: Counter[CodeType] = field(default_factory=Counter)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Take samples in the context."""
        former = signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, STEP_SECONDS, STEP_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, former)

    def render(self) -> str:
        """Return the functions with the most samples, in per cent: by their own time, and with what they call."""
        package = Counter({code: hits for code, hits in self.inclusive.items() if "prefect_video" in _place(code)})
        tables = {
            "own time": self.own,
            "with what they call": self.inclusive,
            "of this package, with what they call": package,
        }
        lines = [line for title, hits in tables.items() for line in _table(title, hits, max(self.own.total(), 1))]
        return "\n".join(lines)

    def _sample(self, signal_number: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        self.own[frame.f_code] += 1
        stack: set[CodeType] = set()
        while frame is not None:
            stack.add(frame.f_code)
            frame = frame.f_back
        self.inclusive.update(stack)


def _table(title: str, hits: Counter[CodeType], total: int) -> Iterator[str]:
    yield f"-- {title}"
    for code, count in hits.most_common(LINES):
        yield f"{count / total:>7.1%}  {_place(code)}:{code.co_firstlineno} {code.co_qualname}"


def _place(code: CodeType) -> str:
    """Return the file of a function from its package on."""
    path = code.co_filename.partition("/site-packages/")[2] or code.co_filename
    for folder in ("src/prefect_video/", "tasks/", "flows/", "blocks/"):
        if f"/{folder}" in path and "site-packages" not in code.co_filename and "/lib/python" not in path:
            return "prefect_video/" + path.rpartition(f"/{folder}")[2]
    return path
