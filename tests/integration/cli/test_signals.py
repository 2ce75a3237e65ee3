"""SIGTERM, as a service manager sends it: it ends a command gracefully at any moment."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from prefect_video.cli.commands import run as run_command
from tests.support.cli_fixtures import InProcess


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


def test_a_second_sigterm_by_prefect_is_handled(call: InProcess, film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        from prefect.utilities.engine import capture_sigterm

        with capture_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run_command, "ensure_api", connect)
    assert call("run", film, "--json").status == 143
