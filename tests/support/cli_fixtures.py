"""A home of one's own, the command in this process, and the command as users start it."""

from __future__ import annotations

import json
import logging
import os
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


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as the one JSON object that it must be."""
        return json.loads(self.out)


class InProcess:
    """Runs commands in this process, for everything that needs no Prefect."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Answer:
        self._capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        return Answer(status, captured.out, captured.err)


@pytest.fixture(scope="session")
def quick_emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorSettings(port=0, speed=500.0, render="plate")) as running:
        yield running


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick_emulator: Emulator) -> None:
    """An empty home, an empty folder to work in, and an emulator whose books we hold."""
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
    """The command in this process; what it does to logging is undone."""
    ours = logging.getLogger("prefect_video")
    before = ours.handlers[:], ours.propagate
    yield InProcess(capsys)
    ours.handlers, ours.propagate = before


@pytest.fixture
def film(environment: None) -> Path:
    path = Path("film.yaml")
    path.write_text(FILM)
    return path


class Shell:
    """Runs the installed command in a home that is empty at first and then kept, as a user's is."""

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
        done = subprocess.run(
            [str(COMMAND), *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        """Starts the command in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            [str(COMMAND), *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_heed_interrupts,
        )


def _heed_interrupts() -> None:
    """A suite that runs in the background of a script hands down that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Of a user who has no Prefect server: each command that needs one starts Prefect's embedded one."""
    return Shell(tmp_path_factory.mktemp("shell"))


@pytest.fixture(scope="session")
def connected(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Shell:
    """Of a user who has a Prefect server: several times cheaper, where the embedded one is not what is tested."""
    return Shell(tmp_path_factory.mktemp("connected"), PREFECT_API_URL=prefect_api)
