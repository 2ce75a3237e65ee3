"""A fatal signal leaves a traceback, wherever our code runs."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

COMMAND = str(Path(sys.executable).with_name("prefect-video"))
IN_A_WORKER = """
import asyncio
from prefect_video.tasks import SessionRef, use_session

async def run():
    async with use_session(SessionRef.from_names("emulator", "videos", "ledger.db")):
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(run())
"""


def crash(command: Sequence[str], number: signal.Signals, folder: Path) -> tuple[int, str]:
    """Start a process, end it by a signal once it has said something, and return its status and its last words."""
    left_out = ("PYTHONFAULTHANDLER", "PREFECT_API_URL", "SORA_API_KEY")
    environ = {name: value for name, value in os.environ.items() if name not in left_out}
    environ |= {"PREFECT_HOME": str(folder), "PREFECT_VIDEO_LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}"}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=leave_no_core,
    ) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            pytest.fail(process.communicate()[1])
        process.send_signal(number)
        err = process.communicate(timeout=500)[1]
    return process.returncode, err


def leave_no_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ([COMMAND, "serve", "--port", "0", "--account", "emulator"], signal.SIGSEGV),
        ([COMMAND, "emulator", "--port", "0"], signal.SIGABRT),
        ([sys.executable, "-m", "prefect_video.emulator", "--port", "0"], signal.SIGABRT),
        ([sys.executable, "-c", IN_A_WORKER], signal.SIGSEGV),
    ],
    ids=["serve", "emulator", "emulator module", "worker"],
)
def test_a_crash_shows_where_every_thread_stood(command: list[str], number: signal.Signals, tmp_path: Path) -> None:
    status, err = crash(command, number, tmp_path)
    assert status == -number
    assert "Fatal Python error" in err
    assert "most recent call first" in err
    # Within a statement of SQLAlchemy, which `serve` may be in, Python shows only the frames of its greenlet.
    assert "asyncio/runners.py" in err or (command[1] == "serve" and "sqlalchemy/engine/" in err), err
    assert re.search(r'^Current thread .*\(most recent call first\):\n  File "', err, re.MULTILINE), err


def test_a_trace_that_goes_elsewhere_still_goes_there(tmp_path: Path) -> None:
    code = (
        "import faulthandler, os; faulthandler.enable(open('trace', 'w'));"
        " from prefect_video._crash_trace import enable_crash_trace; enable_crash_trace();"
        " print('ready', flush=True); os.read(0, 1)"
    )
    status, err = crash([sys.executable, "-c", code], signal.SIGABRT, tmp_path)
    assert (status, err) == (-signal.SIGABRT, "")
    assert "Fatal Python error: Aborted" in (tmp_path / "trace").read_text()


@pytest.mark.parametrize("close", ["sys.__stderr__ = None", "sys.__stderr__.close()", "import os; os.close(2)"])
def test_a_process_without_an_error_stream_goes_on(close: str) -> None:
    code = f"import sys; {close}; from prefect_video._crash_trace import enable_crash_trace; enable_crash_trace()"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=500).returncode == 0
