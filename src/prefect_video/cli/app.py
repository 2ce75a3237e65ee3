"""The application: its commands, and what an error means for the exit status."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

from cyclopts import App, CycloptsError, Group

from prefect_video import __version__
from prefect_video._crash_trace import enable_crash_trace
from prefect_video.cli.output import (
    INTERRUPTED,
    INVALID,
    REPORT_COMMANDS,
    TERMINATED,
    Interrupted,
    error_object,
    print_status,
    report_object,
    status_of,
)
from prefect_video.cli.prefect_startup import PrefectUnavailable, configure_logging
from prefect_video.errors import VideoError

_HELP = """Prompts in, stored videos out: every generation is paid once, checked and kept.

Start with `prefect-video demo`. For your own shots, write a project file, look at `prefect-video plan film.yaml`
(free) and make it with `prefect-video run film.yaml`. Without SORA_API_KEY an embedded emulator makes the videos, at
no cost.

Exit status: 0 all is well, 1 something failed, 2 bad input, 3 over budget.
"""

_COMMANDS: Final = {
    "Make": {
        "demo": ("demo:demo", "A three-shot project and a page to look at, in half a minute."),
        "plan": ("planning:plan", "What a run would make and cost. Free."),
        "run": ("making:run", "Make every shot of a project."),
        "shot": ("making:shot", "Make one video from a prompt."),
    },
    "UsageCounters": {
        "jobs": ("books:jobs", "Every generation: asked, paid, stored or failed."),
        "spend": ("books:spend", "What was spent and is reserved."),
        "review": ("reviewing:review", "Refused prompts; allow one."),
        "optimize": ("advising:optimize", "Which length to ask for."),
    },
    "Recover": {
        "collect": ("recovering:collect", "Finish what crashed or deferred runs left behind."),
        "cancel": ("recovering:cancel", "Give up what is under way."),
        "verify": ("verify:verify", "Every stored video against the store; repair it."),
        "resolve": ("resolving:resolve", "Decide about a job that waits for a human."),
    },
    "Set up": {
        "doctor": ("diagnosing:doctor", "Check everything that a run needs."),
        "serve": ("serving:serve", "Receive webhooks, and serve the job API."),
        "emulator": ("emulating:emulator", "Serve a provider that costs nothing."),
        "schema": ("describing:schema", "The JSON Schema of project files."),
    },
}


def build_app(*, summaries: bool = True) -> App:
    """The command tree; a command's module is imported only when the command is asked for.

    Args:
        summaries: Give each command its line in the overview, in place of the help of its own.
    """
    app = App(name="prefect-video", help=_HELP, version=__version__, help_format="markdown")
    for title, commands in _COMMANDS.items():
        group = Group.create_ordered(title)
        for name, (place, summary) in commands.items():
            app.command(f"prefect_video.cli.{place}", name=name, group=group, help=summary if summaries else None)
    ledger = App(name="ledger", help="Create, upgrade, check and recover the ledger's database.", group=group)
    ledger.command("prefect_video.cli.commands.ledger:upgrade", name="upgrade", help="Create or upgrade its tables.")
    ledger.command("prefect_video.cli.commands.ledger:check", name="check", help="Prove that it can be used.")
    ledger.command(
        "prefect_video.cli.commands.ledger:recover", name="recover", help="Add what a backup lacks. Pays nothing."
    )
    app.command(ledger)
    app["--help"].group = app["--version"].group = Group.create_ordered("Options")
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
        arguments: Without the program's name; by default the process's own.

    Returns:
        The exit status: 0 all is well, 1 something failed, 2 bad input, 3 over budget, 130 interrupted.
    """
    enable_crash_trace()
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    configure_logging()
    try:
        with _terminate_gracefully():
            status = build_app(summaries=not _names_command(tokens))(
                tokens, exit_on_error=False, print_error=False, result_action="return_value"
            )
    except CycloptsError as error:
        asked = f"{tokens[0]} " if tokens and not tokens[0].startswith("-") else ""
        text = str(error) or type(error).__name__
        return _fail(tokens, f"{text.strip()}\nSee: prefect-video {asked}--help", INVALID)
    except (VideoError, PrefectUnavailable) as error:
        return _fail(tokens, str(error), status_of(error))
    except Interrupted as end:
        return _fail(tokens, str(end), end.status)
    except KeyboardInterrupt:
        return _fail(tokens, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 -- the last one to see it; shown whole
        traceback.print_exc()
        return _fail(
            tokens,
            f"unexpected {type(error).__name__}: {error}. This is a defect of prefect-video: please report it with the"
            " lines above, the command and `prefect-video doctor --json`. What was submitted is in the ledger: "
            "`prefect-video jobs`.",
            1,
        )
    return status if isinstance(status, int) else 0


@contextmanager
def _terminate_gracefully() -> Iterator[None]:
    """Ends a command in good order on SIGTERM, unless whoever runs it has said what that does."""
    in_charge = threading.current_thread() is threading.main_thread()
    if not in_charge or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(TERMINATED)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _names_command(tokens: Sequence[str]) -> bool:
    return bool(tokens) and any(tokens[0] in commands for commands in _COMMANDS.values())


def _fail(tokens: Sequence[str], text: str, status: int) -> int:
    if "--json" in tokens:
        as_report = bool(tokens) and tokens[0] in REPORT_COMMANDS
        print(json.dumps(report_object(None, text) if as_report else error_object(text)))
    print_status(text, error=True)
    return status
