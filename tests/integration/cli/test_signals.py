"""SIGTERM, as a service manager sends it, and Ctrl-C: they end a command gracefully at any moment."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefect_video.cli.check_result import Check
from prefect_video.cli.commands import doctor as doctor_command
from prefect_video.cli.commands import run as run_command
from prefect_video.ledger import Ledger
from tests.support.cli_fixtures import InProcess, Shell


async def terminate_a_task(*args: Any) -> None:
    """Send SIGTERM while a task runs that nothing awaits: an event loop keeps most exceptions of such a task."""

    async def background() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)

    task = asyncio.create_task(background())
    await asyncio.Event().wait()
    await task


def test_sigterm_before_the_flow_is_reported_as_json(
    call: InProcess, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_command, "_prepare", terminate_a_task)
    answer = call("run", film, "--json")
    assert answer.status == 143
    assert answer.json["project"] == "film"
    assert "prefect-video collect" in answer.json["error"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Let this process heed SIGINT: one that a script has started in the background inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize(
    "command", ["collect", "doctor", "jobs", "ledger check", "ledger upgrade", "spend", "verify videos"]
)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_every_command_ends_with_the_status_of_its_signal_and_one_json_object(
    call: InProcess, monkeypatch: pytest.MonkeyPatch, command: str, number: signal.Signals, status: int
) -> None:
    async def interrupt(*args: Any, **options: Any) -> None:
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    monkeypatch.setattr(doctor_command, "_check_prefect_api", lambda: Check(name="prefect API", ok=True, detail=""))
    monkeypatch.setattr(Ledger, "open", interrupt)
    answer = call(*command.split(), "--json")
    assert answer.status == status
    assert answer.json["error"].startswith("interrupted")


def test_a_second_sigterm_by_prefect_is_handled(call: InProcess, film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        from prefect.utilities.engine import capture_sigterm

        with capture_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run_command, "ensure_api", connect)
    assert call("run", film, "--json").status == 143


@pytest.mark.parametrize(
    ("command", "ready"),
    [("emulator --port 0", "The emulator is running"), ("mcp --http --port 0 --account emulator", "Serving tools on")],
)
def test_ctrl_c_is_the_normal_end_of_what_serves(shell: Shell, command: str, ready: str) -> None:
    environment = {"PREFECT_VIDEO_SERVICE_API_TOKEN": "a-token-of-the-tests", "NO_COLOR": "1"}
    with shell.start(*command.split(), **environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # One announces itself on stdout, the other on stderr; either is empty only after the end.
        announced = process.stdout if command.startswith("emulator") else process.stderr
        seen = [announced.readline()]
        while ready not in seen[-1] and seen[-1]:
            seen.append(announced.readline())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=500)
    assert ready in seen[-1], [*seen, out, err]
    assert process.returncode == 0, [*seen, out, err]
    assert "Traceback" not in err
