"""The `prefect-video` application: its command tree, and the exit status that each error stands for."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType
from typing import Final, NoReturn

from cyclopts import App, CycloptsError, Group

from prefect_video import __version__
from prefect_video._clean_text import clean_text, enable_clean_logs
from prefect_video._crash_trace import enable_crash_trace
from prefect_video._proxies import exempt_loopback
from prefect_video.cli.options import command_ledger
from prefect_video.cli.output import (
    INTERRUPTED,
    INVALID,
    REPORT_COMMANDS,
    TERMINATED,
    Interrupted,
    error_object,
    interrupted_text,
    print_status,
    report_object,
    status_of,
)
from prefect_video.cli.prefect_startup import PrefectUnavailable, configure_logging
from prefect_video.errors import InvalidInput, VideoError
from prefect_video.ledger import command_line

_HELP = """Prompts in, stored videos out: every generation is paid once, checked and kept.

Start with `prefect-video demo`. For your own shots, write a project file, check it with `prefect-video plan film.yaml`
(free) and make it with `prefect-video run film.yaml`. Without SORA_API_KEY an embedded emulator makes the videos, at
no cost.

Exit status: 0 success, 1 something failed, 2 bad input, 3 over budget.
"""

_COMMANDS: Final = {
    "Make": {
        "demo": ("demo:demo", "Make a three-shot film and a page that shows it, in half a minute."),
        "plan": ("plan:plan", "Show what a run would make and cost. Free."),
        "run": ("run:run", "Make every shot of a project."),
        "shot": ("shot:shot", "Make one video from a prompt."),
        "approve": ("approve:approve", "Choose takes, drop a shot, or have it made with another prompt."),
        "adopt": ("adopt_clip:adopt", "Take a clip made by hand as a shot's video. Free."),
        "cut": ("cut:cut", "Make the film of a project from its stored shots. Free."),
    },
    "Look up": {
        "jobs": ("jobs:jobs", "List generations: requested, paid, stored or failed."),
        "spend": ("spend:spend", "Add up what was spent and is reserved."),
        "gallery": ("gallery:gallery", "Make the page of a project, or of a whole store."),
        "export": ("export:export", "Write a project's shots as a table."),
        "review": ("review:review", "List refused prompts; allow one."),
        "optimize": ("optimize:optimize", "Recommend a length to request."),
    },
    "Recover": {
        "collect": ("collect:collect", "Finish what crashed or deferred runs left behind."),
        "cancel": ("cancel:cancel", "Cancel what is in progress."),
        "verify": ("verify:verify", "Compare every stored video with the store; repair it."),
        "resolve": ("resolve:resolve", "Decide about a job that is held."),
    },
    "Set up": {
        "init": ("init:init", "Write a folder to deploy from."),
        "setup": ("setup:setup", "Make in Prefect what that folder's prefect.yaml needs."),
        "doctor": ("doctor:doctor", "Check everything that a run needs."),
        "serve": ("serve:serve", "Receive webhooks, and serve the job API."),
        "mcp": ("mcp:mcp", "Offer the job API to agents, as MCP tools."),
        "emulator": ("emulator:emulator", "Serve a provider that costs nothing."),
        "schema": ("schema:schema", "Print the JSON Schema of project files or manifests."),
    },
}

_COMPLETION: Final = {
    "install": "Let the shell complete commands and options.",
    "show": "Print the script by which it does.",
}

_EXPERIMENTS: Final = {
    "response-time": "How long generations take by the length of their videos.",
    "rate-limit": "How many generations may be unfinished at once.",
    "webhooks": "How many webhooks arrive, how late, and how often twice.",
}


def build_app(*, summaries: bool = True) -> App:
    """Build the command tree; a command's module is imported only when the command is called.

    Args:
        summaries: Give each command its line of the overview instead of its own help text.
    """
    # The library would end the process by itself: 130 for SIGTERM too, and without the object that `--json` promises.
    app = App(
        name="prefect-video",
        help=_HELP,
        version=__version__,
        help_format="markdown",
        suppress_keyboard_interrupt=False,
    )
    for title, commands in _COMMANDS.items():
        group = Group.create_ordered(title)
        for name, (target, summary) in commands.items():
            app.command(
                f"prefect_video.cli.commands.{target}", name=name, group=group, help=summary if summaries else None
            )
    _add_command_groups(app, group, summaries=summaries)
    options = Group.create_ordered("Options")
    for verb, summary in _COMPLETION.items():
        app.command(
            f"prefect_video.cli.commands.shell_completion:{verb}_completion",
            name=f"--{verb}-completion",
            group=options,
            help=summary,
        )
    app["--help"].group = app["--version"].group = options
    return app


def _add_command_groups(app: App, group: Group, *, summaries: bool) -> None:
    """Add the commands that have commands of their own."""
    ledger = App(name="ledger", help="Look after the ledger's database.", group=group)
    ledger.command("prefect_video.cli.commands.ledger:upgrade", name="upgrade", help="Create or upgrade its tables.")
    ledger.command("prefect_video.cli.commands.ledger:check", name="check", help="Prove that it can be used.")
    ledger.command(
        "prefect_video.cli.commands.ledger:recover", name="recover", help="Add what a backup lacks. Pays nothing."
    )
    ledger.command("prefect_video.cli.commands.ledger:prune", name="prune", help="Remove old rows that nothing needs.")
    ledger.command("prefect_video.cli.commands.ledger_copies:export", name="export", help="Write all jobs as a table.")
    ledger.command("prefect_video.cli.commands.ledger_copies:backup", name="backup", help="Copy it while it is in use.")
    app.command(ledger)
    account = App(name="account", help="Rename an account in the ledger.", group=group)
    account.command("prefect_video.cli.commands.account:rename", name="rename", help="Move it to its other name.")
    account.command("prefect_video.cli.commands.account:share", name="share", help="Let two names share its keys.")
    app.command(account)
    experiment = App(name="experiment", help="Measure a provider's account. Buys videos.", group=group)
    for name, summary in _EXPERIMENTS.items():
        target = f"prefect_video.cli.commands.experiment:{name.replace('-', '_')}"
        experiment.command(target, name=name, help=summary if summaries else None)
    app.command(experiment)
    tokens = App(name="tokens", help="Make tokens for the job API of `serve`.", group=group)
    tokens.command("prefect_video.cli.commands.tokens:create", name="create", help="Make a token; shown once.")
    app.command(tokens)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: The arguments without the program's name; by default those of this process.

    Returns:
        The exit status: 0 success, 1 something failed, 2 bad input, 3 over budget, 130 interrupted.
    """
    enable_crash_trace()
    enable_clean_logs()
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    configure_logging()
    exempt_loopback()
    try:
        with _terminate_gracefully():
            status = build_app(summaries=not _names_command(tokens))(
                tokens, exit_on_error=False, print_error=False, result_action="return_value"
            )
    except CycloptsError as error:
        command = f"{tokens[0]} " if tokens and not tokens[0].startswith("-") else ""
        text = str(error) or type(error).__name__
        return _fail(tokens, f"{text.strip()}\nSee: prefect-video {command}--help", INVALID)
    except (VideoError, PrefectUnavailable) as error:
        return _fail(tokens, str(error), status_of(error))
    except Interrupted as interruption:
        return _fail(tokens, interrupted_text(_find_ledger(tokens)), interruption.status)
    except KeyboardInterrupt:
        return _fail(tokens, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader of stdout (`| head`) has exited. Python flushes stdout at exit and would report the error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 -- the last handler of the process; shown whole
        print(clean_text(traceback.format_exc(), lines=True), file=sys.stderr)
        return _fail(
            tokens,
            f"unexpected {type(error).__name__}: {error}. This is a defect of prefect-video: please report it with the"
            " lines above, the command and the output of `prefect-video doctor --json`. What was submitted is in the"
            f" ledger: `{command_line('jobs', ledger=_find_ledger(tokens))}`.",
            1,
        )
    return status if isinstance(status, int) else 0


@contextmanager
def _terminate_gracefully() -> Iterator[None]:
    """Raise `Interrupted` on SIGTERM for as long as the context lasts; a handler that is already set stays."""
    # Python allows signal handlers in the main thread only; `main` may be called from any.
    is_main_thread = threading.current_thread() is threading.main_thread()
    if not is_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(TERMINATED)

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _names_command(tokens: Sequence[str]) -> bool:
    """Check if the arguments begin with a command; then its own help is shown, not the overview."""
    return bool(tokens) and any(tokens[0] in commands for commands in _COMMANDS.values())


def _find_ledger(tokens: Sequence[str]) -> str | None:
    """Return the `--ledger` of a command line, which the next command needs too; None for none."""
    options = [token.removeprefix("--ledger=") for token in tokens if token.startswith("--ledger=")]
    options += [value for name, value in pairwise(tokens) if name == "--ledger"]
    try:
        return command_ledger(options[0]) if options else None
    except InvalidInput:
        # Another error is being reported already; this one would hide it.
        return None


def _fail(tokens: Sequence[str], text: str, status: int) -> int:
    """Print an error as the command's output format demands, and return the exit status."""
    # The options may be what could not be parsed, so `--json` is read from the raw arguments.
    if "--json" in tokens:
        as_report = bool(tokens) and tokens[0] in REPORT_COMMANDS
        print(json.dumps(report_object(None, text) if as_report else error_object(text)))
    print_status(text, error=True)
    return status
