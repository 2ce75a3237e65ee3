"""The OpenAPI document: every body and answer has an example that is one, and every answer of a route is in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from prefect_video.emulator import Emulator
from tests.support.service_fixtures import Service, run_service
from tests.unit.service.test_job_api import PROJECT, assert_problem

JSON = ("application/json", "application/problem+json")
WEBHOOKS = ("/webhooks/{name}", "/webhook/{job_id}")


async def read_document(service: Service) -> dict[str, Any]:
    document: dict[str, Any] = (await service.client.get("/openapi.json")).json()
    return document


def find_json(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Find the JSON bodies and answers of all operations, each with its place."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            holders = {"body": operation.get("requestBody", {}), **operation["responses"]}
            for place, holder in holders.items():
                for media, content in holder.get("content", {}).items():
                    if media in JSON:
                        yield f"{method} {path} {place}", content


def examples_of(content: dict[str, Any], document: dict[str, Any]) -> list[Any]:
    """Return the examples of a body or an answer: its own, or those of the record that it refers to."""
    record = document["components"]["schemas"].get(content["schema"].get("$ref", "").rpartition("/")[2], {})
    return [
        example
        for holder in (content, content["schema"], record)
        for example in [*holder.get("examples", ()), *([holder["example"]] if "example" in holder else ())]
    ]


async def test_every_body_and_answer_has_examples_that_fit(environment: Path, provider: Emulator) -> None:
    async with run_service() as service:
        document = await read_document(service)
    found = list(find_json(document))
    assert len(found) > 100
    for place, content in found:
        examples = examples_of(content, document)
        assert examples, place
        whole = {**content["schema"], "components": document["components"]}
        for example in examples:
            assert [fault.message for fault in Draft202012Validator(whole).iter_errors(example)] == [], place


async def test_the_example_of_a_plan_is_like_one(environment: Path, provider: Emulator) -> None:
    async with run_service() as service:
        document = await read_document(service)
        plan = (await service.client.post("/v1/projects/plan", json={**PROJECT, "budget_usd": 20})).json()
    content = document["paths"]["/v1/projects/plan"]["post"]["responses"]["200"]["content"]["application/json"]
    (example,) = examples_of(content, document)
    # FastAPI leaves out of the document what is null.
    assert example.keys() == plan.keys() - {"refusal"}
    assert example["limits"][0].keys() == plan["limits"][0].keys() - {"limit_videos"}
    assert example["shots"][0].keys() <= plan["shots"][0].keys()


async def test_the_receivers_routes_and_their_answers_are_in_it(environment: Path, provider: Emulator) -> None:
    async with run_service() as service:
        document = await read_document(service)
        for path in WEBHOOKS:
            operation = document["paths"][path]["post"]
            assert {"200", "400", "401", "404", "408", "413", "503"} == operation["responses"].keys()
            signatures = {item["name"] for item in operation["parameters"] if item["in"] == "header"}
            assert {"X-Sora-Signature", "webhook-signature"} <= signatures
            (example,) = examples_of(operation["requestBody"]["content"]["application/json"], document)
            forged = await service.client.post(path.format(name="sora", job_id="none"), json=example)
            assert (forged.status_code, forged.json()) == (401, {"received": False})


async def test_the_refusal_of_unknown_hosts_is_in_it_where_there_is_one(environment: Path, provider: Emulator) -> None:
    for hosts, refuses in (((), False), (("video.example.com",), True)):
        async with run_service(hosts=hosts) as service:
            document = await read_document(service)
            answer = await service.client.get("/healthz", headers={"Host": "other.example.com"})
        documented = [
            "421" in operation["responses"]
            for operations in document["paths"].values()
            for operation in operations.values()
        ]
        assert set(documented) == {refuses}
        if refuses:
            assert_problem(answer, 421)
        else:
            assert answer.status_code == 200
