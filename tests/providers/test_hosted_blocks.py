"""The credentials blocks of the hosts: what they open, and that they keep their keys to themselves."""

from decimal import Decimal

import pytest

from prefect_video import InvalidInput, Shot
from prefect_video.blocks import FalCredentials, OpenRouterCredentials, ReplicateCredentials
from prefect_video.blocks.accounts import ProviderCredentials

KEY = "sk-very-secret"
BLOCKS: dict[type[ProviderCredentials], str] = {
    OpenRouterCredentials: "OPENROUTER_API_KEY",
    FalCredentials: "FAL_KEY",
    ReplicateCredentials: "REPLICATE_API_TOKEN",
}


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


def test_a_deadline_reaches_replicate() -> None:
    with pytest.raises(ValueError, match="cancel_after_seconds"):
        ReplicateCredentials(cancel_after_seconds=4)
    ReplicateCredentials(api_key=KEY, cancel_after_seconds=60).get_client()
