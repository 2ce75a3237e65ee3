"""Schemathesis, with OpenAI's own document of the Videos API, finds nothing in the emulator."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from jsonschema_rs import Draft202012Validator

from prefect_video.emulator import Emulator

SPEC = Path(__file__).parents[3] / "tests" / "support" / "openai_videos.yaml"
REFUSAL = {
    "type": "object",
    "required": ["message", "type", "param", "code"],
    "properties": {
        "message": {"type": "string", "minLength": 1},
        "type": {"type": "string", "minLength": 1},
        "param": {"type": ["string", "null"]},
        "code": {"type": ["string", "null"]},
    },
}
"""The `error` of OpenAI's refusals, by its SDK and its guide to error codes."""
BESIDES_SHOTS = ("/remix", "/edits", "/extensions", "/characters")
"""Ends and parts of the paths of what is not emulated: videos made of other videos, and characters."""
DOCUMENT: Any = yaml.safe_load(SPEC.read_text())


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenAI's document with what it leaves to its prose, or unsaid.

    It lists 200 as the one status and no body as required, though each has required fields; it does not say what a
    refusal looks like, nor that a create refuses what it does not know; that a reference is one of two is prose.
    """
    completed = copy.deepcopy(DOCUMENT)
    for path in [path for path in completed["paths"] if any(part in path for part in BESIDES_SHOTS)]:
        del completed["paths"][path]
    error = {"required": ["error"], "properties": {"error": {"$ref": "#/components/schemas/RefusalError"}}}
    completed["components"]["schemas"]["RefusalError"] = REFUSAL
    refusal = {"description": "Refused", "content": {"application/json": {"schema": {"type": "object", **error}}}}
    completed["components"]["schemas"]["ImageRefParam-2"] |= {"minProperties": 1, "maxProperties": 1}
    for body in ("CreateVideoMultipartBody", "CreateVideoJsonBody", "ImageRefParam-2"):
        completed["components"]["schemas"][body]["additionalProperties"] = False
    for operations in completed["paths"].values():
        for operation in operations.values():
            operation["responses"]["4XX"] = refusal
            if "requestBody" in operation:
                operation["requestBody"]["required"] = True
    path = tmp_path_factory.mktemp("document") / "openai_videos.yaml"
    path.write_text(yaml.safe_dump(completed))
    return path


def test_schemathesis_finds_nothing(idle: Emulator, document: Path, tmp_path: Path) -> None:
    command = [
        Path(sys.executable).with_name("schemathesis"),
        f"--config-file={Path(__file__).with_name('schemathesis.toml')}",
        "run",
        document,
        f"--url={idle.url}/v1",
        f"--header=Authorization: Bearer {idle.key}",
        "--max-examples=15",
        "--seed=1",
        "--no-color",
        "--generation-database=none",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert idle.usage()["accepted"] > 0


def test_a_video_keeps_to_the_document_at_every_stage(emulator: Emulator) -> None:
    schema = {"$ref": "#/components/schemas/VideoResource", "components": DOCUMENT["components"]}
    validator = Draft202012Validator(schema)
    with httpx.Client(base_url=f"{emulator.url}/v1", headers={"Authorization": f"Bearer {emulator.key}"}) as client:
        for prompt, end in (("a cat", "completed"), ("[fail] a cat", "failed"), ("[policy] a cat", "failed")):
            created = client.post("/videos", json={"prompt": prompt}).json()
            emulator.wait_until_idle()
            ended = client.get(f"/videos/{created['id']}").json()
            assert ended["status"] == end
            for resource in (created, ended):
                problems = [error.message for error in validator.iter_errors(resource)]
                assert not problems, json.dumps(resource)


def test_what_is_made_is_served_in_the_types_that_the_document_lists(emulator: Emulator) -> None:
    answer = DOCUMENT["paths"]["/videos/{video_id}/content"]["get"]["responses"]["200"]
    with httpx.Client(base_url=f"{emulator.url}/v1", headers={"Authorization": f"Bearer {emulator.key}"}) as client:
        video = client.post("/videos", json={"prompt": "a cat"}).json()["id"]
        emulator.wait_until_idle()
        served = client.get(f"/videos/{video}/content", params={"variant": "video"}, follow_redirects=True)
        assert served.status_code == 200
        assert served.headers["content-type"] in answer["content"]
        refused = client.get(f"/videos/{video}/content", params={"variant": "thumbnail"})
        assert refused.status_code == 400
