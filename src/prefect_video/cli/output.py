"""How commands answer: one JSON object or text on stdout, everything else on stderr, and an exit status."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from prefect_video.errors import BudgetExceeded, InvalidInput
from prefect_video.ledger import command_line

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
    """The user, or whoever runs the machine, asked for the end.

    Of this kind, because an event loop passes it on at once, whichever of its tasks it met.

    Attributes:
        status: The exit status: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, status: int) -> None:
        super().__init__(interrupted_text())
        self.status = status


def interrupted_text(ledger: str | None = None) -> str:
    """Return what an interrupted run says; `ledger` is the `--ledger` that its command needs."""
    return INTERRUPTED_TEXT.format(command=command_line("collect", "--wait", ledger=ledger))


def stdout() -> Console:
    """Where answers go; wide enough for whole lines when nobody looks at it."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_COLUMNS)


def stderr() -> Console:
    """Where everything else goes."""
    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _PIPE_COLUMNS)


def print_status(text: str, *, error: bool = False) -> None:
    """Tells the user something on stderr."""
    console = stderr()
    if error:
        console.print("[bold red]error:[/] ", end="")
    console.print(text, markup=False, soft_wrap=True)


def print_json(answer: Any) -> None:
    """Prints the one JSON object of a `--json` command."""
    sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def status_of(error: BaseException) -> int:
    """The exit status that an error stands for."""
    if isinstance(error, BudgetExceeded):
        return OVER_BUDGET
    return INVALID if isinstance(error, InvalidInput) else FAILED


def report_object(project: str | None, error: str) -> dict[str, Any]:
    """What a run prints as JSON when there is no report."""
    return {"project": project, "shots": [], "cost_usd": 0, "seconds": 0, "error": error}


def error_object(error: str) -> dict[str, Any]:
    """What other commands print as JSON when they fail."""
    return {"error": error}


def one_line(error: BaseException) -> str:
    """An error of somebody else's, in one line of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def table(*columns: str, title: str | None = None, right: tuple[str, ...] = ()) -> Table:
    """A plain table; `right` names the columns of numbers."""
    made = Table(
        box=None, title=title, title_justify="left", title_style="bold", header_style="dim", padding=(0, 2, 0, 0)
    )
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def escape(value: object) -> str:
    """A value as text that rich prints as it is."""
    return escape_markup(str(value))


def usd(amount: Decimal | None) -> str:
    """An amount for people; `?` when the price is not known."""
    return "?" if amount is None else f"${amount:.2f}"


def display_path(uri: str) -> str:
    """A URI for people: a path relative to here where it lies below."""
    if not uri.startswith("file://"):
        return uri
    path = Path(unquote(urlsplit(uri).path))
    try:
        return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    except OSError:
        return str(path)


def relative_time(moment: datetime) -> str:
    """How long ago something was, such as `5 min`."""
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for unit, span in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= span:
            return f"{seconds / span:.0f} {unit}"
    return f"{seconds:.0f} s"
