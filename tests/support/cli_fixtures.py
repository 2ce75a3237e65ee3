"""Fixtures of the command line: an empty home, the command in this process, and the installed command."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prefect_video.cli import main
from prefect_video.emulator.settings import EmulatorSettings
from prefect_video.emulator.threaded import Emulator

COMMAND = Path(sys.executable).with_name("prefect-video")

FILM = """\
project: film
defaults: {duration: 2, resolution: 480p}
shots:
  - {id: opening, prompt: dawn over the sea}
  - {id: closing, prompt: dusk over the sea, duration: 1}
"""

TRACES = re.compile(r"Traceback|database is locked|\| (?:INFO|ERROR|WARNING) +\||HTTP Request|alembic")
"""Lines in the output of a command that are none of a user's business."""


@dataclass(frozen=True)
class Answer:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Parse stdout as the one JSON object that it must be."""
        return json.loads(self.out)


class InProcess:
    """A runner of commands in this process, for everything that needs no Prefect."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Answer:
        self._capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        return Answer(status, captured.out, captured.err)


@pytest.fixture(scope="session")
def quick_emulator() -> Iterator[Emulator]:
    """Run a fast emulator for the whole session."""
    with Emulator(EmulatorSettings(port=0, speed=500.0, render="plate")) as running:
        yield running


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick_emulator: Emulator) -> None:
    """Set up an empty home, an empty working folder, and an emulator whose usage the tests read."""
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "SORA_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home" / ".prefect"))
    monkeypatch.setenv("PREFECT_VIDEO_EMULATOR_ENDPOINT", quick_emulator.endpoint)
    monkeypatch.setenv("PREFECT_VIDEO_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setenv("PREFECT_VIDEO_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("PREFECT_VIDEO_SETTLE_SECONDS", "0")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def call(environment: None, capsys: pytest.CaptureFixture[str]) -> Iterator[InProcess]:
    """Return the command in this process; its changes to logging are undone."""
    package = logging.getLogger("prefect_video")
    before = package.handlers[:], package.propagate
    yield InProcess(capsys)
    package.handlers, package.propagate = before


@pytest.fixture
def film(environment: None) -> Path:
    """Write the project file of a film of two shots."""
    path = Path("film.yaml")
    path.write_text(FILM)
    return path


class Shell:
    """A runner of the installed command, in a home that is empty at first and then kept, as a user's is."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        (folder / "home").mkdir()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder),
            "LANG": "C.UTF-8",
            **environment,
        }

    def __call__(self, *arguments: str | Path, **environment: str) -> Answer:
        completed = subprocess.run(
            [str(COMMAND), *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        return Answer(completed.returncode, completed.stdout, completed.stderr)

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        """Start the command in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            [str(COMMAND), *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_restore_sigint,
        )


def _restore_sigint() -> None:
    """Restore the default handler: a test run in the background of a script inherits an ignored SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Return a shell without a Prefect server: each command that needs one starts Prefect's embedded one."""
    return Shell(tmp_path_factory.mktemp("shell"))


@pytest.fixture(scope="session")
def connected(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Shell:
    """Return a shell with a Prefect server: faster, where the embedded server is not under test."""
    return Shell(tmp_path_factory.mktemp("connected"), PREFECT_API_URL=prefect_api)
