"""Fixtures with an emulated provider: in this process, or in a process of its own that can be killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from prefect_video._tls import trusted_certificates
from prefect_video.emulator import Emulator, EmulatorSettings

KEY = "sk-emulator"


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Run a provider in this process, 200 times faster than real time, on free ports."""
    with Emulator(EmulatorSettings(port=0, speed=200)) as running:
        yield running


@dataclass(frozen=True)
class EmulatorProcess:
    """Emulated provider in a process of its own."""

    process: subprocess.Popen[str]
    endpoint: str
    cdn: str
    key: str = KEY

    @property
    def url(self) -> str:
        """Return the root of the API server."""
        return self.endpoint.removesuffix("/v1/sora")

    @property
    def port(self) -> int:
        """Return the port of the API server."""
        port = httpx.URL(self.endpoint).port
        assert port is not None
        return port

    def usage(self) -> dict[str, Any]:
        """Return the provider's usage counters."""
        usage: dict[str, Any] = self._request("GET", "usage").json()
        return usage

    def add_fault(self, **rule: Any) -> None:
        """Add a fault rule."""
        self._request("POST", "faults", json=rule)

    def kill(self) -> None:
        """Send SIGKILL, and wait until the process has ended."""
        self.process.kill()
        self.process.wait()

    def _request(self, method: str, name: str, **options: Any) -> httpx.Response:
        url = f"{self.url}/_emulator/{name}"
        return httpx.request(method, url, verify=trusted_certificates(), **options).raise_for_status()


EmulatorFactory = Callable[..., EmulatorProcess]


@pytest.fixture
def emulator_process() -> Iterator[EmulatorFactory]:
    """Return a factory: `emulator_process("--db", path, "--speed", "200")`; its processes are killed at the end."""
    started: list[EmulatorProcess] = []

    def start(*options: object, port: int = 0) -> EmulatorProcess:
        command = [sys.executable, "-m", "prefect_video.emulator", "--port", str(port), *map(str, options)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the emulator did not start; it ended with {process.wait()}")
        ready = json.loads(line)
        started.append(EmulatorProcess(process, ready["endpoint"], ready["cdn"]))
        return started[-1]

    yield start
    for running in started:
        running.kill()
        if running.process.stdout is not None:
            running.process.stdout.close()
