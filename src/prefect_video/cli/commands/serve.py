"""`serve`: the webhook receiver and the job API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from prefect_video.cli.options import (
    LedgerOption,
    ServiceAccountsOption,
    ServiceDeploymentOption,
    StoreOption,
    ledger_name,
)
from prefect_video.cli.output import DONE, escape, stdout
from prefect_video.errors import VideoError

if TYPE_CHECKING:
    from prefect_video.service import ServiceSettings, Sessions


def serve(
    *,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port; 0 for a free one.")] = 8124,
    account: ServiceAccountsOption = None,
    store: StoreOption = None,
    ledger: LedgerOption = None,
    collect: Annotated[
        bool, Parameter(negative="", show_default=False, help="Store finished videos that no run waits for.")
    ] = False,
    deployment: ServiceDeploymentOption = None,
) -> int:
    """Receive webhooks of providers, and serve the job API; runs until Ctrl-C.

    Put it behind HTTPS, and set its public address for runs: `export PREFECT_VIDEO_WEBHOOK_URL=https://video.example.com`.
    The job API (`POST /v1/jobs`, page at `/docs`) is served when PREFECT_VIDEO_SERVICE_TOKENS_FILE, `_TOKENS_BLOCK` or
    `_API_TOKEN` is set; `prefect-video tokens create` makes tokens.

    Try:

        prefect-video serve --account sora-credentials/production --collect

        prefect-video serve --deployment generate-project/project
    """
    from prefect_video.service import ServiceSettings, find_known_hosts

    settings = ServiceSettings.from_environment(
        accounts=tuple(account) if account else None,
        store=store,
        ledger=ledger_name(ledger),
        collect=collect or None,
        deployment=deployment,
    )
    settings = settings.model_copy(update={"hosts": find_known_hosts(host, settings)})
    try:
        asyncio.run(_serve(settings, host, port))
    except KeyboardInterrupt:
        # uvicorn has shut down and raises the signal again, Ctrl-C's or SIGTERM's: for a service the normal end.
        return DONE
    except OSError as error:
        raise VideoError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return DONE


async def _serve(settings: ServiceSettings, host: str, port: int) -> None:
    import socket

    from prefect_video.service import Server, build_server_config, create_app, limited_logs, open_sessions, open_tokens

    # Opened once before the server starts: an error in its start-up would be printed as a traceback.
    async with open_sessions(settings):
        await open_tokens(settings)
    listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    # asyncio sets this only on sockets that it has made: without it a response waits 40 ms for an acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    app = create_app(settings)

    def announce() -> None:
        _announce(listening.getsockname()[1], host, app.state.sessions, settings)

    server = Server(build_server_config(app, settings), announce)
    with limited_logs():
        await server.serve(sockets=[listening])
    if not server.started:
        raise VideoError("the service could not start; the lines above show the cause")


def _announce(port: int, host: str, sessions: Sessions, settings: ServiceSettings) -> None:
    console = stdout()
    address = escape(f"http://{host}:{port}")
    console.print(f"[bold]Serving on {address}.[/] Ctrl-C ends it.")
    for provider in dict.fromkeys(session.provider.name for session in sessions.sessions):
        console.print(f"[dim]webhooks[/]  POST {address}/webhooks/{escape(provider)}", soft_wrap=True)
    if settings.has_job_api:
        console.print(f"[dim]jobs    [/]  POST {address}/v1/jobs, described at {address}/docs", soft_wrap=True)
    console.print(f"[dim]status  [/]  {address}/status", soft_wrap=True)
    console.print(f"[dim]health  [/]  GET {address}/healthz, /readyz, /metrics", soft_wrap=True)
    console.file.flush()
