"""Schemathesis, with OpenAI's own document of the Videos API, finds nothing in the emulator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from jsonschema_rs import Draft202012Validator

from prefect_video.emulator import Emulator, EmulatorSettings

SPEC = Path(__file__).parent.parent / "openai_videos.yaml"
CHECKS = (
    "not_a_server_error",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "use_after_free",
    "ensure_resource_availability",
    "unsupported_method",
)
"""Left out: `status_code_conformance` (the document lists 200 alone), and the two about which data is to be accepted:
the document takes bodies to be optional, and has enums that servers of this dialect extend."""


@pytest.fixture(scope="module")
def idle() -> Iterator[Emulator]:
    """Takes in anything and makes nothing, so that what is tried out costs no work."""
    with Emulator(EmulatorSettings(port=0, capacity=100_000, times="fixed:1000000", speed=1)) as running:
        yield running


def test_schemathesis_finds_nothing(idle: Emulator, tmp_path: Path) -> None:
    command = [
        Path(sys.executable).with_name("schemathesis"),
        "run",
        SPEC,
        f"--url={idle.url}/v1",
        f"--header=Authorization: Bearer {idle.key}",
        f"--checks={','.join(CHECKS)}",
        "--max-examples=25",
        "--seed=1",
        "--no-color",
        "--generation-database=none",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert idle.books()["accepted"] > 0


def test_a_video_keeps_to_the_document_at_every_stage(emulator: Emulator) -> None:
    spec = yaml.safe_load(SPEC.read_text())
    schema = {"$ref": "#/components/schemas/VideoResource", "components": spec["components"]}
    validator = Draft202012Validator(schema)
    with httpx.Client(base_url=f"{emulator.url}/v1", headers={"Authorization": f"Bearer {emulator.key}"}) as client:
        for prompt, end in (("a cat", "completed"), ("[fail] a cat", "failed"), ("[policy] a cat", "failed")):
            created = client.post("/videos", json={"prompt": prompt}).json()
            emulator.settle()
            ended = client.get(f"/videos/{created['id']}").json()
            assert ended["status"] == end
            for told in (created, ended):
                problems = [error.message for error in validator.iter_errors(told)]
                assert not problems, json.dumps(told)


def test_what_is_made_is_served_in_the_types_that_the_document_lists(emulator: Emulator) -> None:
    spec = yaml.safe_load(SPEC.read_text())
    answer = spec["paths"]["/videos/{video_id}/content"]["get"]["responses"]["200"]
    with httpx.Client(base_url=f"{emulator.url}/v1", headers={"Authorization": f"Bearer {emulator.key}"}) as client:
        video = client.post("/videos", json={"prompt": "a cat"}).json()["id"]
        emulator.settle()
        for variant in ("video", "thumbnail", "spritesheet"):
            served = client.get(f"/videos/{video}/content", params={"variant": variant}, follow_redirects=True)
            assert served.status_code == 200
            assert served.headers["content-type"] in answer["content"], variant
