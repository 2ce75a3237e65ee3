"""SOCKS5 proxy for tests, in a thread of its own: it connects to wherever it is sent, and counts."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class SocksProxy:
    """Running proxy.

    Attributes:
        url: Its address.
        targets: Host and port of every connection.
    """

    url: str
    targets: list[tuple[str, int]] = field(default_factory=list)


@contextmanager
def serve_socks() -> Iterator[SocksProxy]:
    """Run a proxy on a free loopback port until the block ends."""
    targets: list[tuple[str, int]] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            client: socket.socket = self.request
            with suppress(OSError):
                client.recv(1 + 1 + 255)  # version and methods
                client.sendall(b"\x05\x00")
                _, _, _, kind = client.recv(4)
                host = {
                    1: lambda: socket.inet_ntop(socket.AF_INET, client.recv(4)),
                    3: lambda: client.recv(client.recv(1)[0]).decode(),
                    4: lambda: socket.inet_ntop(socket.AF_INET6, client.recv(16)),
                }[kind]()
                port = int.from_bytes(client.recv(2), "big")
                targets.append((host, port))
                with socket.create_connection((host, port), timeout=10) as server:
                    client.sendall(b"\x05\x00\x00\x01" + bytes(6))
                    back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                    back.start()
                    _copy(client, server)
                    back.join()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield SocksProxy(f"socks5://127.0.0.1:{server.server_address[1]}", targets)
        finally:
            server.shutdown()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
