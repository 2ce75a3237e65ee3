"""Emulator in a process of its own, which the scripts configure, kill and restart."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.torture_worker import Address

ROOT: Final = Path(__file__).parents[1]


class EmulatorProcess:
    """Running emulator; with a `--db` it keeps its state when it is killed and restarted at the same address.

    Args:
        options: Options of `python -m prefect_video.emulator`, without ports.

    Attributes:
        endpoint: Base URL of the Sora dialect.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        ready = self._start("--port", "0")
        self.endpoint: str = ready["endpoint"]
        ports = [str(httpx.URL(ready[name]).port) for name in ("endpoint", "cdn")]
        self._ports = ("--port", ports[0], "--cdn-port", ports[1])
        self._client = httpx.Client(base_url=Address(self.endpoint).url, timeout=30)

    def usage(self) -> dict[str, Any]:
        """Return the provider's own account: what was submitted, accepted and billed."""
        usage: dict[str, Any] = self._client.get("/_emulator/usage").raise_for_status().json()
        return usage

    def set_faults(self, faults: Sequence[Mapping[str, Any]]) -> None:
        """Replace the faults in force."""
        self._client.delete("/_emulator/faults").raise_for_status()
        self._client.post("/_emulator/faults", json=list(faults)).raise_for_status()

    def inject_faults(self, faults: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Keep faults in force for some seconds."""
        self.set_faults(faults)
        time.sleep(seconds)
        self._client.delete("/_emulator/faults").raise_for_status()

    def set_speed(self, speed: float) -> None:
        """Change the speed of generations, those in progress included."""
        self._client.put("/_emulator/speed", json=speed).raise_for_status()

    def wait_until_idle(self) -> None:
        """Wait until no generation is in progress."""
        while self.usage()["now_concurrency"]:
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the process without warning."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def restart(self) -> None:
        """Start a killed emulator again, at the same address."""
        self._start(*self._ports)

    def close(self) -> None:
        """End the process."""
        self._client.close()
        self.kill()

    def _start(self, *ports: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "prefect_video.emulator", *ports, *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout is not None
        ready: dict[str, Any] = json.loads(self._process.stdout.readline())
        return ready
