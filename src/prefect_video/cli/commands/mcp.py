"""`mcp`: the job API as tools of an agent, over stdio or HTTP."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from prefect_video.cli.options import (
    LedgerOption,
    ServiceAccountsOption,
    ServiceDeploymentOption,
    StoreOption,
    ledger_name,
)
from prefect_video.cli.output import DONE, print_status
from prefect_video.errors import InvalidInput, VideoError

if TYPE_CHECKING:
    from prefect_video.service import ServiceSettings

TOKEN_VARIABLE: Final = "PREFECT_VIDEO_MCP_TOKEN"


def mcp(
    *,
    http: Annotated[
        bool, Parameter(negative="", show_default=False, help="Serve streamable HTTP at /mcp, instead of stdio.")
    ] = False,
    host: Annotated[str, Parameter(help="With --http: address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="With --http: port; 0 for a free one.")] = 8126,
    account: ServiceAccountsOption = None,
    store: StoreOption = None,
    ledger: LedgerOption = None,
    deployment: ServiceDeploymentOption = None,
) -> int:
    """Offer plan, generate, status, jobs, cancel and spend to agents, as tools of the Model Context Protocol.

    The tokens are those of `serve` (PREFECT_VIDEO_SERVICE_TOKENS_FILE, `_TOKENS_BLOCK` or `_API_TOKEN`), with their
    scopes, rates and monthly budgets. Over stdio, PREFECT_VIDEO_MCP_TOKEN is the agent's; over HTTP each request has
    its own.

    Try:

        prefect-video tokens create agent --scope submit --scope read --monthly-usd 20 --file tokens.yaml

        prefect-video mcp --account sora-credentials/production
    """
    from prefect_video.service import ServiceSettings

    settings = ServiceSettings.from_environment(
        accounts=tuple(account) if account else None,
        store=store,
        ledger=ledger_name(ledger),
        deployment=deployment,
    )
    try:
        asyncio.run(_serve_http(settings, host, port) if http else _serve_stdio(settings))
    except KeyboardInterrupt:
        # Ctrl-C or SIGTERM: for a service the normal end.
        return DONE
    return DONE


async def _serve_stdio(settings: ServiceSettings) -> None:
    from prefect_video.service import build_agent_server, open_agent_tools

    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        raise InvalidInput(f"mcp: set {TOKEN_VARIABLE} to the agent's token, as `prefect-video tokens create` shows it")
    async with open_agent_tools(settings, lambda: token) as tools:
        if tools.runtime.tokens.authenticate(token) is None:
            raise InvalidInput(f"mcp: {TOKEN_VARIABLE} is none of the tokens that the settings name")
        # Stdout belongs to the protocol.
        await build_agent_server(tools).run_stdio_async(show_banner=False, log_level="WARNING")


async def _serve_http(settings: ServiceSettings, host: str, port: int) -> None:
    import socket

    from prefect_video.service import (
        Server,
        build_agent_server,
        build_server_config,
        limited_logs,
        open_agent_tools,
        read_request_token,
    )

    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise VideoError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    async with open_agent_tools(settings, read_request_token) as tools:
        app = build_agent_server(tools, over_http=True).http_app(path="/mcp")
        address = f"http://{host}:{listening.getsockname()[1]}/mcp"
        server = Server(
            build_server_config(app, settings), lambda: print_status(f"Serving tools on {address}. Ctrl-C ends it.")
        )
        with limited_logs():
            await server.serve(sockets=[listening])
