"""Service: `prefect-video serve`, the webhook receiver and the job API.

The top of the house beside the command line: may import every room and the Prefect folders.
"""

from prefect_video.service.agent_tools import build_agent_server, open_agent_tools, read_request_token
from prefect_video.service.api_tokens import add_token, create_token, describe_token
from prefect_video.service.app import create_app
from prefect_video.service.connections import Server, build_server_config
from prefect_video.service.known_hosts import find_known_hosts
from prefect_video.service.log_limits import limited_logs
from prefect_video.service.sessions import Sessions, open_sessions
from prefect_video.service.settings import ServiceSettings
from prefect_video.service.token_source import open_tokens

__all__ = [
    "Server",
    "ServiceSettings",
    "Sessions",
    "add_token",
    "build_agent_server",
    "build_server_config",
    "create_app",
    "create_token",
    "describe_token",
    "find_known_hosts",
    "limited_logs",
    "open_agent_tools",
    "open_sessions",
    "open_tokens",
    "read_request_token",
]
