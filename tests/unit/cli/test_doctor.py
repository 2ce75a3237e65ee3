"""`doctor` and Prefect's concurrency limits, without a server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.client import orchestration
from prefect.exceptions import ObjectNotFound

from prefect_video.cli.check_result import Check
from prefect_video.cli.commands import doctor
from prefect_video.cli.commands.doctor import _check_concurrency_limit
from prefect_video.emulator import Emulator
from tests.support.cli_fixtures import InProcess

SESSION = SimpleNamespace(settings=SimpleNamespace(concurrency_limit="sora"), account_slots=4)


class FakePrefectClient:
    """A stand-in for Prefect's client with one concurrency limit."""

    def __init__(self, *, limit: int | None = None, down: bool = False) -> None:
        self.limit = limit
        self.down = down

    async def __aenter__(self) -> FakePrefectClient:
        if self.down:
            raise RuntimeError("Failed to reach API")
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def read_global_concurrency_limit_by_name(self, name: str) -> Any:
        if self.limit is None:
            raise ObjectNotFound(httpx.HTTPError("404"))
        return SimpleNamespace(active_slots=0, limit=self.limit)

    async def create_global_concurrency_limit(self, action: Any) -> None:
        self.limit = action.limit


async def check_limit(monkeypatch: pytest.MonkeyPatch, client: FakePrefectClient, *, create: bool) -> Check:
    monkeypatch.setattr(orchestration, "get_client", lambda: client)
    (check,) = await _check_concurrency_limit(SESSION, create=create)
    return check


async def test_a_missing_limit_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakePrefectClient()
    missing = await check_limit(monkeypatch, server, create=False)
    assert (missing.ok, server.limit) == (False, None)
    assert "--fix" in (missing.fix or "")
    assert (await check_limit(monkeypatch, server, create=True)).ok
    assert server.limit == 4


async def test_a_limit_that_an_operator_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakePrefectClient(limit=2)
    assert "0 of 2" in (await check_limit(monkeypatch, server, create=True)).detail
    assert server.limit == 2


async def test_a_server_that_is_down_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    check = await check_limit(monkeypatch, FakePrefectClient(down=True), create=True)
    assert not check.ok
    assert "Failed to reach API" in check.detail


def test_a_proxy_that_repeats_submits_is_advised_against(
    call: InProcess, quick_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_check_prefect_api", lambda: Check(name="prefect API", ok=True, detail="not asked"))
    monkeypatch.setenv("LITELLM_API_KEY", quick_emulator.key)
    monkeypatch.setenv("LITELLM_BASE_URL", f"{quick_emulator.url}/profiles/litellm/v1")
    checks = {check["name"]: check for check in call("doctor", "--provider", "litellm", "--json").json["checks"]}
    assert "num_retries: 0" in checks["advice"]["detail"]
    assert checks["provider"]["ok"]
    monkeypatch.setenv("LITELLM_API_KEY", "sk-wrong")
    checks = {check["name"]: check for check in call("doctor", "--provider", "litellm", "--json").json["checks"]}
    assert not checks["provider"]["ok"]
