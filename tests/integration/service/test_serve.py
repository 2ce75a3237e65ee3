"""`prefect-video serve` as its users start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from prefect_video.emulator import Emulator
from tests.support.cli_fixtures import InProcess, call

__all__ = ["call"]

COMMAND = [str(Path(sys.executable).parent / "prefect-video"), "serve", "--port", "0"]


def test_it_serves_until_it_is_interrupted(environment: Path, provider: Emulator) -> None:
    variables = {**os.environ, "PREFECT_VIDEO_SERVICE_API_TOKEN": "a-token-of-the-tests", "NO_COLOR": "1"}
    variables.pop("PREFECT_API_URL", None)
    variables["PREFECT_HOME"] = str(environment / "prefect")
    with subprocess.Popen(COMMAND, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(4)]
            assert "Serving on http://127.0.0.1:" in lines[0], [*lines, process.stderr.read() if process.stderr else ""]
            address = lines[0].split("Serving on ")[1].split(". ")[0]
            assert f"POST {address}/webhooks/sora" in lines[1]
            assert httpx.get(f"{address}/healthz").json() == {"status": "ok"}
            assert httpx.post(f"{address}/webhooks/sora", content=b"{}").status_code == 401
            assert b"prefect_video_webhooks_received_total" in httpx.get(f"{address}/metrics").content
        finally:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=500)
        assert process.returncode == 0, "for a service, to be ended is the normal end"
        assert "Traceback" not in err, err
        assert "a-token" not in out + err + "".join(lines)


@pytest.mark.parametrize(
    ("variables", "options", "named"),
    [
        ({"PREFECT_VIDEO_SERVICE_API_TOKEN": "short"}, (), "PREFECT_VIDEO_SERVICE_API_TOKEN"),
        ({"PREFECT_VIDEO_SERVICE_API_TOKEN": "long-enough-a-token"}, ("--account", "unknown"), "unknown"),
        ({"SORA_WEBHOOK_SECRET": "whsec_"}, (), "SORA_WEBHOOK_SECRET: "),
        ({}, ("--host", "0.0.0.0"), "PREFECT_VIDEO_SERVICE_HOSTS"),
    ],
    ids=["token", "account", "secret", "host"],
)
def test_a_setting_that_cannot_be_used_is_named_in_one_line(
    environment: Path,
    provider: Emulator,
    call: InProcess,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    options: tuple[str, ...],
    named: str,
) -> None:
    monkeypatch.delenv("PREFECT_VIDEO_SERVICE_API_TOKEN", raising=False)
    monkeypatch.delenv("PREFECT_VIDEO_WEBHOOK_URL", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    answer = call("serve", "--port", "0", *options)
    assert answer.status == 2, answer.err
    assert named in answer.err
    assert "Traceback" not in answer.err
