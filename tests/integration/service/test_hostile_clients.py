"""Clients that want to keep others out: half-sent requests, bodies that no database holds, foreign host names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from pathlib import Path

import httpx
import pytest

from prefect_video.emulator import Emulator
from prefect_video.errors import InvalidInput
from prefect_video.service import ServiceSettings, find_known_hosts
from tests.support.service_fixtures import TOKEN, Service, open_environment_session, run_service
from tests.unit.service.test_jobs import REQUEST
from tests.unit.service.test_webhooks import build_event, sign, submit_generation

HALF_HEADER = b"POST /webhooks/sora HTTP/1.1\r\nHost: x\r\nX-Slow: "
HALF_BODIES = [
    f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 900\r\n\r\n{{".encode()
    for path in ("/generate", "/webhooks/sora")
]


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def open_half_sent(service: Service, sent: bytes, number: int) -> list[Connection]:
    """Open connections, each with the same beginning of a request; a writer that is not kept would close its own."""
    host, port = service.url.removeprefix("http://").split(":")
    opened = []
    for _ in range(number):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        await writer.drain()
        opened.append((reader, writer))
    return opened


def count_open(connections: list[Connection]) -> int:
    return sum(not reader.at_eof() and reader.exception() is None for reader, _ in connections)


async def wait_for_end(connection: Connection) -> None:
    async with asyncio.timeout(300):
        with contextlib.suppress(ConnectionError):
            await connection[0].read()


async def test_half_sent_requests_keep_no_webhook_out_and_fill_no_log(
    environment: Path, provider: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with (
        run_service(connections=40, webhook_connections=20, body_seconds=2) as service,
        await open_environment_session() as session,
    ):
        job = await submit_generation(session)
        body = build_event(job.generation_id or "")
        attackers = [
            *await open_half_sent(service, HALF_HEADER, 150),
            *await open_half_sent(service, HALF_BODIES[0], 30),
            *await open_half_sent(service, HALF_BODIES[1], 60),
        ]
        async with asyncio.timeout(5):
            delivered = await service.client.post(
                "/webhooks/sora", content=body, headers=sign(body, provider.webhook_secret)
            )
        assert delivered.json() == {"received": True}
        async with asyncio.timeout(5):
            while count_open(attackers) > 40:
                await asyncio.sleep(0.01)
        assert (await service.client.get("/healthz")).status_code == 200
    lines = [record for record in caplog.records if record.name.startswith(("uvicorn", "asyncio", "prefect_video"))]
    assert len(lines) < 10
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("sent", [b"", HALF_HEADER, *HALF_BODIES], ids=["nothing", "header", "body", "webhook"])
async def test_a_request_that_does_not_arrive_ends_at_its_deadline(
    environment: Path, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    async with run_service(header_seconds=0.2, body_seconds=0.2) as service:
        (connection,) = await open_half_sent(service, sent, 1)
        await wait_for_end(connection)
    assert "no whole" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_connection_that_is_kept_after_its_answer_ends_at_the_idle_deadline(environment: Path) -> None:
    # The next request's header has far longer: only the idle deadline can end the connection in this time.
    async with run_service(idle_seconds=1, header_seconds=600, body_seconds=600) as service:
        ((reader, writer),) = await open_half_sent(service, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 1)
        header = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert header.startswith("http/1.1 200")
        assert "connection: close" not in header
        length = int(header.partition("content-length: ")[2].partition("\r\n")[0])
        assert json.loads(await reader.readexactly(length)) == {"status": "ok"}
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()


async def test_other_requests_leave_room_for_webhooks(environment: Path, provider: Emulator) -> None:
    async with run_service(connections=18, webhook_connections=16) as service:
        others = await open_half_sent(service, HALF_BODIES[0], 2)
        async with asyncio.timeout(5):
            while (await service.client.get("/metrics")).status_code != 503:
                await asyncio.sleep(0.01)
        answer = await service.client.post("/webhooks/sora", content=b"{}")
        assert answer.status_code == 401
        assert not any(reader.at_eof() for reader, _ in others)


UNUSABLE_BODIES = [
    '{"prompt": "a \\ud800 cat", "duration": 1}',
    '{"prompt": "a cat", "duration": 1, "metadata": {"\\udfff": "x"}}',
    '{"prompt": "a \\u0000 cat", "duration": 1}',
    '{"prompt": "a cat", "duration": NaN}',
    '{"prompt": "a cat", "duration": -Infinity}',
    '{"prompt": "a cat", "duration": 1e999}',
    '{"prompt": ' + "[" * 30_000 + "]" * 30_000 + "}",
    "[" * 60_000,
    '{"prompt": "a cat", "seed": ' + "9" * 5_000 + "}",
]


def wrap_body(path: str, body: str) -> str:
    """Make one request the only job of a batch, or the only shot of a project, where a path takes those."""
    if path == "/v1/batches":
        return f'{{"jobs": [{body}]}}'
    if path.startswith("/v1/projects"):
        shot = body.replace("{", '{"id": "one", ', 1)
        return f'{{"project": "film", "shots": [{shot}]}}'
    return body


@pytest.mark.parametrize("path", ["/generate", "/v1/jobs", "/v1/batches", "/v1/projects", "/v1/projects/plan"])
async def test_a_body_that_cannot_be_used_is_422(environment: Path, provider: Emulator, path: str) -> None:
    async with run_service() as service:

        async def send(body: str) -> httpx.Response:
            content = wrap_body(path, body).encode("latin-1")
            return await service.client.post(path, content=content, headers={"Content-Type": "application/json"})

        for body in UNUSABLE_BODIES:
            answer = await send(body)
            assert answer.status_code == 422, (body[:80], answer.text)
            assert json.loads(answer.content)["detail"]
        assert (await service.client.get("/jobs/%00")).status_code == 404
        assert provider.usage()["submitted"] == 0
        # What is around the bodies is not what was refused.
        assert (await send('{"prompt": "a cat", "duration": 1}')).status_code in (200, 202)


async def test_a_body_that_is_no_json_is_400(environment: Path, provider: Emulator) -> None:
    async with run_service() as service:
        for body in (b'{"prompt": "a cat"', b"\xff", b"prompt=a+cat"):
            headers = {"Content-Type": "application/json"}
            answer = await service.client.post("/generate", content=body, headers=headers)
            assert answer.status_code == 400, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert "is not JSON" in answer.json()["detail"]
    assert provider.usage()["submitted"] == 0


async def test_unknown_hosts_are_refused_where_hosts_are_known(environment: Path, provider: Emulator) -> None:
    async with run_service(hosts="video.example.com") as service:
        for host, status in (
            ("video.example.com", 401),
            ("Video.Example.com:443", 401),
            (service.url.removeprefix("http://"), 401),
            ("rebound.example.net", 421),
            ("[", 421),
        ):
            answer = await service.client.post("/webhooks/sora", content=b"{}", headers={"Host": host})
            assert answer.status_code == status, host
        refused = await service.client.post("/generate", json=REQUEST, headers={"Host": "rebound.example.net"})
        assert refused.status_code == 421


def test_a_public_address_without_a_token_needs_to_know_its_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    without = ServiceSettings.from_environment()
    monkeypatch.delenv("PREFECT_VIDEO_WEBHOOK_URL", raising=False)
    with pytest.raises(InvalidInput, match="PREFECT_VIDEO_WEBHOOK_URL"):
        find_known_hosts("0.0.0.0", without)
    assert find_known_hosts("127.0.0.1", without) == find_known_hosts("::1", without) == ()
    monkeypatch.setenv("PREFECT_VIDEO_WEBHOOK_URL", "https://video.example.com/hooks")
    assert find_known_hosts("0.0.0.0", without) == ("video.example.com",)
    assert find_known_hosts("0.0.0.0", ServiceSettings.from_environment(api_token=TOKEN)) == ()
