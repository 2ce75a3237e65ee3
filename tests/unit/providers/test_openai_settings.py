"""Servers of the OpenAI dialect from the environment and from blocks, and where a key may go."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_video.blocks import OpenAICredentials
from prefect_video.errors import InvalidInput
from prefect_video.providers import Provider
from prefect_video.providers.openai.provider import OpenAIProvider
from prefect_video.providers.registry import open_provider, provider_names
from prefect_video.session import NameResolver, SessionRef, open_session
from prefect_video.shots import Shot

SHOT = Shot(id="a", prompt="a cat", duration=4, resolution="720p")


def open_openai(name: str, **environ: str) -> OpenAIProvider:
    provider = open_provider(name, environ)
    assert isinstance(provider, OpenAIProvider)
    return provider


def test_every_profile_is_a_provider_by_name() -> None:
    assert {"openai", "vllm_omni", "sglang", "trtllm", "litellm"} <= set(provider_names())
    for name, prefix in (("vllm_omni", "VLLM_OMNI"), ("sglang", "SGLANG"), ("trtllm", "TRTLLM")):
        provider = open_openai(name, **{f"{prefix}_BASE_URL": "http://gpu-1:8000/v1/"})
        assert (provider.name, provider.account.base_url) == (name, "http://gpu-1:8000/v1")


def test_openai_itself_needs_a_key_only() -> None:
    assert open_openai("openai", OPENAI_API_KEY="sk-1").account.base_url == "https://api.openai.com/v1"
    with pytest.raises(InvalidInput, match="set OPENAI_API_KEY, or name a saved openai-credentials block"):
        open_openai("openai")


def test_the_profile_may_be_chosen_by_a_variable() -> None:
    chosen = {"OPENAI_BASE_URL": "http://gpu-1:8000/v1", "PREFECT_VIDEO_OPENAI_PROFILE": "vllm_omni"}
    assert open_openai("openai", **chosen).name == "vllm_omni"
    with pytest.raises(InvalidInput, match="profile 'vllm' is not known; choose one of generic, vllm_omni"):
        open_openai("openai", PREFECT_VIDEO_OPENAI_PROFILE="vllm")


@pytest.mark.parametrize("name", ["vllm_omni", "sglang", "trtllm", "litellm"])
def test_openais_key_opens_no_other_server(name: str) -> None:
    foreign = {"OPENAI_API_KEY": "sk-openai", f"{name.upper()}_BASE_URL": "http://gpu-1:8000/v1"}
    if name == "litellm":
        with pytest.raises(InvalidInput, match="set LITELLM_API_KEY"):
            open_openai(name, **foreign)
        return
    keyless = open_openai(name, **{f"{name.upper()}_BASE_URL": "http://gpu-1:8000/v1"})
    assert open_openai(name, **foreign).account == keyless.account
    with pytest.raises(InvalidInput, match=f"{name.upper()}_BASE_URL"):
        open_openai(name, OPENAI_BASE_URL="http://gpu-1:8000/v1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"api_key": "sk 1"}, "openai API key"),
        ({"api_key": "sk-1", "base_url": "gpu-1:8000"}, "openai base URL"),
        ({"api_key": "sk-1", "base_url": "https://sk-1@host/v1"}, "openai base URL"),
    ],
)
def test_what_cannot_be_used_is_reported_without_the_key(given: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        OpenAIProvider(**given)  # type: ignore[arg-type]
    assert "sk" not in str(refused.value).replace("base URL", "")


def build_block(**fields: Any) -> OpenAICredentials:
    return OpenAICredentials(**fields)


def test_a_block_opens_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    assert build_block().get_client().account == OpenAIProvider(api_key="sk-environment").account
    at_home = build_block(base_url="http://gpu-1:8000/v1", profile="vllm_omni", usd_per_second=Decimal("0.02"))
    provider = at_home.get_client()
    assert provider.account == OpenAIProvider(base_url="http://gpu-1:8000/v1", profile="vllm_omni").account
    assert provider.estimate(SHOT) == Decimal("0.08")
    assert "sk-secret" not in repr(build_block(api_key=SecretStr("sk-secret")))
    settings = build_block(environment="staging", max_in_flight=2, on_lost="resubmit").session_overrides()
    assert (settings["environment"], settings["max_in_flight"], settings["on_lost"]) == ("staging", 2, "resubmit")
    assert settings["breaker_failures"] is None, "the environment's counts"
    strict = {"breaker_failures": 2, "breaker_seconds": 10.0, "on_open": "fail"}
    strict |= {"deadline_seconds": 60.0, "on_deadline": "hold"}
    assert strict.items() <= build_block(**strict).session_overrides().items()


async def test_a_block_decides_what_its_sessions_do_with_a_video_that_is_not_as_requested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_VIDEO_ON_MISMATCH", raising=False)

    class OneBlock(NameResolver):
        """A resolver of one block, whatever it is called."""

        def __init__(self, block: OpenAICredentials) -> None:
            self._block = block

        async def provider(self, name: str) -> tuple[Provider, Mapping[str, Any]]:
            """Open the provider of the block."""
            return self._block.open(), self._block.session_overrides()

    ref = SessionRef.from_names("openai", str(tmp_path / "videos"), f"sqlite:///{tmp_path / 'ledger.db'}")
    for fields, expected in (({"on_mismatch": "accept"}, "accept"), ({}, "hold")):
        block = build_block(api_key=SecretStr("sk-1"), **fields)
        async with await open_session(ref, resolver=OneBlock(block)) as session:
            assert session.settings.on_mismatch == expected


def test_a_block_takes_the_secret_that_is_being_rotated_out() -> None:
    rotating = build_block(webhook_secret=SecretStr("new"), previous_webhook_secret=SecretStr("old"))
    assert rotating.webhook_secrets("environment") == ("new", "old")
    assert build_block().webhook_secrets("environment") == ("environment",)
