"""Answers to a submit that name a generation, whatever else they say: each is paid once, by the provider's usage."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from prefect_video.ledger import State
from prefect_video.ledger.tables import jobs_table
from prefect_video.providers.base import Provider
from prefect_video.providers.openai.provider import OpenAIProvider
from prefect_video.providers.openrouter.provider import OpenRouterProvider
from prefect_video.providers.replicate.provider import ReplicateProvider
from prefect_video.providers.sora.provider import SoraProvider
from tests.support.recovery import QUICK, RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenHarness
from tests.support.rewriting import Rewrite, RewritingTransport

Answer = Callable[[dict[str, Any]], tuple[int, Any]]
"""Function from the job that the emulator has accepted to the answer that is passed on."""

REFUSALS: dict[str, tuple[str, Answer]] = {
    "sora 429": ("sora", lambda job: (429, _sora_error("rate_limit_error", generation_id=job["id"]))),
    "sora 400": ("sora", lambda job: (400, _sora_error("invalid_request_error", generation_id=job["id"]))),
    "sora 400 beside": ("sora", lambda job: (400, {**_sora_error("invalid_request_error"), "id": job["id"]})),
    "openai 429": ("openai", lambda job: (429, {**job, "error": _openai_error("rate_limit_exceeded")})),
    "openai 400": ("openai", lambda job: (400, {**job, "error": _openai_error("invalid_request_error")})),
    "openai 400 job_id": (
        "openai",
        lambda job: (400, {"error": {**_openai_error("invalid_request_error"), "job_id": job["id"]}}),
    ),
    "openrouter 429": ("openrouter", lambda job: (429, {"error": {"code": 429, "message": "slow"}, "id": job["id"]})),
    "replicate 429": (
        "replicate",
        lambda job: (429, {"title": "Throttled", "detail": "too many", "status": 429, "id": job["id"]}),
    ),
}
UNREADABLE: dict[str, Answer] = {
    "200 id": lambda job: (200, {"id": job["id"]}),
    "200 id, status null": lambda job: (200, {"id": job["id"], "status": None}),
    "200 generation_id": lambda job: (200, {"generation_id": job["id"], "status": "queued"}),
    "504 generation_id": lambda job: (504, _sora_error("server_error", generation_id=job["id"])),
}


def _sora_error(kind: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"type": kind, "message": "slow down", "retry_after": 0.1, **fields}}


def _openai_error(kind: str) -> dict[str, Any]:
    return {"message": "slow down", "type": kind, "code": "x"}


def is_submit(request: httpx.Request) -> bool:
    return request.method == "POST" and not request.url.path.endswith("/cancel")


def is_list(request: httpx.Request) -> bool:
    return request.method == "GET" and request.url.path.endswith("/generations")


def is_read(request: httpx.Request) -> bool:
    return request.method == "GET" and "/generations/" in request.url.path


def answering(answer: Answer, *, listed: bool = False, status_of_read: int | None = None) -> Rewrite:
    """Return a relay that passes on another answer to the first submit.

    Args:
        answer: The answer to the submit.
        listed: Whether the list is whole; else it is empty.
        status_of_read: Status in place of a generation that is read; None where it can be read.
    """
    submits: list[str] = []

    def rewrite(request: httpx.Request, status: int, document: Any) -> tuple[int, Any]:
        if is_submit(request) and status < 300:
            submits.append(document["id"])
            return answer(document) if len(submits) == 1 else (status, document)
        if is_list(request) and not listed:
            return status, {**document, "data": [], "total_count": 0}
        if is_read(request) and status_of_read is not None:
            return status_of_read, _sora_error("not_found_error")
        return status, document

    return rewrite


def sora(rewrite: Rewrite) -> Callable[..., Provider]:
    def opened(**options: Any) -> Provider:
        return SoraProvider(**options, transport=RewritingTransport(rewrite))

    return opened


def opener(name: str, harness: RecoveryHarness, rewrite: Rewrite) -> Callable[..., Provider]:
    """Return the opener of a provider behind a relay."""
    emulator = harness.emulator
    common: dict[str, Any] = {"api_key": emulator.key, "settings": QUICK, "transport": RewritingTransport(rewrite)}
    models: dict[str, Any] = {"models": {"sora-2": "emulator/video"}}
    openers: dict[str, Callable[..., Provider]] = {
        "sora": sora(rewrite),
        "openai": lambda **_: OpenAIProvider(base_url=f"{emulator.url}/v1", profile="generic", **common),
        "openrouter": lambda **_: OpenRouterProvider(base_url=f"{emulator.url}/api/v1", **models, **common),
        "replicate": lambda **_: ReplicateProvider(base_url=f"{emulator.url}/replicate/v1", **models, **common),
    }
    return openers[name]


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_refusal_that_names_a_generation_is_no_refusal(harness: RecoveryHarness, case: str) -> None:
    name, answer = REFUSALS[case]
    report = await harness.run(a_shot(), kind=opener(name, harness, answering(answer, listed=True)))
    assert statuses(report) == ["stored"]
    assert harness.paid == (1, 1)
    assert harness.emulator.usage()["submitted"] == 1


async def test_a_refusal_that_names_its_request_is_a_refusal(harness: RecoveryHarness) -> None:
    def refuse(request: httpx.Request, status: int, document: Any) -> tuple[int, Any]:
        if status == 429:
            document["error"] |= {"request_id": "req_1", "id": "req_1"}
            document["request_id"] = "req_1"
        return status, document

    harness.emulator.add_fault(operation="submit", kind="rate_limited", retry_after=0.01)
    assert statuses(await harness.run(a_shot(), kind=sora(refuse))) == ["stored"]
    assert harness.paid == (1, 1)
    async with harness.ledger() as ledger:
        states = [step.to_state for step in await ledger.jobs.history((await harness.row()).id)]
    assert State.UNKNOWN not in states


@pytest.mark.parametrize("case", UNREADABLE)
async def test_the_generation_that_an_answer_names_is_read_before_the_list(harness: RecoveryHarness, case: str) -> None:
    assert statuses(await harness.run(a_shot(), kind=sora(answering(UNREADABLE[case])))) == ["stored"]
    assert harness.paid == (1, 1)


@pytest.mark.parametrize("on_unknown", ["hold", "resubmit"])
@pytest.mark.parametrize("case", UNREADABLE)
async def test_a_named_generation_that_cannot_be_read_is_held_and_never_bought_again(
    harness: RecoveryHarness, case: str, on_unknown: str
) -> None:
    relay = answering(UNREADABLE[case], status_of_read=404)
    for _ in range(2):
        report = await harness.run(a_shot(), kind=sora(relay), on_unknown=on_unknown)
        assert statuses(report) == ["held"]
    assert "named generation gen_" in str((await harness.row()).hold_reason)
    assert harness.paid[0] == 1
    assert harness.emulator.usage()["submitted"] == 1


async def test_the_id_that_an_answer_named_outlives_the_process(harness: RecoveryHarness) -> None:
    def out(request: httpx.Request, status: int, document: Any) -> tuple[int, Any]:
        return UNREADABLE["200 id"](document) if is_submit(request) else (503, _sora_error("server_error"))

    report = await harness.run(a_shot(), kind=sora(out), submit_patience_seconds=0.0, check_access=False)
    assert statuses(report) == ["failed"]
    assert (await harness.row()).state is State.UNKNOWN
    assert statuses(await harness.run(a_shot(), kind=sora(answering(UNREADABLE["200 id"])))) == ["stored"]
    assert harness.paid == (1, 1)
    assert harness.emulator.usage()["submitted"] == 1


async def test_a_named_generation_of_another_job_is_a_conflict(harness: RecoveryHarness) -> None:
    await harness.run(film(a_shot(7, prompt="a dog in the rain"), name="before"))
    taken = (await harness.row()).generation_id
    relay = answering(lambda _: (200, {"id": taken}))
    for _ in range(2):
        assert statuses(await harness.run(a_shot(), kind=sora(relay))) == ["held"]
    held = (await harness.rows())[-1]
    assert held.state is State.LOST
    assert str(taken) in str(held.hold_reason)
    assert harness.paid == (2, 2)


KEYS: dict[str, Callable[[str], str]] = {
    "mask": lambda _: "********-****-****-****-************",
    "mask with an end": lambda key: f"xxxxxxxx-xxxx-xxxx-xxxx-{key[-12:]}",
    "zeros": lambda _: str(uuid.UUID(int=0)),
    "namespaced": lambda key: str(uuid.uuid5(uuid.NAMESPACE_URL, key)),
    "without hyphens": lambda key: key.replace("-", ""),
}


def respelling(respell: Callable[[str], str]) -> Rewrite:
    """Return a relay that respells our key."""

    def rewrite(request: httpx.Request, status: int, document: Any) -> tuple[int, Any]:
        if is_read(request) and (key := (document.get("metadata") or {}).get("idempotency_key")):
            document["metadata"]["idempotency_key"] = respell(key)
        return status, document

    return rewrite


@pytest.mark.parametrize("case", KEYS)
async def test_a_key_that_a_relay_has_changed_is_not_another_key(harness: RecoveryHarness, case: str) -> None:
    harness.emulator.add_fault(operation="submit", kind="error_after")
    assert statuses(await harness.run(a_shot(), kind=sora(respelling(KEYS[case])))) == ["stored"]
    assert harness.paid == (1, 1)


async def test_a_key_in_capitals_and_an_id_of_another_job_are_a_conflict(open_harness: OpenHarness) -> None:
    """The server has begun its ids anew."""
    harness = open_harness(ids="counting")
    await harness.run(film(a_shot(7, prompt="a dog in the rain"), name="before"))
    harness.emulator.restart()
    async with harness.session() as session, session.ledger._database.writing() as connection:
        await connection.execute(update(jobs_table).values(submitted_at=datetime.now(UTC) - timedelta(hours=1)))
    lists = harness.emulator.usage()["requests"].get("list", 0)
    harness.emulator.add_fault(operation="submit", kind="error_after")
    assert statuses(await harness.run(a_shot(), kind=sora(respelling(str.upper)))) == ["held"]
    assert harness.emulator.usage()["requests"]["list"] - lists <= 5
    assert harness.emulator.usage()["submitted"] == 2
