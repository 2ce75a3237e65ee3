"""Webhook secrets as people paste them: cleaned and validated when they are read, and each tried."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook

from prefect_video.blocks import OpenAICredentials, SoraCredentials
from prefect_video.errors import InvalidInput
from prefect_video.providers import open_provider
from prefect_video.providers.webhook_signatures import raise_if_replayed, split_secrets, verify

SECRET = "whsec_" + base64.b64encode(b"a key of the account").decode()


def sign(body: bytes) -> dict[str, str]:
    now = datetime.now(UTC)
    signature = Webhook(SECRET).sign("msg_1", now, body.decode())
    return {"webhook-id": "msg_1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}


@pytest.mark.parametrize(
    "text", [f" {SECRET} ", f"{SECRET}\n", f'"{SECRET}"', f"'{SECRET}'", f'"{SECRET}, {SECRET}"', f",{SECRET}\r\n,"]
)
def test_what_copying_leaves_around_a_secret_is_left_out(text: str) -> None:
    assert set(split_secrets(text, named="OPENAI_WEBHOOK_SECRET", standard=True)) == {SECRET}


@pytest.mark.parametrize("text", ["whsec_", "whsec_hush!", "whsec_hush\u00e9", "two words", f"{SECRET},whsec_"])
def test_a_secret_that_cannot_be_one_is_named_by_its_variable_and_not_shown(text: str) -> None:
    environment = {"OPENAI_API_KEY": "sk-a", "OPENAI_WEBHOOK_SECRET": text}
    with pytest.raises(InvalidInput, match=r"^OPENAI_WEBHOOK_SECRET: .*copy it again") as caught:
        open_provider("openai", environment)
    assert "hush" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_block_names_the_field_of_a_bad_secret() -> None:
    block = OpenAICredentials(webhook_secret=SecretStr(SECRET), previous_webhook_secret=SecretStr("whsec_?"))
    with pytest.raises(InvalidInput, match="'previous_webhook_secret'"):
        block.webhook_secrets(standard=True)
    # Sora signs with the whole secret, prefix included.
    assert SoraCredentials(webhook_secret=SecretStr(" whsec_? ")).webhook_secrets() == ("whsec_?",)


@pytest.mark.parametrize("bad", ["whsec_", "whsec_?", ""])
def test_a_malformed_secret_hides_no_good_one_and_lets_nothing_in(bad: str) -> None:
    headers = sign(b"{}")
    assert verify(headers, b"{}", [bad, SECRET]).id == "msg_1"
    with pytest.raises(InvalidInput, match="not base64"):
        verify(headers, b"{}", [bad])


def test_a_time_beyond_all_numbers_is_refused() -> None:
    with pytest.raises(InvalidInput, match="replay"):
        raise_if_replayed(10**400)
