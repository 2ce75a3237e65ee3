"""The least client that can talk to the emulator: what the tests here look through."""

from __future__ import annotations

import time
from typing import Any

import httpx

from prefect_video._tls import trusted_certificates
from prefect_video.emulator import Emulator


class Client:
    """Calls of the Sora dialect, answers untouched."""

    def __init__(self, endpoint: str, key: str = "sk-emulator", timeout_seconds: float = 20.0) -> None:
        self.http = httpx.Client(
            base_url=endpoint,
            headers={"Authorization": f"Bearer {key}"},
            timeout=timeout_seconds,
            trust_env=False,
            verify=trusted_certificates(),
        )

    @classmethod
    def of(cls, emulator: Emulator) -> Client:
        return cls(emulator.endpoint, emulator.key)

    def submit(self, prompt: str = "A quiet harbour", **fields: Any) -> httpx.Response:
        body = {"model": "sora-2", "prompt": prompt, "duration": 1, "resolution": "480p", **fields}
        return self.http.post("/generations", json=body)

    def accepted(self, prompt: str = "A quiet harbour", **fields: Any) -> str:
        response = self.submit(prompt, **fields)
        assert response.status_code == 202, response.text
        generation_id: str = response.json()["id"]
        return generation_id

    def retrieve(self, generation_id: str) -> httpx.Response:
        return self.http.get(f"/generations/{generation_id}")

    def list(self, **query: Any) -> httpx.Response:
        return self.http.get("/generations", params=query)

    def cancel(self, generation_id: str) -> httpx.Response:
        return self.http.post(f"/generations/{generation_id}/cancel")

    def completed(self, emulator: Emulator, prompt: str = "A quiet harbour", **fields: Any) -> dict[str, Any]:
        """Submit, wait for the end, and hand back the generation."""
        generation_id = self.accepted(prompt, **fields)
        emulator.wait_until_idle()
        generation: dict[str, Any] = self.retrieve(generation_id).json()
        assert generation["status"] == "completed"
        return generation

    def poll_until_finished(self, generation_id: str, timeout_seconds: float = 30.0) -> dict[str, Any]:
        """For a provider in another process, where there is nothing else to wait on."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            generation: dict[str, Any] = self.retrieve(generation_id).json()
            if generation["status"] in ("completed", "failed", "cancelled"):
                return generation
            time.sleep(0.02)
        raise TimeoutError(f"{generation_id} is not finished after {timeout_seconds} s")


def download(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers=headers, trust_env=False, verify=trusted_certificates())


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error
