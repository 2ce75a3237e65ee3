"""What a shell completes, and what is said of a command that there is none of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli_fixtures import InProcess, call

__all__ = ["call"]


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


def test_a_shell_that_is_not_recognised_is_named_by_an_option(call: InProcess) -> None:
    answer = call("--show-completion", "--shell", "tcsh")
    assert answer.status == 2
    assert "bash" in answer.err


def test_an_unknown_command_names_the_nearest_one(call: InProcess) -> None:
    answer = call("plann", "film.yaml")
    assert answer.status == 2
    assert 'Did you mean "plan"?' in answer.err
