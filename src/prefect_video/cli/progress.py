"""The progress of a run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from prefect_video.cli.output import escape, print_status, stderr, table, usd
from prefect_video.ledger import Job
from prefect_video.pipeline import Plan, observe_films
from prefect_video.session import SessionEvent, observe

FILM_LINE_SECONDS: Final = 5.0
"""Least time between two lines about a film."""
ROWS_LIMIT: Final = 20
"""Shots shown at once; the line below counts all of them."""

_LABELS: Final[dict[str, str]] = {
    "claimed": "reserved",
    "before_send": "submitting",
    "unanswered": "asking the provider whether it was accepted",
    "answered": "submitting",
    "submitted": "generating",
    "polled": "generating",
    "completed": "generated",
    "downloading": "downloading",
    "downloaded": "checked",
    "rejected": "rejected by a quality gate",
    "before_publish": "publishing",
    "not_published": "the store fails, it is tried again for a while",
    "published": "publishing",
    "stored": "stored",
    "ended": "no video",
}
_COLOURS: Final = {"stored": "green", "cached": "green", "no video": "red", "waiting": "dim"}
_BEGINNINGS: Final = {"cached": "cached", "clip": "stored"}
"""States of shots that need no generation, by what is planned for them."""
_PRINTED: Final = frozenset(
    {
        "generating",
        "downloading",
        "stored",
        "no video",
        _LABELS["unanswered"],
        _LABELS["not_published"],
        _LABELS["rejected"],
    }
)
_DONE: Final = frozenset({"stored", "cached", "no video"})


@dataclass
class _Line:
    """The progress of one shot."""

    state: str = "waiting"
    cost_usd: Decimal | None = None
    began: float | None = None
    ended: float | None = None

    @property
    def elapsed_seconds(self) -> float | None:
        return None if self.began is None else (self.ended or time.monotonic()) - self.began


@dataclass
class ProgressTable:
    """The progress of every shot of a run, as an observer of sessions."""

    lines: dict[str, _Line] = field(default_factory=dict)
    on_change: Callable[[str, _Line], None] | None = None
    film_share: float | None = None

    @classmethod
    def for_project(cls, plan: Plan) -> ProgressTable:
        """Build the table of a plan's shots; those that are cached are done already."""
        return cls({shot.id: _Line(_BEGINNINGS.get(shot.action, "waiting")) for shot in plan.shots})

    def __call__(self, event: SessionEvent, job: Job) -> None:
        """Record a step of a job."""
        state = _LABELS.get(event)
        if state is None:
            return
        name = job.shot.id if job.take == 1 else f"{job.shot.id}@{job.take}"
        line = self.lines.setdefault(name, _Line())
        if event == SessionEvent.ENDED and line.state == _LABELS["rejected"]:
            # Its video is kept, and another take is bought.
            return
        changed = line.state != state
        line.state = state
        line.cost_usd = job.cost_usd
        line.began = line.began or time.monotonic()
        line.ended = time.monotonic() if state in _DONE else None
        if changed and self.on_change:
            self.on_change(name, line)

    def film_progressed(self, share: float) -> None:
        """Record how much of the film is done."""
        self.film_share = share

    def __rich__(self) -> Group:
        return Group(self._table(), self._summary())

    def _table(self) -> Table:
        active = {name: line for name, line in self.lines.items() if line.began and line.state not in _DONE}
        shown = self.lines if len(self.lines) <= ROWS_LIMIT else dict(list(active.items())[:ROWS_LIMIT])
        grid = table("shot", "", "elapsed", "cost", right=("elapsed", "cost"))
        for name, line in shown.items():
            elapsed = line.elapsed_seconds
            grid.add_row(
                escape(name),
                _render_state(line),
                f"{elapsed:.0f} s" if elapsed is not None else "",
                usd(line.cost_usd) if line.cost_usd is not None else "",
            )
        return grid

    def _summary(self) -> Text:
        done = sum(line.state in _DONE for line in self.lines.values())
        film = "" if self.film_share is None else f", film {100 * self.film_share:.0f} %"
        return Text(f"{done} of {len(self.lines)} done{film}", style="dim")


class FilmLines:
    """Printer of a film's progress on stderr, a line every few seconds."""

    def __init__(self) -> None:
        self._printed = time.monotonic()

    def __call__(self, share: float) -> None:
        """Print how much is done, unless that was printed just now."""
        if time.monotonic() - self._printed >= FILM_LINE_SECONDS:
            self._printed = time.monotonic()
            print_status(f"film: {100 * share:.0f} % done")


@contextmanager
def show_progress(progress: ProgressTable, *, quiet: bool) -> Iterator[None]:
    """Show progress on stderr for as long as the context lasts."""
    with observe(progress):
        console = stderr()
        if quiet:
            yield
        elif console.is_terminal:
            live = Live(progress, console=console, refresh_per_second=8, transient=True, redirect_stdout=False)
            with live, observe_films(progress.film_progressed):
                yield
        else:
            progress.on_change = _line_printer(console)
            with observe_films(FilmLines()):
                yield


def _line_printer(console: Console) -> Callable[[str, _Line], None]:
    def print_line(name: str, line: _Line) -> None:
        if line.state in _PRINTED:
            console.print(f"{name}: {line.state}", markup=False, soft_wrap=True)

    return print_line


_spinners: dict[str, Spinner] = {}
"""A spinner per state, kept: a new one at each refresh would always show its first frame."""


def _render_state(line: _Line) -> Spinner | Text:
    if line.state in _DONE or line.state == "waiting":
        return Text(line.state, style=_COLOURS[line.state])
    return _spinners.setdefault(line.state, Spinner("dots", text=Text(line.state, style="cyan"), style="cyan"))
