"""Prefect's embedded server on a machine that is busy, or where several runs begin at once."""

from __future__ import annotations

from pathlib import Path

from tests.support.cli_fixtures import Shell

BUSY = """\
import asyncio, os, pathlib, sys

if "uvicorn" in sys.orig_argv:
    started = pathlib.Path(os.environ["STARTED"])
    if not started.exists():
        # As a server does that finds its database locked.
        started.touch()
        os._exit(3)
    import prefect.server.api.server as server

    create_app, slow = server.create_app, [True]

    def create_slow_app(*arguments, **options):
        app = create_app(*arguments, **options)

        async def answer(scope, receive, send):
            if scope["type"] == "http" and slow:
                slow.pop()
                await asyncio.sleep(6)
            await app(scope, receive, send)

        return answer

    server.create_app = create_slow_app
"""
"""A server whose first start fails, and whose first answer takes longer than the 5 s that Prefect allows."""


def test_a_server_that_fails_once_and_answers_late_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BUSY)
    shell = Shell(tmp_path)
    answer = shell("doctor", PYTHONPATH=str(tmp_path / "site"), STARTED=str(tmp_path / "started"))
    assert answer.status == 0, answer.out + answer.err
    assert "prefect API: embedded server" in answer.out
    assert (tmp_path / "started").exists()
    assert "Traceback" not in answer.err


def test_a_server_that_cannot_start_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, sys\nif 'uvicorn' in sys.orig_argv:\n    os._exit(1)\n"
    )
    answer = Shell(tmp_path)("doctor", PYTHONPATH=str(tmp_path / "site"))
    assert answer.status == 1
    assert "Prefect's embedded server did not start (it has ended with status 1)" in answer.out
