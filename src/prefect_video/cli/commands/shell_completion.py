"""`--install-completion`, `--show-completion`: the shell completes commands and options."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.completion import ShellDetectionError, detect_shell

from prefect_video.cli.output import DONE, display_path, print_status
from prefect_video.errors import InvalidInput

Shell = Literal["bash", "fish", "zsh"]
ShellOption = Annotated[Shell | None, Parameter(help="The shell; by default the one that runs this command.")]


def install_completion(*, shell: ShellOption = None) -> int:
    """Let the shell complete commands and options; it takes effect in the next shell."""
    from prefect_video.cli.app import build_app

    path = build_app().install_completion(shell=shell or _detect_shell())
    print_status(f"wrote {display_path(str(path))}; start a new shell")
    return DONE


def show_completion(*, shell: ShellOption = None) -> int:
    """Print the script by which the shell completes commands and options."""
    from prefect_video.cli.app import build_app

    print(build_app().generate_completion(shell=shell or _detect_shell()))
    return DONE


def _detect_shell() -> Shell:
    try:
        shell = detect_shell()
    except ShellDetectionError as error:
        raise InvalidInput("the shell cannot be told from here: add --shell bash, zsh or fish") from error
    if shell not in ("bash", "fish", "zsh"):
        raise InvalidInput(f"there is no completion for {shell}: add --shell bash, zsh or fish")
    return shell
