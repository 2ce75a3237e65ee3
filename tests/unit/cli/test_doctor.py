"""What `doctor` says of a concurrency limit, without a server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.client import orchestration
from prefect.exceptions import ObjectNotFound

from prefect_video.cli.commands.doctor import Check, _check_concurrency_limit

SESSION = SimpleNamespace(settings=SimpleNamespace(concurrency_limit="sora"), account_slots=4)


class Server:
    """Prefect's client, as far as limits go."""

    def __init__(self, *, limit: int | None = None, down: bool = False) -> None:
        self.limit = limit
        self.down = down

    async def __aenter__(self) -> Server:
        if self.down:
            raise RuntimeError("Failed to reach API")
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def read_global_concurrency_limit_by_name(self, name: str) -> Any:
        if self.limit is None:
            raise ObjectNotFound(httpx.HTTPError("404"))
        return SimpleNamespace(active_slots=0, limit=self.limit)

    async def create_global_concurrency_limit(self, wanted: Any) -> None:
        self.limit = wanted.limit


async def checked(monkeypatch: pytest.MonkeyPatch, server: Server, *, create: bool) -> Check:
    monkeypatch.setattr(orchestration, "get_client", lambda: server)
    (check,) = await _check_concurrency_limit(SESSION, create=create)
    return check


async def test_one_that_is_missing_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    missing = await checked(monkeypatch, server, create=False)
    assert (missing.ok, server.limit) == (False, None)
    assert "--fix" in (missing.fix or "")
    assert (await checked(monkeypatch, server, create=True)).ok
    assert server.limit == 4


async def test_one_that_an_operator_has_set_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(limit=2)
    assert "0 of 2" in (await checked(monkeypatch, server, create=True)).detail
    assert server.limit == 2


async def test_a_server_that_is_down_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    check = await checked(monkeypatch, Server(down=True), create=True)
    assert not check.ok
    assert "Failed to reach API" in check.detail
