"""The credentials blocks of the hosts: what they open, and that they keep their keys to themselves."""

import ast
import builtins
import inspect
import json
import subprocess
import sys
import textwrap
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from pydantic import SecretStr

from prefect_video import InvalidInput, Project, Shot, blocks, fingerprint
from prefect_video.blocks import (
    FalCredentials,
    OpenAICredentials,
    OpenRouterCredentials,
    ReplicateCredentials,
    SoraCredentials,
)
from prefect_video.blocks.base import ProviderCredentials
from prefect_video.ledger import Ledger
from prefect_video.pipeline.steps import build_project_job_requests
from prefect_video.providers import open_provider
from prefect_video.session import Session
from prefect_video.storage import open_store

KEY = "sk-very-secret"
BLOCKS: dict[type[ProviderCredentials], str] = {
    OpenRouterCredentials: "OPENROUTER_API_KEY",
    FalCredentials: "FAL_KEY",
    ReplicateCredentials: "REPLICATE_API_TOKEN",
}
SORA_2: dict[type[ProviderCredentials], tuple[str, str]] = {
    OpenRouterCredentials: ("openrouter", "openai/sora-2"),
    FalCredentials: ("fal", "fal-ai/sora-2/text-to-video"),
    ReplicateCredentials: ("replicate", "openai/sora-2"),
}
"""The hosts' names, and what `sora-2` means there to everybody."""


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
async def test_a_block_opens_its_provider(block: type[ProviderCredentials], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BLOCKS[block], raising=False)
    with pytest.raises(InvalidInput, match=BLOCKS[block]):
        block().get_client()
    given = block(api_key=KEY, usd_per_second=Decimal("0.5"), models={"sora-2": "a/b"})  # type: ignore[call-arg]
    provider = given.get_client()
    assert provider.estimate(Shot(id="a", prompt="a cat", duration=4)) == 2
    assert KEY not in f"{given!r} {given.model_dump_json()} {provider!r} {provider.account!r}"
    monkeypatch.setenv(BLOCKS[block], KEY)
    assert block().get_client().account == provider.account
    await provider.aclose()


@pytest.mark.parametrize(
    ("block", "address", "variable", "own"),
    [
        (FalCredentials, "queue_url", "FAL_QUEUE_URL", "https://queue.fal.run"),
        (OpenRouterCredentials, "base_url", "OPENROUTER_BASE_URL", "https://openrouter.ai/api/v1"),
        (ReplicateCredentials, "base_url", "REPLICATE_BASE_URL", "https://api.replicate.com/v1"),
    ],
)
def test_the_environments_key_goes_to_the_address_that_it_is_meant_for_only(
    block: type[ProviderCredentials], address: str, variable: str, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BLOCKS[block], KEY)
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InvalidInput, match=f"api_key on the block: {BLOCKS[block]} is not meant for its address"):
        block(**{address: "http://elsewhere.example/v1"}).get_client()
    assert block(**{address: f"{own}/"}).get_client().account.base_url == own
    assert block(api_key=KEY, **{address: "http://elsewhere.example/v1"}).get_client()  # type: ignore[arg-type]
    monkeypatch.setenv(variable, "http://elsewhere.example" + ("" if block is ReplicateCredentials else "/v1"))
    assert block().get_client().account.base_url == "http://elsewhere.example/v1"
    assert block(**{address: "http://elsewhere.example/v1"}).get_client().account == block().get_client().account
    with pytest.raises(InvalidInput, match="not meant for its address"):
        block(**{address: own}).get_client()


def test_a_sora_key_is_not_sent_to_another_endpoint_than_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORA_API_KEY", KEY)
    monkeypatch.delenv("SORA_API_ENDPOINT", raising=False)
    assert SoraCredentials(endpoint="http://host/v1").get_client()
    monkeypatch.setenv("SORA_API_ENDPOINT", "http://other/v1")
    with pytest.raises(InvalidInput, match="set api_key"):
        SoraCredentials(endpoint="http://host/v1").get_client()


def test_secrets_that_are_being_rotated_are_several_as_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (OpenRouterCredentials(), ReplicateCredentials(), OpenAICredentials(), SoraCredentials()):
        assert block.webhook_secrets("new,old") == ("new", "old")
    both = OpenRouterCredentials(webhook_secret=SecretStr("new"), previous_webhook_secret=SecretStr("old"))
    assert both.webhook_secrets("environment") == ("new", "old")


def test_a_deadline_reaches_replicate() -> None:
    with pytest.raises(ValueError, match="cancel_after_seconds"):
        ReplicateCredentials(cancel_after_seconds=4)
    ReplicateCredentials(api_key=KEY, cancel_after_seconds=60).get_client()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
async def test_an_alias_makes_another_video(block: type[ProviderCredentials], tmp_path: Path) -> None:
    shot = Shot(id="a", prompt="a cat", model="sora-2", duration=8, resolution="720p")

    async def hashed(models: dict[str, str]) -> str:
        provider = block(api_key=KEY, models=models).get_client()  # type: ignore[call-arg]
        ledger = await Ledger.open(str(tmp_path / "ledger.db"))
        store = tmp_path.as_uri()
        async with Session(provider=provider, ledger=ledger, store=open_store(store), store_name=store) as session:
            (job_request,) = await build_project_job_requests(session, Project(name="film", shots=(shot,)))
            return job_request.fingerprint

    name, known = SORA_2[block]
    as_ever = fingerprint(shot, provider=name)
    assert await hashed({}) == await hashed({"other": "a/b"}) == await hashed({"sora-2": known}) == as_ever
    assert await hashed({"sora-2": "a/b"}) == fingerprint(shot.model_copy(update={"model": "a/b"}), provider=name)


def test_an_account_is_its_name_at_an_address_and_else_its_key() -> None:
    def account_id(api_key: str = KEY, *, saved_as: str | None = None, **fields: Any) -> str:
        block = SoraCredentials(**{"api_key": api_key, "endpoint": "http://host/v1/sora", **fields})
        block._block_document_name = saved_as
        return block.open().account.id

    named = account_id(saved_as="main")
    assert named == account_id("sk-another", saved_as="main") == account_id("sk-another", account="main")
    assert named == account_id("sk-another", previous_api_key=KEY, saved_as="main")
    others = {account_id(), account_id("sk-another"), account_id(saved_as="other")}
    others |= {account_id(endpoint="http://emulator/v1/sora", saved_as="main")}
    assert len({named, *others}) == 5
    environ = {"SORA_API_KEY": KEY, "SORA_API_ENDPOINT": "http://host/v1/sora"}
    assert account_id() == open_provider("sora", environ).account.id


def test_both_keys_of_a_rotation_stay_secret_and_the_environments_are_named() -> None:
    environ = {
        "SORA_API_KEY": KEY,
        "SORA_API_KEY_PREVIOUS": "sk-former",
        "SORA_API_ENDPOINT": "http://host/v1/sora",
        "PREFECT_VIDEO_ACCOUNT": "main",
    }
    from_environment = open_provider("sora", environ).account
    keys = {"api_key": SecretStr(KEY), "previous_api_key": SecretStr("sk-former")}
    block = SoraCredentials(**keys, endpoint="http://host/v1/sora", account="main")
    provider = block.open()
    assert provider.account == from_environment
    shown = f"{block!r} {block.model_dump_json()} {provider!r} {provider.account!r}"
    assert [key for key in (KEY, "sk-former") if key in shown] == []
    with pytest.raises(InvalidInput, match="account"):
        open_provider("sora", {**environ, "PREFECT_VIDEO_ACCOUNT": "Not A Name"})


FIRST_FIELDS = {
    "FalCredentials": ("api_key", "queue_url", "max_in_flight"),
    "OpenAICredentials": ("api_key", "base_url", "profile", "max_in_flight"),
    "OpenRouterCredentials": ("api_key", "base_url", "max_in_flight"),
    "ReplicateCredentials": ("api_key", "base_url", "max_in_flight"),
    "SoraCredentials": ("api_key", "endpoint", "plan", "max_in_flight"),
    "VideoApiTokens": ("tokens",),
    "VideoLedger": ("url", "monthly_usd", "monthly_videos"),
    "VideoStore": ("url", "key", "secret", "endpoint_url"),
}


def unknown_names(code: str) -> set[str]:
    """Return the names that a script reads and neither imports nor assigns."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    imports = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    assigned = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return read - assigned - {alias.asname or alias.name for alias in imports} - set(dir(builtins))


@pytest.mark.parametrize("name", blocks.__all__)
def test_a_block_shows_what_matters_first_and_an_example_that_runs_as_it_stands(name: str) -> None:
    block = getattr(blocks, name)
    fields = list(block.model_json_schema()["properties"])
    assert set(fields) == set(block.model_fields)
    assert tuple(fields[: len(FIRST_FIELDS[name])]) == FIRST_FIELDS[name]
    example = block.get_code_example()
    assert example is not None
    code = textwrap.dedent(example.partition("```python\n")[2].partition("```")[0])
    assert f"from prefect_video.blocks import {name}" in code
    assert unknown_names(code) == set()


CATALOG = """
import importlib.metadata, json, sys
from email.message import Message

metadata = importlib.metadata.metadata

def replaced(name):
    if name != "prefect-video":
        return metadata(name)
    found = Message()
    if len(sys.argv) > 1:
        found["Project-URL"] = f"Repository, {sys.argv[1]}"
    return found

importlib.metadata.metadata = replaced
from prefect_video import blocks

types = {name: getattr(blocks, name)._to_block_type() for name in blocks.__all__}
addresses = {name: (kind.logo_url, kind.documentation_url) for name, kind in types.items()}
print(json.dumps({name: [found and str(found) for found in pair] for name, pair in addresses.items()}))
"""
"""Prints what Prefect is told of each block's logo and documentation, for a package built from a repository or not."""


def catalog_addresses(*repository: str) -> dict[str, list[str | None]]:
    command = [sys.executable, "-c", CATALOG, *repository]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(json.loads(found.splitlines()[-1]))


def test_the_catalog_shows_the_logo_and_the_page_of_the_repository_that_was_built() -> None:
    repository, root = "https://git.example.com/films/a", Path(__file__).parents[3]
    found = catalog_addresses(repository)
    assert set(found) == set(blocks.__all__)
    pages = ("raw/HEAD/docs/images/logo.png", "blob/HEAD/docs/reference/prefect.md")
    assert {tuple(addresses) for addresses in found.values()} == {tuple(f"{repository}/{page}" for page in pages)}
    assert all((root / page.partition("HEAD/")[2]).is_file() for page in pages)


def test_the_catalog_shows_nobody_elses_logo_where_the_repository_is_unknown() -> None:
    assert catalog_addresses() == {name: [None, None] for name in blocks.__all__}


def test_the_catalog_shows_what_can_be_saved_and_no_abstract_base() -> None:
    # The classes that `prefect block register -m prefect_video.blocks` takes.
    registered = {name for name, value in inspect.getmembers(blocks) if value and Block.is_block_class(value)}
    assert registered == set(blocks.__all__)
    assert not any(inspect.isabstract(getattr(blocks, name)) for name in registered)
