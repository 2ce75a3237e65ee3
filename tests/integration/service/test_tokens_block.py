"""Tokens of a saved block: what they allow, and that a changed block counts without a restart."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_video.blocks import VideoApiTokens
from prefect_video.emulator import Emulator
from prefect_video.errors import InvalidInput
from prefect_video.service import ServiceSettings, create_token, open_tokens, token_source
from prefect_video.service.api_tokens import ApiToken, describe_token
from tests.support.service_fixtures import Service, run_service
from tests.unit.service.test_jobs import REQUEST

NAME = "t"
BLOCK = f"video-api-tokens/{NAME}"
SETTINGS: dict[str, Any] = {"tokens_block": BLOCK, "api_token": None, "announce": False}


async def save_block(text: str) -> None:
    await VideoApiTokens(tokens=text).save(NAME, overwrite=True)  # type: ignore[arg-type, misc]


async def save_tokens(*entries: ApiToken) -> None:
    await save_block(yaml.safe_dump({"tokens": [describe_token(entry) for entry in entries]}))


async def ask(service: Service, text: str) -> int:
    """List the jobs with a token, and return the status of the answer."""
    headers = {"Authorization": f"Bearer {text}"}
    return (await service.client.get("/v1/jobs", headers=headers)).status_code


async def wait_for_answer(service: Service, text: str, status: int) -> None:
    """Wait until a token is answered with a status."""
    async with asyncio.timeout(60):
        while await ask(service, text) != status:
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("prefect_api")
async def test_the_tokens_of_a_block_allow_what_they_say(environment: Path, provider: Emulator) -> None:
    text, entry = create_token("writer", ["submit"])
    await save_tokens(entry)
    async with run_service(**SETTINGS) as service:
        headers = {"Authorization": f"Bearer {text}"}
        job = await service.client.post("/v1/jobs", json=REQUEST, headers=headers)
        assert (job.status_code, job.json()["requester"]) == (202, "writer"), job.text
        assert await ask(service, text) == 403
        assert await ask(service, "pv_another") == 401


@pytest.mark.usefixtures("prefect_api")
async def test_a_block_of_tokens_that_cannot_be_used_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"tokens_block: .*none-such"):
        await open_tokens(ServiceSettings(tokens_block="video-api-tokens/none-such"))
    text, entry = create_token("default", ["read"])
    await save_tokens(entry)
    with pytest.raises(InvalidInput, match="tokens_block: the name 'default' belongs to another token"):
        await open_tokens(ServiceSettings(tokens_block=BLOCK, api_token=text))  # type: ignore[arg-type]


@pytest.mark.usefixtures("prefect_api")
async def test_a_changed_block_counts_without_a_restart_and_a_broken_one_changes_nothing(
    environment: Path, provider: Emulator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = token_source._load_block
    reads: list[str] = []

    async def counted(name: str) -> tuple[ApiToken, ...]:
        reads.append(name)
        return await load(name)

    monkeypatch.setattr(token_source, "_load_block", counted)
    first, first_entry = create_token("first", ["read"])
    second, second_entry = create_token("second", ["read"])
    third, third_entry = create_token("third", ["read"])
    await save_tokens(first_entry)
    async with run_service(**SETTINGS, reload_seconds=0.05) as service:
        assert await ask(service, first) == 200
        await save_tokens(second_entry)
        await wait_for_answer(service, first, 401)
        assert await ask(service, second) == 200
        with caplog.at_level(logging.ERROR, "prefect_video.service.token_source"):
            await save_block("tokens: 5")
            async with asyncio.timeout(60):
                # The first of them may have begun before that.
                last = len(reads) + 4
                while len(reads) < last:
                    await asyncio.sleep(0.02)
            assert await ask(service, second) == 200
            await save_tokens(second_entry, third_entry)
            await wait_for_answer(service, third, 200)
            # To delete the block is to revoke all of its tokens.
            await VideoApiTokens.adelete(BLOCK.split("/")[1])
            await wait_for_answer(service, third, 401)
        line, gone = caplog.messages
    assert gone.endswith("; its tokens do not count any more")
    assert line.startswith(f"the tokens stay as they were: {BLOCK}: tokens: ")
