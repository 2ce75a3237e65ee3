"""`doctor` and Prefect's concurrency limits, without a server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.blocks.core import Block
from prefect.client import orchestration
from prefect.exceptions import ObjectNotFound
from sqlalchemy import update

from prefect_video.cli import sessions
from prefect_video.cli.check_result import Check
from prefect_video.cli.commands import doctor
from prefect_video.cli.commands.doctor import _check_concurrency_limit
from prefect_video.cli.operation_checks import _check_offset
from prefect_video.emulator import Emulator
from prefect_video.ledger import HoldReason, Ledger, hold_message
from prefect_video.ledger.tables import account_keys
from tests.support.cli_fixtures import InProcess
from tests.support.records import a_generation, a_request, begin_submit, claim_one
from tests.support.service_fixtures import open_environment_session, run_service

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
    # Another test of this process may have left a server with deployments.
    monkeypatch.setattr(doctor, "_check_fleet", list)
    monkeypatch.setenv("LITELLM_API_KEY", quick_emulator.key)
    monkeypatch.setenv("LITELLM_BASE_URL", f"{quick_emulator.url}/profiles/litellm/v1")
    checks = {check["name"]: check for check in call("doctor", "--provider", "litellm", "--json").json["checks"]}
    assert "num_retries: 0" in checks["advice"]["detail"]
    assert checks["provider"]["ok"]
    monkeypatch.setenv("LITELLM_API_KEY", "sk-wrong")
    checks = {check["name"]: check for check in call("doctor", "--provider", "litellm", "--json").json["checks"]}
    assert not checks["provider"]["ok"]


def checks_of(call: InProcess, *options: str) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in call("doctor", "--json", *options).json["checks"]}


@pytest.fixture
def without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_check_prefect_api", lambda: Check(name="prefect API", ok=True, detail="not asked"))


@pytest.mark.usefixtures("without_prefect")
def test_the_first_fault_hides_no_other(call: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SORA_API_KEY", raising=False)
    (tmp_path / "file").write_text("no folder")
    store, ledger = tmp_path / "file" / "videos", tmp_path / "file" / "ledger.db"
    checks = checks_of(call, "--provider", "sora", "--store", str(store), "--ledger", f"sqlite:///{ledger}")
    assert [name for name, check in checks.items() if not check["ok"]] == ["key", "provider", "store", "ledger"]
    assert all(check["fix"] for check in checks.values() if not check["ok"])


@pytest.mark.usefixtures("without_prefect")
@pytest.mark.parametrize(
    ("provider", "variables"),
    [
        ("fal", ("FAL_KEY",)),
        ("litellm", ("LITELLM_API_KEY", "LITELLM_BASE_URL")),
        ("openai", ("OPENAI_API_KEY",)),
        ("openrouter", ("OPENROUTER_API_KEY",)),
        ("replicate", ("REPLICATE_API_TOKEN",)),
        ("sora", ("SORA_API_KEY", "SORA_API_ENDPOINT")),
    ],
)
def test_a_key_that_is_not_set_is_never_ticked(
    call: InProcess, monkeypatch: pytest.MonkeyPatch, provider: str, variables: tuple[str, ...]
) -> None:
    for variable in variables:
        monkeypatch.delenv(variable, raising=False)
    checks = checks_of(call, "--provider", provider)
    assert [name for name, check in checks.items() if not check["ok"]] == ["key", "provider"]
    assert [variable for variable in variables if variable in checks["key"]["fix"]] == list(variables)


@pytest.mark.parametrize("status", [302, 402, 404, 405])
def test_a_server_that_is_not_the_provider_is_never_ticked(
    call: InProcess, monkeypatch: pytest.MonkeyPatch, without_prefect: None, status: int
) -> None:
    class OtherServer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), OtherServer)
    serving = Thread(target=server.serve_forever)
    serving.start()
    try:
        monkeypatch.setenv("SORA_API_KEY", "sk-1")
        monkeypatch.setenv("SORA_API_ENDPOINT", f"http://127.0.0.1:{server.server_port}/v1")
        checks = checks_of(call, "--provider", "sora")
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
    assert not checks["provider"]["ok"]
    assert checks["key"]["detail"] == "from the environment, not checked"


@pytest.mark.usefixtures("without_prefect")
def test_a_key_that_the_provider_refuses_is_never_ticked(
    call: InProcess, quick_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{quick_emulator.url}/v1")
    keys = {}
    for key in ("sk-wrong", quick_emulator.key):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        checks = checks_of(call, "--provider", "openai")
        keys[key] = checks["key"]["ok"]
        assert checks["provider"]["ok"] is keys[key]
    assert keys == {"sk-wrong": False, quick_emulator.key: True}


def test_a_prefect_that_cannot_be_used_hides_no_other_fault(
    call: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("PREFECT_LOGGING_LEVEL is none")

    monkeypatch.setattr(doctor, "ensure_api", fail)
    (tmp_path / "file").write_text("no folder")
    checks = checks_of(call, "--store", str(tmp_path / "file" / "videos"))
    assert [name for name, check in checks.items() if not check["ok"]] == ["prefect API", "store"]
    assert "PREFECT_LOGGING_LEVEL" in checks["prefect API"]["fix"]


@pytest.mark.usefixtures("without_prefect")
def test_a_block_that_is_not_there_is_never_ticked(call: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    async def aload(name: str) -> Any:
        raise ValueError(f"Unable to find block document named {name}")

    monkeypatch.setattr(sessions, "ensure_api", lambda: None)
    monkeypatch.setattr(Block, "aload", aload)
    names = ("--provider", "sora-credentials/gone", "--store", "video-store/gone", "--ledger", "video-ledger/gone")
    checks = checks_of(call, *names)
    assert [name for name, check in checks.items() if not check["ok"]] == ["key", "provider", "store", "ledger"]
    assert "sora-credentials/gone" in checks["key"]["fix"]
    assert "video-ledger/gone" in checks["ledger"]["detail"]


@pytest.mark.usefixtures("without_prefect")
def test_held_jobs_clocks_and_the_address_of_webhooks_are_seen(
    call: InProcess, quick_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    for name, value in {
        "SORA_API_KEY": quick_emulator.key,
        "SORA_API_ENDPOINT": quick_emulator.endpoint,
        "SORA_WEBHOOK_SECRET": quick_emulator.webhook_secret,
        "PREFECT_VIDEO_LEDGER_URL": url,
        # A server that answers, and is no receiver of webhooks.
        "PREFECT_VIDEO_WEBHOOK_URL": quick_emulator.url,
    }.items():
        monkeypatch.setenv(name, value)

    checks = checks_of(call, "--provider", "sora")
    assert checks["held jobs"]["ok"]
    assert checks["clock of the ledger"]["ok"]
    assert checks["clock of sora"]["ok"]
    assert not checks["webhook address"]["ok"]

    async def hold_and_serve() -> dict[str, dict[str, Any]]:
        async with await Ledger.open(url) as ledger:
            async with await open_environment_session() as session:
                account = session.provider.account
            job = await claim_one(ledger, account=account.id)
            await begin_submit(ledger, job.id, key_fingerprint=account.key_fingerprint)
            await ledger.jobs.record_submitted(job.id, a_generation())
            reason = hold_message(HoldReason.SUBMIT_UNANSWERED, job=job.id, shot="a", ledger=None, cause="it is gone")
            await ledger.jobs.hold(job.id, reason)
        async with run_service(announce=False) as service:
            monkeypatch.setenv("PREFECT_VIDEO_WEBHOOK_URL", service.url)
            return await asyncio.to_thread(checks_of, call, "--provider", "sora")

    checks = asyncio.run(hold_and_serve())
    assert not checks["held jobs"]["ok"]
    assert "1 submit unanswered" in checks["held jobs"]["detail"]
    assert "jobs --held" in checks["held jobs"]["fix"]
    assert checks["webhook address"]["ok"]
    assert checks["key age"]["ok"]
    assert "is in use for 0 days" in checks["key age"]["detail"]

    async def age_the_key() -> None:
        async with await Ledger.open(url) as ledger, ledger._database.writing() as connection:
            await connection.execute(update(account_keys).values(first_used_at=datetime.now(UTC) - timedelta(days=8)))

    asyncio.run(age_the_key())
    for days, young in (("9", True), ("8", False)):
        monkeypatch.setenv("PREFECT_VIDEO_KEY_REMINDER_DAYS", days)
        age = checks_of(call, "--provider", "sora")["key age"]
        assert (age["ok"], "is in use for 8 days" in age["detail"]) == (young, True)
    assert "previous_api_key" in age["fix"]


@pytest.mark.parametrize(("seconds", "ok"), [(2.0, True), (-30.0, False), (30.0, False)])
def test_a_clock_that_differs_is_a_fault(seconds: float, ok: bool) -> None:
    limit = timedelta(seconds=5)
    check = _check_offset("clock of the ledger", timedelta(seconds=seconds), limit)
    assert check.ok is ok
    assert ("behind" if seconds < 0 else "ahead of") in check.detail


@pytest.mark.usefixtures("without_prefect")
def test_the_quota_of_the_plan_and_the_queue_are_seen(
    call: InProcess, quick_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    for name, value in {
        "SORA_API_KEY": quick_emulator.key,
        "SORA_API_ENDPOINT": quick_emulator.endpoint,
        "SORA_PLAN": "api-tier-1",
        "PREFECT_VIDEO_LEDGER_URL": url,
    }.items():
        monkeypatch.setenv(name, value)

    async def reserve(number: int, priority: str, degraded: str | None = None) -> None:
        async with await open_environment_session() as session, await Ledger.open(url) as ledger:
            await ledger.claims.claim(
                [
                    a_request(index, account=session.provider.account.id, priority=priority, degraded=degraded)
                    for index in range(number, number + 50)
                ]
            )

    asyncio.run(reserve(0, "high"))
    found = checks_of(call, "--provider", "sora")
    quota = found["quota"]
    assert quota["ok"]
    assert quota["detail"] == "50 of 100 this month; waiting to be sent: 50 high"
    assert found["degraded videos"]["detail"] == "no video of this month differs from its request"
    asyncio.run(reserve(50, "low", degraded="duration: 8 became 4"))
    found = checks_of(call, "--provider", "sora")
    quota = found["quota"]
    assert not quota["ok"]
    assert quota["detail"] == "100 of 100 this month; waiting to be sent: 50 high, 50 low"
    shown = found["degraded videos"]["detail"]
    assert shown.startswith("50 videos of this month made otherwise than requested, the newest coffee-ad/shot-")
    assert shown.endswith(": duration: 8 became 4")
