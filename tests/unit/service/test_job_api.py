"""The job API as other services use it: tokens, lists, links, events, projects, callbacks."""

from __future__ import annotations

import asyncio
import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.errors import BudgetExceeded, InvalidInput
from prefect_video.ledger import Requester
from prefect_video.pipeline import run_project
from prefect_video.projects import Project
from prefect_video.service import add_token, create_token
from prefect_video.service.api_tokens import ApiTokens, Scope, parse_tokens
from tests.support.records import a_generation
from tests.support.service_fixtures import Service, open_environment_session, run_service
from tests.unit.service.test_jobs import REQUEST, generate, wait_for_status

ALL: tuple[Scope, ...] = ("submit", "read", "cancel")
PROJECT: dict[str, Any] = {
    "project": "ad",
    "defaults": {"duration": 1, "resolution": "480p"},
    "shots": [{"id": "one", "prompt": "a cup"}, {"id": "two", "prompt": "a pot", "depends_on": ["one"]}],
}


class Clients:
    """Clients with tokens of their own, in a tokens file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tokens.yaml"
        self.tokens: dict[str, str] = {}

    def add(self, name: str, *scopes: Scope, **limits: Any) -> dict[str, str]:
        """Add a token; return the header that a client sends."""
        self.tokens[name], entry = create_token(name, scopes or ALL, **limits)
        add_token(self.file, entry)
        return {"Authorization": f"Bearer {self.tokens[name]}"}


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    """Open an empty tokens file."""
    return Clients(tmp_path)


def assert_problem(answer: httpx.Response, status: int, kind: str = "about:blank") -> None:
    """Assert that an answer is a problem of a status and a kind."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert (answer.json()["status"], answer.json()["type"]) == (status, kind)


async def request(service: Service, headers: dict[str, str], **changes: Any) -> httpx.Response:
    """Send `POST /v1/jobs`."""
    return await service.client.post("/v1/jobs", json={**REQUEST, **changes}, headers=headers)


async def wait_for_accepted(provider: Emulator, number: int) -> None:
    """Wait until the provider has accepted so many generations."""
    async with asyncio.timeout(60):
        while provider.usage()["accepted"] < number:
            await asyncio.sleep(0.02)


async def test_a_token_allows_its_scopes_and_no_more(environment: Path, provider: Emulator, clients: Clients) -> None:
    writer, reader = clients.add("writer", "submit"), clients.add("reader", "read", per_minute=2)
    assert clients.tokens["writer"] not in clients.file.read_text()
    assert clients.file.stat().st_mode & 0o077 == 0
    async with run_service(tokens_file=clients.file) as service:
        job = await request(service, writer)
        assert (job.status_code, job.json()["requester"]) == (202, "writer")
        path = f"/v1/jobs/{job.json()['job_id']}"
        assert job.headers["location"] == path
        assert_problem(await service.client.get("/v1/jobs", headers=writer), 403, "urn:prefect-video:scope")
        assert_problem(await request(service, reader), 403, "urn:prefect-video:scope")
        assert_problem(await service.client.post(f"{path}/cancel", headers=reader), 403, "urn:prefect-video:scope")
        for _ in range(2):
            assert (await service.client.get(path, headers=reader)).status_code == 200
        throttled = await service.client.get(path, headers=reader)
        assert_problem(throttled, 429, "urn:prefect-video:rate")
        assert int(throttled.headers["retry-after"]) >= 1
        assert_problem(await service.client.get(path, headers={"Authorization": "Bearer pv_other"}), 401)
        await wait_for_accepted(provider, 1)
    assert provider.usage()["accepted"] == 1


async def test_a_monthly_budget_is_of_one_token_and_survives_a_restart(
    environment: Path, provider: Emulator, clients: Clients
) -> None:
    small, large = clients.add("small", monthly_usd=Decimal("0.5")), clients.add("large")
    async with run_service(tokens_file=clients.file) as service:
        answers = await asyncio.gather(*(request(service, small, prompt=f"cat {number}") for number in range(5)))
        assert sorted(answer.status_code for answer in answers) == [202, 402, 402, 402, 402]
        for answer in answers:
            if answer.status_code == 402:
                assert_problem(answer, 402, "urn:prefect-video:over-budget")
        batch = {"jobs": [{**REQUEST, "prompt": "a dog"}]}
        refused = (await service.client.post("/v1/batches", json=batch, headers=small)).json()["jobs"][0]
        assert (refused["status"], "token small" in refused["problem"]["detail"]) == (402, True)
        refusal = await service.client.post("/v1/projects", json=PROJECT, headers=small)
        assert_problem(refusal, 402, "urn:prefect-video:over-budget")
        assert (await request(service, large, prompt="a bird")).status_code == 202
    async with run_service(tokens_file=clients.file) as service:
        assert (await request(service, small, prompt="a horse")).status_code == 402
        spend = (await service.client.get("/v1/spend", headers=small)).json()
        assert (spend["token"], spend["videos"], spend["limit_usd"]) == ("small", 1, 0.5)
        assert spend["spent_usd"] + spend["reserved_usd"] + spend["left_usd"] == pytest.approx(0.5)
        await wait_for_accepted(provider, 2)
    assert provider.usage()["accepted"] == 2


async def test_a_key_is_of_one_token(environment: Path, provider: Emulator, clients: Clients) -> None:
    first, second = clients.add("first"), clients.add("second")
    async with run_service(tokens_file=clients.file) as service:
        for _ in range(2):
            mine = await request(service, {**first, "Idempotency-Key": "k"}, prompt="one")
            theirs = await request(service, {**second, "Idempotency-Key": "k"}, prompt="two")
            assert {mine.status_code, theirs.status_code} <= {200, 202}
        assert mine.json()["job_id"] != theirs.json()["job_id"]
        batch = {"jobs": [{**REQUEST, "prompt": "three"}, {**REQUEST, "provider": "unknown"}]}
        for _ in range(2):
            answer = await service.client.post("/v1/batches", json=batch, headers={**first, "Idempotency-Key": "b"})
            assert answer.json()["jobs"][1]["status"] == 422
        other = {"jobs": [{**REQUEST, "prompt": "four"}]}
        answer = await service.client.post("/v1/batches", json=other, headers={**first, "Idempotency-Key": "b"})
        assert_problem(answer, 422, "urn:prefect-video:idempotency-key-reused")
        await wait_for_accepted(provider, 3)
    assert provider.usage()["accepted"] == 3


async def test_jobs_are_listed_in_pages_and_by_what_they_are(environment: Path, provider: Emulator) -> None:
    # So slow that no job ends by itself.
    provider.change_speed(0.001)
    async with run_service() as service:
        ids = [(await generate(service, prompt=f"cat {n}", id=f"s_{n}")).json()["job_id"] for n in range(5)]
        seen: list[str] = []
        query: dict[str, Any] = {"limit": 2, "project": "film"}
        while "cursor" not in query or query["cursor"] is not None:
            page = (await service.client.get("/v1/jobs", params=query)).json()
            seen += [job["job_id"] for job in page["jobs"]]
            query["cursor"] = page["next_cursor"]
        assert seen == ids[::-1]

        async def listed(**query: str) -> list[str]:
            return [job["shot"] for job in (await service.client.get("/v1/jobs", params=query)).json()["jobs"]]

        assert await listed(shot="s_3") == ["s_3"]
        assert await listed(shot="s-3") == await listed(project="other") == await listed(held="true") == []
        assert await listed(since="2999-01-01T00:00:00Z") == await listed(state="lost") == []
        assert await listed(since="2020-01-01T00:00:00Z") == ["s_4", "s_3", "s_2", "s_1", "s_0"]
        jobs = [await wait_for_status(service, job_id, "processing") for job_id in ids]
        async with await open_environment_session() as session:
            await session.ledger.jobs.hold(ids[2], "looked at by the tests")
            await session.ledger.jobs.record_completed(ids[1], a_generation(jobs[1]["generation_id"]))
        assert await listed(held="true") == ["s_2"]
        assert await listed(held="false") == ["s_4", "s_3", "s_1", "s_0"]
        assert await listed(state="completed") == ["s_1"]
        assert await listed(state="submitted") == ["s_4", "s_3", "s_2", "s_0"]
        for bad in ({"cursor": "x"}, {"since": "yesterday"}, {"state": "new"}, {"limit": "0"}, {"project": "a b"}):
            assert_problem(await service.client.get("/v1/jobs", params=bad), 422)


async def test_a_stored_video_plays_by_its_link_in_parts_until_the_link_is_changed_or_expires(
    environment: Path, provider: Emulator, clients: Clients
) -> None:
    headers = clients.add("web")
    async with run_service(tokens_file=clients.file, collect=True, sweep_seconds=0.1) as service:
        job = (await request(service, headers)).json()
        await wait_for_status(service, job["job_id"], "completed")
        done = (await service.client.get(f"/v1/jobs/{job['job_id']}", headers=headers)).json()
        content = Path(done["uri"].removeprefix("file://")).read_bytes()
        async with httpx.AsyncClient() as player:
            whole = await player.get(done["url"])
            assert (whole.status_code, whole.content, whole.headers["accept-ranges"]) == (200, content, "bytes")
            for text, part in (("bytes=5-9", content[5:10]), ("bytes=-7", content[-7:]), ("bytes=9-", content[9:])):
                answer = await player.get(done["url"], headers={"Range": text})
                assert (answer.status_code, answer.content) == (206, part)
            assert answer.headers["content-range"] == f"bytes 9-{len(content) - 1}/{len(content)}"
            assert_problem(await player.get(done["url"], headers={"Range": "bytes=99999999-"}), 416)
            assert (await player.head(done["url"])).headers["content-length"] == str(len(content))
            link = httpx.URL(done["url"])
            for changed in ({"expires": int(time.time()) - 1}, {"signature": "0" * 64}, {"token": "other"}):
                assert_problem(await player.get(link.copy_merge_params(changed)), 401)
            assert_problem(await player.get(str(link).replace(job["job_id"], "another")), 401)


async def read_events(service: Service, job_id: str, last: int = 0) -> list[tuple[int | None, str, dict[str, Any]]]:
    """Read a job's events until their stream ends."""
    text = (
        await service.client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": str(last)}, timeout=30)
    ).text
    events: list[tuple[int | None, str, dict[str, Any]]] = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            number = int(fields["id"]) if "id" in fields else None
            events.append((number, fields["event"], json.loads(fields["data"])))
    return events


async def test_events_follow_a_job_to_its_end_and_go_on_where_a_client_was(
    environment: Path, provider: Emulator
) -> None:
    async with run_service(collect=True, sweep_seconds=0.1) as service:
        job = (await generate(service)).json()
        events = await read_events(service, job["job_id"])
        assert (events[0][2]["to"], events[-2][2]["to"]) == ("reserved", "stored")
        assert (events[-1][1], events[-1][2]["status"]) == ("end", "completed")
        numbers = [event[0] or 0 for event in events[:-1]]
        assert numbers == sorted(set(numbers))
        assert await read_events(service, job["job_id"], numbers[1]) == events[2:]
        answer = await service.client.get(
            f"/v1/jobs/{job['job_id']}/events", headers={"Last-Event-ID": str(numbers[-1])}
        )
        assert answer.status_code == 204


async def test_an_open_stream_of_events_does_not_keep_the_service_from_ending(
    environment: Path, provider: Emulator
) -> None:
    async with run_service() as service:
        job = (await generate(service)).json()
        await wait_for_status(service, job["job_id"], "processing")
        async with service.client.stream("GET", f"/v1/jobs/{job['job_id']}/events") as stream:
            lines = stream.aiter_lines()
            assert (await anext(lines)).startswith("id: ")
            service.server.should_exit = True
            async with asyncio.timeout(60):
                assert not [line async for line in lines if line == "event: end"]


async def test_a_job_is_cancelled_at_the_provider_or_the_refusal_says_why_not(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Emulator(EmulatorSettings(port=0, speed=1, render="plate")) as slow, monkeypatch.context() as patched:
        patched.setenv("SORA_API_KEY", slow.key)
        patched.setenv("SORA_API_ENDPOINT", slow.endpoint)
        async with run_service() as service:
            job = (await generate(service, duration=20)).json()
            await wait_for_status(service, job["job_id"], "processing")
            for _ in range(2):
                answer = await service.client.post(f"/v1/jobs/{job['job_id']}/cancel")
                assert (answer.status_code, answer.json()["status"]) == (200, "cancelled"), answer.text
            assert_problem(await service.client.post("/v1/jobs/none/cancel"), 404)
        assert slow.usage()["cancelled"] == 1
    async with run_service() as service:
        job = (await generate(service)).json()
        await wait_for_status(service, job["job_id"], "processing")
        provider.wait_until_idle()
        answer = await service.client.post(f"/v1/jobs/{job['job_id']}/cancel")
        assert_problem(answer, 409, "urn:prefect-video:not-cancelled")
        assert "paid" in answer.json()["detail"]
    assert provider.usage()["cancelled"] == 0


async def wait_for_project(service: Service, project_id: str) -> dict[str, Any]:
    """Wait until a project has ended."""
    async with asyncio.timeout(60):
        while True:
            project: dict[str, Any] = (await service.client.get(f"/v1/projects/{project_id}")).json()
            if project["status"] != "running":
                return project
            await asyncio.sleep(0.05)


async def test_a_project_goes_on_after_a_restart_and_is_paid_once(environment: Path, provider: Emulator) -> None:
    headers = {"Idempotency-Key": "p-1"}
    async with run_service() as service:
        plan = (await service.client.post("/v1/projects/plan", json=PROJECT)).json()
        assert (plan["cost_usd"], plan["fits"]) == (0.6, True)
        first = await service.client.post("/v1/projects", json=PROJECT, headers=headers)
        assert (first.status_code, first.json()["status"]) == (202, "running")
    async with run_service(sweep_seconds=0.1) as service:
        again = await service.client.post("/v1/projects", json=PROJECT, headers=headers)
        assert again.json()["id"] == first.json()["id"]
        done = await wait_for_project(service, first.json()["id"])
        assert (done["status"], done["cost_usd"]) == ("completed", 0.6), done
        assert [(job["shot"], job["status"]) for job in done["jobs"]] == [("one", "completed"), ("two", "completed")]
        changed = await service.client.post("/v1/projects", json={**PROJECT, "budget_usd": 9}, headers=headers)
        assert_problem(changed, 422, "urn:prefect-video:idempotency-key-reused")
        warm = await service.client.post("/v1/projects", json=PROJECT)
        assert (await wait_for_project(service, warm.json()["id"]))["cost_usd"] == 0.6
        for refused in (
            {**PROJECT, "provider": "fal"},
            {**PROJECT, "shots": [{"id": "x", "prompt": "y", "references": ["/etc/passwd"]}]},
            {**PROJECT, "shots": [{"id": "x", "prompt": "y", "first_frame": "/etc/passwd"}]},
            {**PROJECT, "shots": [{"id": "x", "clip": "/etc/passwd"}]},
            {**PROJECT, "cut": {"music": "/etc/passwd"}},
            {**PROJECT, "max_attempts": "2"},
        ):
            assert_problem(await service.client.post("/v1/projects", json=refused), 422)
    assert provider.usage()["billed"] == 2


async def test_takes_are_shown_with_their_quality_and_which_one_counts(environment: Path, provider: Emulator) -> None:
    shot = {"id": "one", "prompt": "a cup", "takes": 2, "choose": "best"}
    provider.add_fault(operation="content", kind="altered_file", alteration="frozen", times=None)
    async with run_service() as service:
        body = {**PROJECT, "shots": [shot], "quality": {"frozen": "flag"}}
        requested = await service.client.post("/v1/projects", json=body)
        assert requested.status_code == 202, requested.text
        done = await wait_for_project(service, requested.json()["id"])
        assert [(job["take"], job["takes"], job["chosen"]) for job in done["jobs"]] == [(1, 2, True), (2, 2, False)]
        for job in done["jobs"]:
            alone = (await service.client.get(f"/v1/jobs/{job['job_id']}")).json()
            assert alone["quality"] == job["quality"]
            assert 0 <= job["quality"]["score"] <= 1
            assert [flag["kind"] for flag in job["quality"]["flags"]] == ["frozen"]
        schemas = (await service.client.get("/openapi.json")).json()["components"]["schemas"]
        assert {"score", "flags"} == schemas["QualityView"]["properties"].keys()
        assert {"quality", "takes", "chosen"} <= schemas["JobView"]["properties"].keys()


async def test_every_refusal_is_a_problem(environment: Path, provider: Emulator) -> None:
    async with run_service() as service:
        client = service.client
        for answer, status in (
            (await client.get("/nothing"), 404),
            (await client.delete("/v1/jobs"), 405),
            (await client.get("/v1/jobs/none"), 404),
            (await client.get("/v1/projects/%00"), 404),
            (await client.post("/v1/jobs", content=b"{"), 400),
            (await client.post("/v1/jobs", json={"prompt": "x", "duration": "4"}), 422),
            (await client.post("/v1/jobs", content=b" " * 100_000), 413),
            (await client.get("/v1/jobs", headers={"Authorization": "Bearer no"}), 401),
        ):
            assert_problem(answer, status)


async def test_the_docs_page_shows_every_operation_and_loads_nothing(environment: Path, provider: Emulator) -> None:
    async with run_service() as service:
        document = (await service.client.get("/openapi.json")).json()
        page = await service.client.get("/docs")
    assert document["openapi"].startswith("3.1")
    for path in document["paths"]:
        assert f"<code>{path}</code>" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for loads in ("<script", "<link", "<img", "src=", "@import", "url("):
        assert loads not in page.text


async def test_readiness_tells_of_a_store_that_is_not_the_one(environment: Path, provider: Emulator) -> None:
    async with run_service(collect=True, sweep_seconds=0.1) as service:
        assert (await service.client.get("/readyz")).json() == {"status": "ok", "ledger": "ok", "store": "ok"}
        await wait_for_status(service, (await generate(service)).json()["job_id"], "completed")
    (environment / "videos").rename(environment / "volume")
    (environment / "videos").mkdir()
    async with run_service() as service:
        answer = await service.client.get("/readyz")
        assert (answer.status_code, answer.json()["store"]) == (503, "cannot be used")
        assert (await service.client.get("/healthz")).status_code == 200


def test_a_tokens_file_is_read_again_and_a_broken_one_changes_nothing(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_video.service.api_tokens._RELOAD_SECONDS", 0.0)
    clients.add("first")
    tokens = ApiTokens((), clients.file)
    clients.add("second")
    assert tokens.authenticate(clients.tokens["second"]) is not None
    good = clients.file.read_text()
    # What YAML takes for a date that there is not, and lists deeper than the parser follows, are errors of their own.
    for broken in ("tokens: 5", "tokens: [{name: x, sha256: 2026-13-45}]", "[" * 5000):
        clients.file.write_text(broken)
        assert tokens.authenticate(clients.tokens["first"]) is not None
    clients.file.write_text(yaml.safe_dump({"tokens": yaml.safe_load(good)["tokens"][1:]}))
    assert tokens.authenticate(clients.tokens["first"]) is None
    assert tokens.authenticate(clients.tokens["second"]) is not None
    remaining = clients.file.read_text()
    clients.file.unlink()
    assert tokens.authenticate(clients.tokens["second"]) is None
    clients.file.write_text(remaining)
    assert tokens.authenticate(clients.tokens["second"]) is not None
    with pytest.raises(InvalidInput, match="there is a token 'second'"):
        clients.add("second")
    with pytest.raises(InvalidInput) as caught:
        parse_tokens("tokens: [{name: x, sha256: a-plain-token}]", "tokens.yaml")
    assert "a-plain-token" not in str(caught.value)


async def test_a_requester_keeps_its_limit_however_its_requests_reach_the_ledger(
    environment: Path, provider: Emulator
) -> None:
    project = Project.model_validate(PROJECT)
    async with await open_environment_session() as session:
        with pytest.raises(BudgetExceeded, match="token web"):
            await run_project(session, project, requester=Requester(name="web", monthly_usd=Decimal("0.5")))
        report = await run_project(session, project, requester=Requester(name="web", monthly_usd=Decimal("0.6")))
        assert not report.failures
    assert provider.usage()["billed"] == 2
