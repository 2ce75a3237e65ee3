"""Callbacks of the job API: signed, repeated until they are answered, and sent to no address that is not allowed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from standardwebhooks import Webhook

from prefect_video.emulator import Emulator
from tests.support.service_fixtures import Service, run_service
from tests.unit.downloads.test_url_safety import resolve_by_table
from tests.unit.service.test_job_api import PROJECT, assert_problem, wait_for_project
from tests.unit.service.test_jobs import generate, wait_for_status

SECRET: Final = "whsec_" + base64.b64encode(b"a secret of the tests, 32 bytes.").decode()
SETTINGS: Final[dict[str, Any]] = {
    "callback_secret": SECRET,
    "callback_hosts": "127.0.0.1",
    "callback_retry_seconds": 0.05,
    "collect": True,
    "sweep_seconds": 0.1,
}
Received = list[tuple[dict[str, str], bytes]]


@asynccontextmanager
async def callback_receiver(
    received: Received, *, failures: int = 0, location: str | None = None
) -> AsyncIterator[str]:
    """Run a client's receiver of callbacks, whose first answers are failures; or that always redirects."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head.splitlines()[1:]) if name
        }
        received.append((headers, await reader.readexactly(int(headers.get("content-length", 0)))))
        status = "500 Trouble" if len(received) <= failures else "204 Fine"
        if location is not None:
            status = f"302 Elsewhere\r\nLocation: {location}"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/done"


async def wait_for_callbacks(service: Service, outcome: str, number: int = 1) -> None:
    """Wait until so many attempts of callbacks have had an outcome."""
    async with asyncio.timeout(60):
        while await service.count("prefect_video_callbacks_total", outcome=outcome) < number:
            await asyncio.sleep(0.02)


async def test_a_callback_is_signed_and_repeated_until_it_is_answered_also_after_a_restart(
    environment: Path, provider: Emulator
) -> None:
    received: Received = []
    async with callback_receiver(received, failures=2) as url:
        async with run_service(**SETTINGS) as service:
            for _ in range(2):
                job = (await generate(service, callback_url=url, key="c-1")).json()
            await wait_for_status(service, job["job_id"], "completed")
            for refused in ("http://169.254.169.254/", "http://10.0.0.1/", "http://[::1]/"):
                assert_problem(await generate(service, callback_url=refused), 422)
        async with run_service(**SETTINGS) as service:
            await wait_for_callbacks(service, "delivered")
    assert len(received) == 3
    assert len({headers["webhook-id"] for headers, _ in received}) == 1
    for headers, body in received:
        event = Webhook(SECRET).verify(body, headers)
    assert (event["type"], event["data"]["job_id"]) == ("job.completed", job["job_id"])
    assert provider.usage()["billed"] == 1


async def test_a_name_that_is_pointed_inside_after_the_request_is_not_called(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"client.example": ["93.184.216.34"]}
    resolve_by_table(monkeypatch, table)
    received: Received = []
    # Until it is slow no more, no job ends, so that no callback is due.
    provider.change_speed(0.001)
    async with callback_receiver(received) as url, run_service(**{**SETTINGS, "callback_hosts": ""}) as service:
        job = await generate(service, callback_url=url.replace("127.0.0.1", "client.example"))
        assert job.status_code == 202, job.text
        table["client.example"] = ["127.0.0.1"]
        provider.change_speed(200)
        await wait_for_status(service, job.json()["job_id"], "completed")
        await wait_for_callbacks(service, "retried", 2)
    assert received == []
    assert provider.usage()["billed"] == 1


async def test_a_redirect_of_a_callback_is_not_followed(environment: Path, provider: Emulator) -> None:
    first: Received = []
    second: Received = []
    async with (
        callback_receiver(second) as inside,
        callback_receiver(first, location=inside) as url,
        run_service(**SETTINGS) as service,
    ):
        await generate(service, callback_url=url)
        await wait_for_callbacks(service, "retried", 2)
    assert len(first) >= 2
    assert second == []


@pytest.mark.parametrize(("prompt", "status"), [("a cup", "completed"), ("[policy] a cup", "failed")])
async def test_the_end_of_a_project_is_called_with_its_outcome(
    environment: Path, provider: Emulator, prompt: str, status: str
) -> None:
    received: Received = []
    async with callback_receiver(received) as url, run_service(**SETTINGS) as service:
        body = {**PROJECT, "shots": [{"id": "one", "prompt": prompt}], "callback_url": url}
        requested = await service.client.post("/v1/projects", json=body)
        assert requested.status_code == 202, requested.text
        done = await wait_for_project(service, requested.json()["id"])
        assert done["status"] == status, done
        await wait_for_callbacks(service, "delivered")
    ((headers, content),) = received
    event = Webhook(SECRET).verify(content, headers)
    assert (event["type"], event["data"]["id"]) == (f"project.{status}", done["id"])
    assert event["data"]["jobs"][0]["shot"] == "one"
