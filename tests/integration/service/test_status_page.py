"""The status page of `serve`: who may see it, and the page in a real browser."""

from __future__ import annotations

import base64
import os
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from prefect_video.emulator import Emulator
from prefect_video.service import add_token, create_token
from tests.integration.gallery.test_browser import HOSTILE, find_chromium
from tests.support.records import a_request
from tests.support.service_fixtures import TOKEN, Service, open_environment_session, run_service
from tests.unit.service.test_jobs import REQUEST, wait_for_status

playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.async_playwright", reason="axe-playwright-python is not installed")


def basic(token: str) -> dict[str, str]:
    """Return the header that a browser sends for a password."""
    return {"Authorization": f"Basic {base64.b64encode(f'any:{token}'.encode()).decode()}"}


async def test_the_page_needs_a_token_that_may_read(environment: Path, provider: Emulator, tmp_path: Path) -> None:
    texts = {}
    for name, scope in (("writer", "submit"), ("reader", "read")):
        texts[name], entry = create_token(name, [scope], monthly_usd=Decimal(20))  # type: ignore[list-item]
        add_token(tmp_path / "tokens.yaml", entry)
    async with run_service(tokens_file=tmp_path / "tokens.yaml") as service:
        for headers in ({"Authorization": ""}, basic("pv_other"), {"Authorization": "Basic %%"}):
            refused = await service.client.get("/status", headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith("Basic ")
        assert (await service.client.get("/status", headers=basic(texts["writer"]))).status_code == 403
        shown = await service.client.get("/status", headers=basic(texts["reader"]))
        assert shown.status_code == 200
        assert shown.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in shown.headers["content-security-policy"]
        assert "token reader" in shown.text
        assert "$20.00" in shown.text
        assert not [text for text in (TOKEN, provider.key, *texts.values()) if text in shown.text]


async def test_without_tokens_it_is_for_this_machine_only(environment: Path, provider: Emulator) -> None:
    async with run_service(api_token=None) as service:
        assert (await service.client.get("/status")).status_code == 200
        # A name that leads here from a page elsewhere, and a proxy in front.
        assert (await service.client.get("/status", headers={"Host": "evil.example"})).status_code == 403
        assert (await service.client.get("/status", headers={"X-Forwarded-For": "203.0.113.9"})).status_code == 403


async def test_plans_quotas_and_the_queue_by_priority_are_shown(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SORA_PLAN", "api-tier-1")
    async with run_service() as service:
        (session,) = service.app.state.sessions.sessions
        account, slots = session.provider.account.id, session.account_slots
        waiting = [("high", 3), ("normal", 2), ("low", 1)]
        requests = [priority for priority, number in waiting for _ in range(number)]
        await session.ledger.claims.claim(
            [a_request(index, account=account, priority=priority) for index, priority in enumerate(requests)]
        )
        shown = await read_accounts(service)
        assert shown == [["sora", "in use", f"0 of {slots}", "3", "2", "1", "6 of 100", "94"]]
        until = datetime.now(UTC) + timedelta(days=3)
        await session.ledger.accounts.record_quota(account, until)
        (line,) = await read_accounts(service)
        assert line[1] == f"quota used up until {until:%Y-%m-%d %H:%M} UTC"


async def test_jobs_and_what_they_cost_are_shown(environment: Path, provider: Emulator) -> None:
    async with run_service(collect=True, sweep_seconds=0.1) as service:
        stored = (await service.client.post("/v1/jobs", json=REQUEST)).json()
        await wait_for_status(service, stored["job_id"], "completed")
        assert await read_states(service) == [["stored", "1"]]
        assert await read_figures(service) == {"spent today": "$0.30", "spent this month": "$0.30", "reserved": "$0.00"}
        # So slow that it does not end.
        provider.change_speed(0.001)
        waiting = (await service.client.post("/v1/jobs", json={**REQUEST, "prompt": "a dog", "duration": 2})).json()
        await wait_for_status(service, waiting["job_id"], "processing")
        assert await read_states(service) == [["submitted", "1"], ["stored", "1"]]
        assert await read_figures(service) == {"spent today": "$0.30", "spent this month": "$0.30", "reserved": "$0.60"}


async def test_what_fallbacks_have_given_up_is_shown(environment: Path, provider: Emulator) -> None:
    async with run_service() as service:
        page = (await service.client.get("/status")).text
        assert "No video of this month differs from its request." in page
        (session,) = service.app.state.sessions.sessions
        changes = "duration: 8 became <4>"
        wanted = [a_request(number, degraded=changes if number else None) for number in range(3)]
        await session.ledger.claims.claim(wanted)
        page = (await service.client.get("/status")).text
        assert "2 videos of this month, by fallbacks" in page
        assert page.count("duration: 8 became &lt;4&gt;") == 2


async def read_accounts(service: Service) -> list[list[str]]:
    """Read the rows of the table of accounts, as text."""
    return await read_table(service, "Plans and quotas")


async def read_states(service: Service) -> list[list[str]]:
    """Read the rows of the table of jobs by their state, as text."""
    return await read_table(service, "Jobs of this month")


async def read_figures(service: Service) -> dict[str, str]:
    """Read the figures of money at the top of the page."""
    page = (await service.client.get("/status")).text
    figures = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    return {name: figures[name] for name in ("spent today", "spent this month", "reserved")}


async def read_table(service: Service, title: str) -> list[list[str]]:
    """Read the rows of the table below a title, as text."""
    page = (await service.client.get("/status")).text
    table = page.partition(title)[2].partition("<tbody>")[2].partition("</tbody>")[0]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in table.split("</tr>")[:-1]]
    return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in row] for row in cells]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_browser_shows_it_and_loads_nothing(environment: Path, provider: Emulator, scheme: str) -> None:
    provider.add_fault(operation="submit", kind="reset_after")
    provider.add_fault(operation="list", kind="list_off", times=None)
    async with run_service() as service:
        for prompt in HOSTILE[:2]:
            await service.client.post("/v1/jobs", json={**REQUEST, "prompt": prompt})
        async with await open_environment_session() as session:
            (job, *_) = await session.ledger.jobs.find()
            await session.ledger.jobs.hold(job.id, HOSTILE[1])
        printed, requested = await _look(service.url, scheme)
    assert printed == []
    assert requested == [f"{service.url}/status"]


async def _look(url: str, scheme: str) -> tuple[list[str], list[str]]:
    """Open the page as its reader does; return what it printed, and what it requested."""
    printed: list[str] = []
    requested: list[str] = []
    async with playwright.async_playwright() as browsers:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await browsers.chromium.launch(executable_path=find_chromium(browsers), args=options)
        credentials = {"username": "any", "password": TOKEN, "send": "always"}
        context = await browser.new_context(
            http_credentials=credentials, color_scheme=scheme, viewport={"width": 1280, "height": 900}
        )
        page: Any = await context.new_page()
        page.on("console", lambda message: printed.append(message.text))
        page.on("pageerror", lambda error: printed.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        await page.goto(f"{url}/status")
        assert await page.get_by_role("heading", level=1).text_content() == "Status"
        assert await page.get_by_role("row", name="sora in use").count() == 1
        assert await page.locator(".issues").inner_text() != ""
        assert await page.evaluate("window.attacked") is None
        found = (await axe.Axe().run(page)).response
        assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found["violations"]] == []
        await page.set_viewport_size({"width": 360, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth <= 360")
        await browser.close()
    return printed, [address for address in requested if not address.startswith("data:")]
