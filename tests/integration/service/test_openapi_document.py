"""Schemathesis, with the service's own OpenAPI document, finds nothing in the service."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from prefect_video.emulator import Emulator
from tests.support.service_fixtures import TOKEN, Service, run_service

LONGEST = 1_000
"""Most characters of a text with a pattern that can be made up in reasonable time."""


async def test_schemathesis_finds_nothing(environment: Path, provider: Emulator, tmp_path: Path) -> None:
    """Every operation, called with what its document allows and with what it forbids, answers as the document says."""
    async with run_service(sweep_seconds=0.5) as service:
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("schemathesis"),
            f"--config-file={Path(__file__).with_name('schemathesis.toml')}",
            "run",
            await write_document(service, tmp_path),
            f"--url={service.url}",
            f"--header=Authorization: Bearer {TOKEN}",
            "--max-examples=3",
            "--seed=1",
            "--no-color",
            "--generation-database=none",
            "--continue-on-failure",
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-12_000:]
    assert provider.usage()["accepted"] > 0


async def write_document(service: Service, folder: Path) -> Path:
    """Write the service's document without the limits of long texts, which no generator can fill."""
    document = (await service.client.get("/openapi.json")).json()
    drop_large_limits(document)
    path = folder / "openapi.json"
    path.write_text(json.dumps(document))
    return path


def drop_large_limits(node: Any) -> None:
    match node:
        case dict():
            if node.get("type") == "string" and node.get("maxLength", 0) > LONGEST:
                del node["maxLength"]
            for value in node.values():
                drop_large_limits(value)
        case list():
            for value in node:
                drop_large_limits(value)
