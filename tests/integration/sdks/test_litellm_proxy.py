"""A real LiteLLM proxy in front of the emulator: what it answers, and what our profile makes of it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from prefect_video import HeldForReview, RequestRejected, Shot
from prefect_video.downloads import LinkPolicy, download, open_download_client, probe
from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.errors import AuthenticationFailed, SubmitOutcomeUnknown
from prefect_video.generations import Status
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.openai import OpenAIProvider
from prefect_video.providers.openai.responses import unwrap_id

CHOSEN = os.environ.get("PREFECT_VIDEO_TEST_LITELLM_PYTHON")
PYTHON = Path(CHOSEN or Path(__file__).parents[3] / ".venv-litellm/bin/python")
"""Interpreter that has `litellm[proxy]`, whose pins do not fit beside the versions that our users get."""

pytestmark = pytest.mark.skipif(
    not CHOSEN and not PYTHON.exists(), reason="`make test-litellm` makes the environment of the proxy"
)

ENVIRONMENT = {
    # It downloads nothing, and anything that it tried to send elsewhere would end at a closed port.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "HF_HUB_OFFLINE": "1",
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9"),
    "NO_PROXY": "127.0.0.1",
}
MASTER_KEY = "sk-master-of-the-proxy"
SHOT = Shot(id="a", prompt="a red balloon", duration=4, size="720x1280")
CONFIG = """
model_list:
  - model_name: sora-2
    litellm_params: {{model: openai/sora-2, api_base: "{api}", api_key: {key}}}
router_settings: {{num_retries: {retries}}}
general_settings: {{master_key: {master}}}
"""


class Proxy:
    """A running proxy, and the emulator behind it."""

    def __init__(self, emulator: Emulator, port: int) -> None:
        self.emulator = emulator
        self.url = f"http://127.0.0.1:{port}/v1"

    def provider(self, key: str = MASTER_KEY) -> OpenAIProvider:
        settings = HttpSettings(attempts=1, submit_timeout_seconds=30)
        return OpenAIProvider(api_key=key, base_url=self.url, profile="litellm", settings=settings)


@contextmanager
def run_proxy(folder: Path, *, retries: int) -> Iterator[Proxy]:
    """Run a proxy in a process of its own, with an emulator behind it; starting it takes half a minute."""
    with Emulator(EmulatorSettings(port=0, speed=200, render="plate")) as emulator:
        config = CONFIG.format(api=f"{emulator.url}/v1", key=emulator.key, retries=retries, master=MASTER_KEY)
        (folder / "config.yaml").write_text(config)
        with httpx.Client(trust_env=False) as client:
            port = _free_port()
            arguments = ["--config", str(folder / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)]
            process = subprocess.Popen(
                [PYTHON, "-c", "from litellm import run_server; run_server()", *arguments],
                env={name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
                | ENVIRONMENT,
                stdout=(folder / "log").open("wb"),
                stderr=subprocess.STDOUT,
                cwd=folder,
            )
            try:
                _wait_until_ready(client, port, process, folder / "log")
                yield Proxy(emulator, port)
            finally:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Run the proxy as the providers page asks for."""
    with run_proxy(tmp_path_factory.mktemp("proxy"), retries=0) as running:
        yield running


@pytest.fixture
def retrying_proxy(tmp_path: Path) -> Iterator[Proxy]:
    """Run a proxy that sends a failed submit again."""
    with run_proxy(tmp_path, retries=1) as running:
        yield running


def _free_port() -> int:
    import socket

    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return int(probe_socket.getsockname()[1])


def _wait_until_ready(client: httpx.Client, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if client.get(f"http://127.0.0.1:{port}/health/readiness").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-2000:])


@pytest.mark.timeout(1200)
async def test_a_video_through_the_proxy(proxy: Proxy, tmp_path: Path) -> None:
    provider = proxy.provider()
    await provider.check_access()
    accepted = await provider.submit(SHOT, idempotency_key="k", project="film")
    proxy.emulator.wait_until_idle()
    done = await provider.retrieve(accepted.id)
    assert (done.id, done.status, done.prompt) == (accepted.id, Status.COMPLETED, None)
    async with open_download_client() as client:
        policy = LinkPolicy(trusted_host="127.0.0.1")
        got = await download(provider.download_source(done), tmp_path / "v.mp4", client=client, policy=policy)
    assert probe(got.path).duration_seconds == pytest.approx(4, abs=0.1)
    # The id that the console of the server behind it shows, wrapped by us.
    wrapped = provider.qualify_id(unwrap_id(accepted.id), SHOT)
    assert wrapped != accepted.id
    assert (await provider.retrieve(wrapped)).status is Status.COMPLETED
    await provider.aclose()


@pytest.mark.timeout(1200)
async def test_it_lists_nothing_so_that_an_unanswered_submit_is_held(proxy: Proxy) -> None:
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {MASTER_KEY}"}) as client:
        assert (await client.get(f"{proxy.url}/videos")).status_code == 400
    provider = proxy.provider()
    with pytest.raises(HeldForReview, match="litellm does not list its generations"):
        await provider.find_unclaimed(SHOT, idempotency_key="k", sent_at=datetime.now(UTC), known={})
    await provider.aclose()


async def count_accepted_of_one_submit(proxy: Proxy) -> int:
    """Submit once to a server that accepts and then answers an error; return how many generations it has accepted."""
    accepted: int = proxy.emulator.usage()["accepted"]
    proxy.emulator.add_fault(operation="submit", kind="error_after", times=None)
    provider = proxy.provider()
    with pytest.raises(SubmitOutcomeUnknown):
        await provider.submit(SHOT, idempotency_key="k", project="film")
    proxy.emulator.clear_faults()
    await provider.aclose()
    after: int = proxy.emulator.usage()["accepted"]
    return after - accepted


@pytest.mark.timeout(1200)
async def test_without_retries_a_submit_that_the_server_fails_is_sent_on_once(proxy: Proxy) -> None:
    assert await count_accepted_of_one_submit(proxy) == 1


@pytest.mark.timeout(1200)
async def test_each_retry_of_the_proxy_may_be_paid_at_the_server_behind_it(retrying_proxy: Proxy) -> None:
    # What `num_retries: 0` of the providers page is for: we have sent one request, and see one error.
    assert await count_accepted_of_one_submit(retrying_proxy) == 2


@pytest.mark.timeout(1200)
async def test_its_many_lines_are_cut_to_the_cause(proxy: Proxy) -> None:
    provider = proxy.provider()
    with pytest.raises(RequestRejected, match="both sides must be even") as caught:
        await provider.submit(SHOT.model_copy(update={"size": "721x1280"}), idempotency_key="k", project="film")
    assert "\n" not in str(caught.value)
    assert caught.value.accepted is False
    await provider.aclose()


@pytest.mark.timeout(1200)
async def test_a_wrong_key_is_reported(proxy: Proxy) -> None:
    provider = proxy.provider("sk-another")
    with pytest.raises(AuthenticationFailed):
        await provider.check_access()
    await provider.aclose()
