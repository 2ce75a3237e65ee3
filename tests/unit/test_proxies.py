"""Proxies of the environment work, or one line names the variable."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from prefect_video._proxies import check_proxies, exempt_loopback
from prefect_video._tls import trusted_certificates
from prefect_video.cli import prefect_startup
from prefect_video.downloads import open_download_client
from prefect_video.errors import InvalidInput
from prefect_video.providers.sora.provider import SoraProvider
from tests.support.cli_fixtures import InProcess, call, environment, quick_emulator
from tests.support.recovery import RecoveryHarness, a_shot, statuses
from tests.support.recovery_fixtures import harness, open_harness
from tests.support.socks_server import serve_socks

__all__ = ["call", "environment", "harness", "open_harness", "quick_emulator"]

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        # Set first, so that what the code itself sets is undone too.
        for variable in (name, name.upper()):
            monkeypatch.setenv(variable, "")
            monkeypatch.delenv(variable)


async def test_a_shot_is_made_through_a_socks_proxy(harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_socks() as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)
    assert proxy.targets


@pytest.mark.parametrize(
    ("exempt", "is_direct"), [("127.1.2.3/8", True), ("10.0.0.0/8,127.0.0.0/30", True), ("10.0.0.0/8", False)]
)
async def test_a_range_of_addresses_is_reached_without_the_proxy(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch, exempt: str, is_direct: bool
) -> None:
    with serve_socks() as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", exempt)
        assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)
    # The requests of the API and the download alike.
    assert (not proxy.targets) == is_direct


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NO_PROXY", "localhost,[::1]"),
        ("NO_PROXY", "fd00::/8"),
        ("no_proxy", "::ffff:0:0/96,localhost"),
        ("ALL_PROXY", "socks4://user:hush@proxy:1080"),
        ("HTTPS_PROXY", "http://user:hush@[::1"),
        ("http_proxy", "http://user:hush@proxy:port"),
    ],
)
def test_one_line_names_the_variable_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:3128")
    monkeypatch.setenv(variable, value)
    with pytest.raises((httpx.InvalidURL, ValueError)):
        httpx.AsyncClient(verify=trusted_certificates())
    for opens in (
        open_download_client,
        lambda: SoraProvider(api_key="k", endpoint="http://127.0.0.1:1", plan="emulator"),
    ):
        with pytest.raises(InvalidInput, match=rf"^{variable}\b") as caught:
            opens()
        assert "\n" not in str(caught.value)
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize("value", ["*", "10.0.0.0/8,.corp,host:80,::1,fe80::1, 127.0.0.1 ,http://x.y", ""])
def test_what_the_client_understands_passes(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("NO_PROXY", value)
    for proxy in ("http://127.0.0.1:3128", "127.0.0.1:3128", "socks5h://user:word@proxy:1080", "https://[::1]:3128"):
        monkeypatch.setenv("ALL_PROXY", proxy)
        check_proxies()
        httpx.AsyncClient(verify=trusted_certificates())


def test_the_commands_reach_their_own_servers_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    exempt_loopback()
    assert "NO_PROXY" not in os.environ
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", ".corp, [::1]")
    exempt_loopback()
    check_proxies()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == ".corp,::1,localhost,127.0.0.1"
    exempt_loopback()
    assert os.environ["no_proxy"] == ".corp,::1,localhost,127.0.0.1"


def test_a_range_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/33")
    with pytest.raises(InvalidInput, match=r"^NO_PROXY: '10\.0\.0\.0/33' is not understood: .*10\.0\.0\.0/8"):
        check_proxies()


@pytest.mark.parametrize("was_reached", [False, True])
def test_doctor_names_the_variable(call: InProcess, monkeypatch: pytest.MonkeyPatch, was_reached: bool) -> None:
    if was_reached:
        # A command of this process has used Prefect before the variable was set.
        monkeypatch.setattr(prefect_startup, "_reach_api", lambda: None)
        monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:3128")
    monkeypatch.setenv("NO_PROXY", "fd00::/8")
    answer = call("doctor", "--json")
    assert answer.status == 1
    fixes = [check["fix"] for check in answer.json["checks"] if not check["ok"]]
    assert fixes
    assert all(fix.startswith(("no_proxy:", "NO_PROXY:")) for fix in fixes)
    assert "Traceback" not in answer.err


def test_a_command_that_opens_an_account_names_the_variable_in_one_line(
    call: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "fd00::/8")
    film = tmp_path / "film.yaml"
    film.write_text("project: film\nshots: [{id: a, prompt: a sea, duration: 1}]\n")
    for command in (("plan", film), ("run", film), ("serve", "--port", "0")):
        answer = call(*command)
        assert answer.status == 2
        (line,) = (line for line in answer.err.splitlines() if line.startswith("error: "))
        assert "no_proxy: 'fd00::/8' is not understood" in line.lower()
        assert "Traceback" not in answer.err
