"""What a shell completes, and what is said of a command that there is none of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli_fixtures import InProcess, Shell, call, shell

__all__ = ["call", "shell"]


def test_bash_completes_commands_and_options(call: InProcess, tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(call("--show-completion", "--shell", "bash").out)
    ask = f"""
        source {script}
        complete_words() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _prefect_video; echo "${{COMPREPLY[@]}}"; }}
        complete_words prefect-video pl
        complete_words prefect-video ledger ba
        complete_words prefect-video run --max
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    completed = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert completed.stdout.splitlines() == ["plan", "backup", "--max-in-flight"], completed.stderr


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_completion_is_installed_where_the_shell_looks_for_it(call: InProcess, tmp_path: Path, shell: str) -> None:
    answer = call("--install-completion", "--shell", shell)
    assert (answer.status, "start a new shell" in answer.err) == (0, True), answer.err
    written = [path.read_text() for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert any("max-in-flight" in text for text in written)


def test_the_shell_of_the_user_is_found_and_completes_by_what_was_written(shell: Shell) -> None:
    answer = shell("--install-completion", SHELL="/bin/bash")
    assert (answer.status, "start a new shell" in answer.err) == (0, True), answer.err
    home = shell.folder / "home"
    (script,) = [path for path in home.rglob("*") if path.is_file() and "_prefect_video" in path.read_text()]
    ask = f"""
        source {script}
        COMP_WORDS=(prefect-video pl); COMP_CWORD=1; _prefect_video; echo "${{COMPREPLY[@]}}"
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(home)}
    completed = subprocess.run(["bash", "--norc", "-c", ask], capture_output=True, text=True, env=environment)
    assert completed.stdout.split() == ["plan"], completed.stderr


def test_a_shell_that_is_not_recognised_is_named_by_an_option(call: InProcess) -> None:
    answer = call("--show-completion", "--shell", "tcsh")
    assert answer.status == 2
    assert "bash" in answer.err


def test_an_unknown_command_names_the_nearest_one(call: InProcess) -> None:
    answer = call("plann", "film.yaml")
    assert answer.status == 2
    assert 'Did you mean "plan"?' in answer.err
