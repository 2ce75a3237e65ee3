"""Output of commands: one JSON object or text on stdout, everything else on stderr, and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape as escape_markup
from rich.segment import Segment
from rich.table import Table

from prefect_video._clean_text import clean_json, clean_text
from prefect_video.errors import BudgetExceeded, InvalidInput
from prefect_video.ledger import command_line
from prefect_video.ledger import usd as ledger_usd

DONE: Final = 0
FAILED: Final = 1
INVALID: Final = 2
OVER_BUDGET: Final = 3
INTERRUPTED: Final = 130
TERMINATED: Final = 143

INTERRUPTED_TEXT: Final = (
    "interrupted. What was submitted goes on at the provider and is paid for: run the same command again to go on, or"
    " fetch it with: {command}"
)

REPORT_COMMANDS: Final = frozenset({"run", "shot", "demo"})
"""Commands whose JSON is a project's report, on failure too."""

_PIPE_COLUMNS: Final = 200


class Interrupted(KeyboardInterrupt):
    """A request to end the command: Ctrl-C, or SIGTERM.

    A `KeyboardInterrupt`, because an event loop re-raises that at once, whichever of its tasks it was raised in;
    an ordinary exception would stay in that task.

    Attributes:
        status: The exit status: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, status: int) -> None:
        super().__init__(interrupted_text())
        self.status = status


def interrupted_text(ledger: str | None = None) -> str:
    """Return the message of an interrupted run; `ledger` is the `--ledger` that the next command needs."""
    return INTERRUPTED_TEXT.format(command=command_line("collect", "--wait", ledger=ledger))


class CleanConsole(Console):
    """A console that shows other people's text without obeying it; its own styles are not text."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render with each text cleaned."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else clean_text(text, lines=True), style, control)


def stdout() -> Console:
    """Return the console of answers; in a pipe it is wide enough for whole lines."""
    return CleanConsole(highlight=False, width=None if sys.stdout.isatty() else _PIPE_COLUMNS)


def stderr() -> Console:
    """Return the console of progress, notes and errors."""
    return CleanConsole(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _PIPE_COLUMNS)


def print_status(text: str, *, error: bool = False) -> None:
    """Print a line on stderr, marked as an error if it is one."""
    console = stderr()
    if error:
        console.print("[bold red]error:[/] ", end="")
    console.print(text, markup=False, soft_wrap=True)


def print_json(answer: Any) -> None:
    """Print the one JSON object of a `--json` command."""
    sys.stdout.write(clean_json(answer) + "\n")
    sys.stdout.flush()


def write_stdout(content: bytes) -> None:
    """Write a file's content to stdout, as it is."""
    sys.stdout.write(content.decode())
    sys.stdout.flush()


def status_of(error: BaseException) -> int:
    """Return the exit status that an error stands for."""
    if isinstance(error, BudgetExceeded):
        return OVER_BUDGET
    return INVALID if isinstance(error, InvalidInput) else FAILED


def report_object(project: str | None, error: str) -> dict[str, Any]:
    """Build the JSON of a run that ended without a report."""
    return {"project": project, "shots": [], "cost_usd": 0, "seconds": 0, "error": error}


def error_object(error: str) -> dict[str, Any]:
    """Build the JSON of any other command that failed."""
    return {"error": error}


def one_line(error: BaseException) -> str:
    """Return the first line of a foreign error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def table(*columns: str, title: str | None = None, right: tuple[str, ...] = ()) -> Table:
    """Build a table without borders; `right` names the columns of numbers."""
    grid = Table(
        box=None, title=title, title_justify="left", title_style="bold", header_style="dim", padding=(0, 2, 0, 0)
    )
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return grid


def escape(value: object) -> str:
    """Return a value as text that rich prints literally."""
    return escape_markup(str(value))


def usd(amount: Decimal | None) -> str:
    """Format an amount in USD; `?` when the price is not known."""
    return "?" if amount is None else ledger_usd(amount)


def display_path(uri: str) -> str:
    """Format a URI: a file as a path, relative to the current directory where it lies below it."""
    if not uri.startswith("file://"):
        return uri
    path = Path(unquote(urlsplit(uri).path))
    try:
        return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    except OSError:
        # The current directory may have been removed.
        return str(path)


def relative_time(moment: datetime) -> str:
    """Format the time since a moment, such as `5 min`."""
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for unit, span in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= span:
            return f"{seconds / span:.0f} {unit}"
    return f"{seconds:.0f} s"
