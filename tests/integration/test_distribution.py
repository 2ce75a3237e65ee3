"""The death of a process of the suite ends the run with its name; so does a run that goes on for too long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.time_limit import TIMED_OUT

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 300
PASSES = "def test_passes(): pass\n"
KILLS = """
import os, signal

def test_passes(): pass
def test_kills(): os.kill(os.getpid(), signal.SIGKILL)
def test_comes_after(): pass
"""
KILLED_WHILE_COLLECTING = """
import os, signal

# Not as collection finishes: by then the process may have been given a test, which would be reported as the crashed one.
def pytest_collection_modifyitems():
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def run_small_suite(folder: Path, **files: str) -> subprocess.CompletedProcess[str]:
    """Run test files in two processes, spread as the suite itself is."""
    for name, content in files.items():
        (folder / f"{name}.py").write_text(content)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "xdist",
        "-p",
        "tests.support.distribution",
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.run(
        [*command, "-q", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_a_suite_whose_processes_live_passes(tmp_path: Path) -> None:
    ended = run_small_suite(tmp_path, test_a=PASSES, test_b=PASSES, test_c=PASSES)
    assert ended.returncode == 0, ended.stdout
    assert "3 passed" in ended.stdout


def test_a_test_that_kills_its_process_fails_the_run_by_name(tmp_path: Path) -> None:
    # Each process has a finished file behind it when the last file kills the one that it falls to.
    ended = run_small_suite(tmp_path, test_a=PASSES, test_b=PASSES, test_c=PASSES, test_d=PASSES, test_e=KILLS)
    assert ended.returncode == 1, ended.stdout
    assert "crashed while running 'test_e.py::test_kills'" in ended.stdout
    assert "FAILED test_e.py::test_kills" in ended.stdout
    assert "1 failed" in ended.stdout
    assert "replacing crashed worker" not in ended.stdout


def test_a_process_that_dies_outside_of_tests_fails_the_run_by_its_name(tmp_path: Path) -> None:
    ended = run_small_suite(tmp_path, test_a=PASSES, conftest=KILLED_WHILE_COLLECTING)
    assert ended.returncode == 1, ended.stdout
    assert "died while it was running no test" in ended.stdout + ended.stderr


@pytest.mark.parametrize("status", [0, 3])
def test_what_ends_in_time_keeps_its_exit_status(status: int) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.support.time_limit",
        "60",
        sys.executable,
        "-c",
        f"raise SystemExit({status})",
    ]
    assert subprocess.run(command, cwd=ROOT, timeout=PATIENCE_SECONDS, check=False).returncode == status


def test_what_takes_too_long_is_ended_and_shows_where_it_stood() -> None:
    hang = "def hang():\n    while True: pass\nhang()"
    command = [sys.executable, "-m", "tests.support.time_limit", "2", sys.executable, "-X", "faulthandler", "-c", hang]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert ended.returncode == TIMED_OUT
    assert "not done after 2 s" in ended.stderr
    assert "in hang" in ended.stderr


def test_a_command_that_is_killed_says_by_which_signal() -> None:
    kill = f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"
    command = [sys.executable, "-m", "tests.support.time_limit", "60", sys.executable, "-c", kill]
    assert subprocess.run(command, cwd=ROOT, timeout=PATIENCE_SECONDS, check=False).returncode == 128 + signal.SIGKILL


def test_a_terminated_limit_terminates_its_command() -> None:
    wait = "import time; print('ready', flush=True); time.sleep(60)"
    command = [sys.executable, "-m", "tests.support.time_limit", "60", sys.executable, "-c", wait]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as limited:
        assert limited.stdout is not None
        assert limited.stdout.readline() == "ready\n"
        limited.terminate()
        # The pipe ends when the command has ended too.
        assert limited.communicate(timeout=PATIENCE_SECONDS)[0] == ""
    assert limited.returncode == 128 + signal.SIGTERM
