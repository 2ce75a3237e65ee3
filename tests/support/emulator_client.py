"""Minimal HTTP client of the emulator, independent of the providers under test."""

from __future__ import annotations

import time
from typing import Any

import httpx

from prefect_video._tls import trusted_certificates
from prefect_video.emulator import Emulator


class Client:
    """Client of the Sora dialect that returns every response unchanged."""

    def __init__(self, endpoint: str, key: str = "sk-emulator", timeout_seconds: float = 20.0) -> None:
        self.http = httpx.Client(
            base_url=endpoint,
            headers={"Authorization": f"Bearer {key}"},
            timeout=timeout_seconds,
            trust_env=False,
            verify=trusted_certificates(),
        )

    @classmethod
    def connect(cls, emulator: Emulator) -> Client:
        """Return a client with the first key of a running emulator."""
        return cls(emulator.endpoint, emulator.key)

    def submit(self, prompt: str = "A quiet harbour", **fields: Any) -> httpx.Response:
        """Submit a prompt for one second at 480p, unless the fields say otherwise."""
        body = {"model": "sora-2", "prompt": prompt, "duration": 1, "resolution": "480p", **fields}
        return self.http.post("/generations", json=body)

    def submit_accepted(self, prompt: str = "A quiet harbour", **fields: Any) -> str:
        """Submit a prompt that must be accepted, and return its generation id."""
        response = self.submit(prompt, **fields)
        assert response.status_code == 202, response.text
        generation_id: str = response.json()["id"]
        return generation_id

    def retrieve(self, generation_id: str) -> httpx.Response:
        """Retrieve a generation."""
        return self.http.get(f"/generations/{generation_id}")

    def list(self, **query: Any) -> httpx.Response:
        """List generations."""
        return self.http.get("/generations", params=query)

    def cancel(self, generation_id: str) -> httpx.Response:
        """Cancel a generation."""
        return self.http.post(f"/generations/{generation_id}/cancel")

    def generate(self, emulator: Emulator, prompt: str = "A quiet harbour", **fields: Any) -> dict[str, Any]:
        """Submit a prompt, wait until it has completed, and return the generation."""
        generation_id = self.submit_accepted(prompt, **fields)
        emulator.wait_until_idle()
        generation: dict[str, Any] = self.retrieve(generation_id).json()
        assert generation["status"] == "completed"
        return generation

    def poll_until_finished(self, generation_id: str, timeout_seconds: float = 30.0) -> dict[str, Any]:
        """Poll until a generation has ended, for an emulator in another process, which offers no event to await."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            generation: dict[str, Any] = self.retrieve(generation_id).json()
            if generation["status"] in ("completed", "failed", "cancelled"):
                return generation
            time.sleep(0.02)
        raise TimeoutError(f"{generation_id} is not finished after {timeout_seconds} s")


def download(url: str, **headers: str) -> httpx.Response:
    """Download a link without an API key."""
    return httpx.get(url, headers=headers, trust_env=False, verify=trusted_certificates())


def read_error(response: httpx.Response) -> dict[str, Any]:
    """Return the error in a response's body."""
    error: dict[str, Any] = response.json()["error"]
    return error
