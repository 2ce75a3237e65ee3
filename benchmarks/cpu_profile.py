"""Profile of a process by samples of its processor time, which an event loop's coroutines do not distort."""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Final

STEP_SECONDS: Final = 0.002
LINES: Final = 40
IDLE: Final = frozenset(
    {"select", "wait", "_worker", "get", "run", "_run_all", "heartbeat_loop", "_wait_for_tstate_lock"}
)
"""Functions in which threads wait."""


@dataclass
class CpuProfile:
    """Samples of stacks, one each `STEP_SECONDS` of the process's processor time.

    A sample is the main thread's, or another thread's where that one waits. What SQLAlchemy runs in greenlets counts as
    its own time, and not for its callers.

    Attributes:
        parts: Samples by the innermost part of this package, or by the library where there is none on the stack.
        own: Samples by the function that was running.
        inclusive: Samples by the functions that had called it or awaited it.
    """

    parts: Counter[str] = field(default_factory=Counter)
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
        """Return parts and functions with the most samples, in per cent: by their own time, and with what they call."""
        package = Counter({code: hits for code, hits in self.inclusive.items() if "prefect_video" in _place(code)})
        total = max(self.own.total(), 1)
        lines = [f"-- parts ({total} samples)"]
        lines += [f"{hits / total:>7.1%}  {part}" for part, hits in self.parts.most_common(LINES)]
        for title, functions in {
            "own time": self.own,
            "with what they call": self.inclusive,
            "of this package, with what they call": package,
        }.items():
            lines.append(f"-- {title}")
            for code, hits in functions.most_common(LINES):
                lines.append(f"{hits / total:>7.1%}  {_place(code)}:{code.co_firstlineno} {code.co_qualname}")
        return "\n".join(lines)

    def _sample(self, signal_number: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        if frame.f_code.co_name in IDLE:
            frame = _busy_thread() or frame
        stack = list(dict.fromkeys(_stack(frame)))
        self.own[stack[0]] += 1
        self.inclusive.update(stack)
        self.parts[_part(stack)] += 1


def _stack(frame: FrameType | None) -> Iterator[CodeType]:
    """Yield the functions of a stack, the innermost first."""
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def _busy_thread() -> FrameType | None:
    """Return the stack of a thread, the main one aside, that does not wait."""
    main = threading.main_thread().ident
    frames = (frame for ident, frame in sys._current_frames().items() if ident != main)
    return next((frame for frame in frames if frame.f_code.co_name not in IDLE), None)


def _part(stack: list[CodeType]) -> str:
    places = [_place(code) for code in stack]
    if stack[0].co_name in IDLE:
        return "threads that have no Python frame, and waiting"
    if any("importlib" in place for place in places):
        return "imports"
    for place in places:
        folder, _, rest = place.partition("/")
        if folder == "prefect_video":
            return f"{folder}/{rest.partition('/')[0]}"
        if folder in ("prefect", "sqlalchemy", "fastapi"):
            return folder
    return "event loop and other libraries"


def _place(code: CodeType) -> str:
    """Return the file of a function from its package on."""
    path = code.co_filename
    library = path.partition("/site-packages/")[2]
    if library or "/lib/python" in path:
        return library or path
    for folder in ("src/prefect_video/", "tasks/", "flows/", "blocks/"):
        before, found, rest = path.rpartition(f"/{folder}")
        if found and "/prefect_video/" not in before:
            return f"prefect_video/{folder.removeprefix('src/prefect_video/')}{rest}"
    return path
