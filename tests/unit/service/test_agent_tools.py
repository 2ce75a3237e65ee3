"""The job API as tools of an agent: FastMCP's own client against the server, and the provider's own count of money."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from fastmcp.exceptions import ToolError

from prefect_video.emulator import Emulator
from prefect_video.errors import InvalidInput
from prefect_video.service import (
    ServiceSettings,
    build_agent_server,
    build_server_config,
    open_agent_tools,
    read_request_token,
)
from prefect_video.service.agent_tools import AgentTools
from tests.unit.service.test_job_api import Clients, clients, wait_for_accepted

__all__ = ["clients"]

VIDEO: dict[str, Any] = {"prompt": "a cat on a skateboard", "duration": 1, "resolution": "480p"}


@asynccontextmanager
async def open_client(clients: Clients, name: str) -> AsyncIterator[Client[Any]]:
    """Open the tools of a service for the agent with a token, in this process."""
    settings = ServiceSettings.from_environment(tokens_file=clients.file, sweep_seconds=0.1)
    async with (
        open_agent_tools(settings, lambda: clients.tokens[name]) as tools,
        Client(build_agent_server(tools)) as client,
    ):
        yield client


async def call(client: Client[Any], tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool, and return its structured answer."""
    answer = await client.call_tool(tool, arguments)
    assert answer.structured_content is not None
    return answer.structured_content


async def wait_for_status(client: Client[Any], job_id: str, status: str) -> None:
    """Wait until a job has a status."""
    async with asyncio.timeout(60):
        while (await call(client, "status", job_id=job_id))["status"] != status:
            await asyncio.sleep(0.02)


async def test_an_agent_makes_a_video_and_repeating_itself_costs_nothing(
    environment: Path, provider: Emulator, clients: Clients
) -> None:
    clients.add("agent", monthly_usd=Decimal(5))
    async with open_client(clients, "agent") as client:
        tools = {tool.name: tool for tool in await client.list_tools()}
        assert set(tools) == {"plan", "generate", "status", "jobs", "cancel", "spend"}
        assert all(tool.description for tool in tools.values())
        plan = await call(client, "plan", **VIDEO)
        assert (plan["cost_usd"], plan["shots"][0]["action"], plan["fits"]) == (0.3, "generate", True)
        assert provider.usage()["accepted"] == 0
        # An agent that was not answered in time asks again, also at once and from several places.
        answers = await asyncio.gather(*(call(client, "generate", **VIDEO) for _ in range(5)))
        assert len({answer["job_id"] for answer in answers}) == 1
        done = await call(client, "status", job_id=answers[0]["job_id"], wait_seconds=30)
        assert done["status"] == "completed"
        assert Path(done["uri"].removeprefix("file://")).is_file()
        assert (await call(client, "generate", **VIDEO))["status"] == "completed"
        spend = await call(client, "spend")
        assert (spend["token"], spend["spent_usd"], spend["left_usd"]) == ("agent", 0.3, 4.7)
        assert len((await call(client, "jobs"))["jobs"]) == 1
    assert (provider.usage()["billed"], Decimal(provider.usage()["billed_usd"])) == (1, Decimal("0.3"))


async def test_an_agent_cannot_overspend(environment: Path, provider: Emulator, clients: Clients) -> None:
    clients.add("agent", monthly_usd=Decimal("0.7"))
    async with open_client(clients, "agent") as client:
        wishes = [client.call_tool("generate", {**VIDEO, "prompt": f"cat {number}"}) for number in range(6)]
        answers = await asyncio.gather(*wishes, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, ToolError)]
        assert len(refused) == 4
        assert all("402" in str(error) and "token agent" in str(error) for error in refused)
        await wait_for_accepted(provider, 2)
    # Another process, and another key for what is stored by now: the budget is the ledger's.
    async with open_client(clients, "agent") as client:
        with pytest.raises(ToolError, match="402"):
            await call(client, "generate", **VIDEO, idempotency_key="another")
    assert provider.usage()["accepted"] == 2


async def test_a_failed_video_is_not_paid_again_without_a_new_key(
    environment: Path, provider: Emulator, clients: Clients
) -> None:
    clients.add("agent")
    provider.add_fault(operation="submit", kind="blocked", code="generation_error", message="it broke")
    async with open_client(clients, "agent") as client:
        job = await call(client, "generate", **VIDEO)
        assert (await call(client, "status", job_id=job["job_id"], wait_seconds=30))["status"] == "failed"
        assert (await call(client, "generate", **VIDEO))["job_id"] == job["job_id"]
        assert provider.usage()["accepted"] == 1
        fresh = await call(client, "generate", **VIDEO, idempotency_key="second try")
        assert fresh["job_id"] != job["job_id"]
        with pytest.raises(ToolError, match="422"):
            await call(client, "generate", **{**VIDEO, "prompt": "a dog"}, idempotency_key="second try")
        await wait_for_accepted(provider, 2)
    assert provider.usage()["accepted"] == 2


async def test_a_token_without_a_scope_is_refused(environment: Path, provider: Emulator, clients: Clients) -> None:
    clients.add("reader", "read")
    clients.add("writer", "submit")
    clients.tokens["stranger"] = "pv_unknown"
    async with open_client(clients, "reader") as client:
        for tool, arguments in (("plan", VIDEO), ("generate", VIDEO), ("cancel", {"job_id": "x"})):
            with pytest.raises(ToolError, match="403"):
                await call(client, tool, **arguments)
        assert (await call(client, "jobs"))["jobs"] == []
    async with open_client(clients, "writer") as client:
        for tool in ("spend", "jobs"):
            with pytest.raises(ToolError, match="403"):
                await call(client, tool)
        with pytest.raises(ToolError, match=r"422 .*duration"):
            await call(client, "generate", prompt="a cat", duration=1_000)
    async with open_client(clients, "stranger") as client:
        with pytest.raises(ToolError, match="401"):
            await call(client, "generate", **VIDEO)
    assert provider.usage()["accepted"] == 0


async def test_a_job_in_progress_is_cancelled(environment: Path, provider: Emulator, clients: Clients) -> None:
    clients.add("agent")
    provider.change_speed(1)
    async with open_client(clients, "agent") as client:
        job = await call(client, "generate", **{**VIDEO, "duration": 20})
        await wait_for_status(client, job["job_id"], "processing")
        cancelled = await call(client, "cancel", job_id=job["job_id"])
        assert cancelled["status"] == "cancelled"
        with pytest.raises(ToolError, match="404"):
            await call(client, "status", job_id="none")
    assert provider.usage()["billed"] == 0


@asynccontextmanager
async def serve_http(tools: AgentTools, settings: ServiceSettings) -> AsyncIterator[str]:
    """Serve the tools over HTTP on a free port; yields their address."""
    app = build_agent_server(tools, over_http=True).http_app(path="/mcp")
    config = build_server_config(app, settings)
    config.port = 0
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        await running


async def test_over_http_each_request_has_its_own_token(
    environment: Path, provider: Emulator, clients: Clients
) -> None:
    clients.add("agent")
    clients.add("reader", "read")
    settings = ServiceSettings.from_environment(tokens_file=clients.file)
    async with open_agent_tools(settings, read_request_token) as tools, serve_http(tools, settings) as url:
        async with Client(StreamableHttpTransport(url, auth=clients.tokens["agent"])) as client:
            assert (await call(client, "generate", **VIDEO))["requester"] == "agent"
        async with Client(StreamableHttpTransport(url, auth=clients.tokens["reader"])) as client:
            with pytest.raises(ToolError, match="403"):
                await call(client, "generate", **{**VIDEO, "prompt": "a dog"})
        async with httpx2.AsyncClient(trust_env=False) as bare:
            answer = await bare.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
            assert answer.status_code == 401
        await wait_for_accepted(provider, 1)
    assert provider.usage()["accepted"] == 1


async def test_over_stdio_the_token_is_a_variable(environment: Path, provider: Emulator, clients: Clients) -> None:
    clients.add("agent", monthly_usd=Decimal(5))
    variables = {
        **os.environ,
        "PREFECT_VIDEO_SERVICE_TOKENS_FILE": str(clients.file),
        "PREFECT_VIDEO_MCP_TOKEN": clients.tokens["agent"],
        "PREFECT_VIDEO_SERVICE_SWEEP_SECONDS": "0.1",
    }
    command = str(Path(sys.executable).with_name("prefect-video"))
    transport = StdioTransport(command, ["mcp", "--account", "sora"], env=variables, keep_alive=False)
    async with Client(transport) as client:
        job = await call(client, "generate", **VIDEO)
        assert (await call(client, "status", job_id=job["job_id"], wait_seconds=30))["status"] == "completed"
    assert provider.usage()["billed"] == 1


async def test_without_any_token_there_are_no_tools(environment: Path, provider: Emulator) -> None:
    with pytest.raises(InvalidInput, match="tokens create"):
        async with open_agent_tools(ServiceSettings.from_environment(), lambda: None):
            pass
