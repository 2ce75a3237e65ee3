"""Keys that a provider quotes, in every encoding: none gets into an output, the ledger or a log."""

from __future__ import annotations

import asyncio
import base64
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.pipeline import run_project
from prefect_video.projects import Project
from prefect_video.session import SessionRef, open_session
from tests.support.cli_fixtures import COMMAND, FILM, InProcess, Shell
from tests.support.postgres import PostgresServer, postgres_server, postgres_url
from tests.support.s3_server import KEY as S3_KEY
from tests.support.s3_server import SECRET as S3_SECRET
from tests.support.s3_server import S3Server
from tests.support.storage_fixtures import bucket, s3
from tests.support.webhook_receiver import WebhookReceiver

__all__ = ["bucket", "postgres_server", "postgres_url", "s3"]

KEY = "sk-qvokka77/Zm9vquux+bar=42&x"
"""No part of it is a word: Prefect names runs after animals, and what is looked for must be nothing but the key."""
BASIC = base64.b64encode(f"user:{KEY}".encode()).decode()
SPELLINGS = (
    KEY,
    KEY.replace("/", "\\/"),
    "".join(f"\\u{ord(character):04x}" for character in KEY),
    "".join(f"\\\\u{ord(character):04X}" for character in KEY),
    quote(KEY, safe=""),
    "".join(f"%{ord(character):02x}" for character in KEY),
    f"Basic {BASIC}",
    f"Basic {BASIC}".replace("/", "\\/").rstrip("="),
    KEY.encode().hex(),
    f"Bearer {KEY}".encode().hex(" "),
)
FRAGMENTS = (
    *("qvokka", "Zm9vquux", BASIC[:12], "".join(f"u{ord(character):04x}" for character in "qvokka"), "6f%6b%6b"),
    *(b"qvokka".hex(), b"qvokka".hex(" ")),
)
BASE64 = tuple(base64.b64encode(b" " * shift + KEY.encode())[4:-4].decode() for shift in range(3))
"""Each form that the key has within a text that was encoded as a whole."""


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, environment: None) -> Iterator[Emulator]:
    settings = EmulatorSettings(port=0, speed=500.0, render="plate", keys=(KEY,))
    with Emulator(settings) as emulator:
        monkeypatch.setenv("SORA_API_KEY", KEY)
        monkeypatch.setenv("SORA_API_ENDPOINT", emulator.endpoint)
        monkeypatch.setenv("SORA_PLAN", "emulator")
        monkeypatch.setenv("PREFECT_VIDEO_STORE", "videos")
        monkeypatch.setenv("PREFECT_VIDEO_CHECK_ACCESS", "false")
        yield emulator


async def run_film(prompt: str = "a sea") -> str:
    shot = {"id": "sea", "prompt": prompt, "duration": 1, "resolution": "480p"}
    async with await open_session(SessionRef.from_names()) as session:
        report = await run_project(session, Project.model_validate({"project": "film", "shots": [shot]}))
    return report.summary() + repr(report)


def test_a_quoted_key_gets_nowhere(
    provider: Emulator, call: InProcess, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG, "prefect_video")
    quoted = ", ".join(SPELLINGS)
    provider.add_fault(operation="submit", kind="quoted_key", quoted=quoted, times=None)
    refused = asyncio.run(run_film())
    assert "wrong key" in refused
    provider.clear_faults()
    # Accepted, billed, and failed with a message that quotes the key as it is after decoding.
    provider.add_fault(operation="submit", kind="blocked", code="failed", message=f"upstream said {quoted}", times=None)
    failed = asyncio.run(run_film())
    assert "upstream said" in failed
    provider.clear_faults()
    for operation in ("list", "retrieve"):
        provider.add_fault(operation=operation, kind="quoted_key", quoted=quoted, times=None)
    unpolled = asyncio.run(run_film("a beach"))
    collected = call("collect", "--json")
    assert "wrong key" in unpolled
    assert "wrong key" in collected.out + collected.err
    jobs = call("jobs", "--json")
    assert "upstream said" in jobs.out
    ledger = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*")).decode("latin-1")
    assert "upstream said" in ledger
    outputs = [collected.out, collected.err, jobs.out, jobs.err]
    for text in (refused, failed, unpolled, *outputs, ledger, caplog.text):
        assert [part for part in (*SPELLINGS, *FRAGMENTS) if part.lower() in text.lower()] == []


def test_a_quoted_key_gets_into_nothing_that_a_run_leaves(provider: Emulator, shell: Shell) -> None:
    """Look through the whole home, which holds Prefect's database with its logs, artifacts, results and the ledger."""
    environment = {
        "SORA_API_KEY": KEY,
        "SORA_API_ENDPOINT": provider.endpoint,
        "SORA_PLAN": "emulator",
        "PREFECT_VIDEO_CHECK_ACCESS": "false",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PREFECT_SERVER_LOGGING_LEVEL": "DEBUG",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "prefect_video,httpx",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
    }
    quoted = ", ".join(f"Authorization: Bearer {spelling}" for spelling in SPELLINGS)
    failed = {"kind": "blocked", "code": "failed", "message": f"upstream said {quoted}", "match": {"prompt": "dawn"}}
    refused = {"kind": "quoted_key", "quoted": quoted, "match": {"prompt": "dusk"}}
    for fault in (failed, refused):
        provider.add_fault(operation="submit", times=None, **fault)
    film = shell.folder / "quoted.yaml"
    film.write_text(FILM.replace("project: film", "project: quoted") + "  - {id: noon, prompt: noon, duration: 1}\n")
    answer = shell("run", film, "--provider", "sora", "--store", "quoted", "--json", **environment)
    assert sorted(shot["status"] for shot in answer.json["shots"]) == ["failed", "failed", "stored"]
    left = {str(path): path.read_bytes().decode("latin-1") for path in shell.folder.rglob("*") if path.is_file()}
    # The message itself is there: in what the run prints, in the ledger, and in Prefect's database.
    for message in ("upstream said", "wrong key"):
        assert message in answer.out
        assert any(message in text for path, text in left.items() if Path(path).name.startswith("prefect.db"))
    assert any("upstream said" in text for path, text in left.items() if "ledger" in path)
    for place, text in {**left, "stdout": answer.out, "stderr": answer.err}.items():
        assert [part for part in (*SPELLINGS, *FRAGMENTS, *BASE64) if part.lower() in text.lower()] == [], place


PREVIOUS_KEY = "sk-the-previous-key-of-the-project"
CALLBACK_SECRET = "whsec_c2VjcmV0LW9mLWNhbGxiYWNrcy1vZi1hLXByb2plY3Q="
LEDGER_PASSWORD = "password-of-the-ledger-of-a-project"
SECRETS = {
    "SORA_API_KEY": KEY,
    "SORA_API_KEY_PREVIOUS": PREVIOUS_KEY,
    "SORA_WEBHOOK_SECRET": "current-webhook-secret-of-a-project,previous-webhook-secret-of-a-project",
    "AWS_SECRET_ACCESS_KEY": S3_SECRET,
    "PREFECT_VIDEO_SERVICE_API_TOKEN": "token-of-the-job-api-of-a-project",
    "PREFECT_VIDEO_SERVICE_CALLBACK_SECRET": CALLBACK_SECRET,
}


LOGGING = {
    "PREFECT_LOGGING_LEVEL": "DEBUG",
    "PREFECT_SERVER_LOGGING_LEVEL": "DEBUG",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "prefect_video,httpx",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
}
SAVE_BLOCKS = """
import os
from prefect_video.blocks import SoraCredentials, VideoLedger, VideoStore
given = os.environ
current, previous = given["SORA_WEBHOOK_SECRET"].split(",")
SoraCredentials(
    api_key=given["SORA_API_KEY"], previous_api_key=given["SORA_API_KEY_PREVIOUS"], account="secretive",
    endpoint=given["SORA_API_ENDPOINT"], plan="emulator", webhook_secret=current, previous_webhook_secret=previous,
).save("secretive")
VideoStore(
    url=given["PREFECT_VIDEO_STORE"], key=given["AWS_ACCESS_KEY_ID"], secret=given["AWS_SECRET_ACCESS_KEY"],
    endpoint_url=given["AWS_ENDPOINT_URL"], region=given["AWS_REGION"],
).save("secretive")
VideoLedger(url=given["PREFECT_VIDEO_LEDGER_URL"]).save("secretive")
"""


def test_a_whole_project_leaves_no_secret_in_anything_that_can_be_read(
    provider: Emulator, shell: Shell, s3: S3Server, bucket: str, postgres_server: PostgresServer, postgres_url: str
) -> None:
    """Logs on DEBUG, Prefect's database, results, ledger, sidecars, pages, callbacks, and every answer of the service."""
    provider.issue_key(PREVIOUS_KEY, same_account_as=KEY)
    environment = {
        **SECRETS,
        **LOGGING,
        "SORA_API_ENDPOINT": provider.endpoint,
        "SORA_PLAN": "emulator",
        "AWS_ACCESS_KEY_ID": S3_KEY,
        "AWS_ENDPOINT_URL": s3.endpoint_url,
        "AWS_REGION": "us-east-1",
        "PREFECT_VIDEO_ACCOUNT": "secretive",
        "PREFECT_VIDEO_STORE": f"s3://{bucket}/secretive",
        "PREFECT_VIDEO_LEDGER_URL": postgres_url.replace("postgres:@", f"postgres:{LEDGER_PASSWORD}@"),
        "PREFECT_VIDEO_SERVICE_CALLBACK_HOSTS": "127.0.0.1",
        "PREFECT_VIDEO_SERVICE_SWEEP_SECONDS": "0.5",
        # For the script that saves blocks; commands wait as long by themselves.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600",
        "PREFECT_VIDEO_SERVICE_TOKENS_FILE": str(shell.folder / "tokens.yaml"),
    }
    assert LEDGER_PASSWORD in environment["PREFECT_VIDEO_LEDGER_URL"]
    token = shell("tokens", "create", "agent", "--file", "tokens.yaml", "--json").json["token"]
    outputs = run_commands(shell, environment)
    outputs |= run_with_blocks(shell, environment)
    with (
        WebhookReceiver() as receiver,
        shell.start("serve", "--port", "0", "--account", "sora", "--collect", **environment) as process,
    ):
        try:
            outputs |= read_service(process, receiver, token)
        finally:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=500)
    outputs |= {"serve": out + err, "mcp": asyncio.run(ask_as_agent(shell, environment, token))}
    dump = [str(postgres_server.tools / "pg_dump"), postgres_url]
    outputs |= {"rows": subprocess.run(dump, capture_output=True, text=True, check=True).stdout}
    left = {
        str(path): path.read_bytes().decode("latin-1")
        for folder in (shell.folder, s3.folder / bucket)
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert_everything_is_there(outputs, left)
    secrets = [token, LEDGER_PASSWORD, *(secret for value in SECRETS.values() for secret in value.split(","))]
    for place, text in {**outputs, **left}.items():
        assert [secret for secret in secrets if secret in text] == [], place


def run_commands(shell: Shell, environment: dict[str, str]) -> dict[str, str]:
    """Run a project and look at it, with the secrets in the environment; return what the commands print."""
    film = shell.folder / "secretive.yaml"
    film.write_text(FILM.replace("project: film", "project: secretive"))
    outputs: dict[str, str] = {}
    for command, status in (
        (("ledger", "upgrade"), 0),
        (("run", film, "--provider", "sora"), 0),
        (("jobs", "--json"), 0),
        (("ledger", "export"), 0),
        (("doctor", "--provider", "sora"), 0),
        # What cannot be used is named without its secret.
        (("jobs", "--ledger", f"postgresql://postgres:{LEDGER_PASSWORD}@127.0.0.1:9/none"), 1),
    ):
        answer = shell(*command, **environment)
        assert answer.status == status, answer.err
        outputs[f"{command[0]} {command[1]}"] = answer.out + answer.err
    return outputs


def run_with_blocks(shell: Shell, environment: dict[str, str]) -> dict[str, str]:
    """Save the secrets as blocks, and run a project with these alone; return what is printed."""
    saved = subprocess.run(
        [sys.executable, "-c", SAVE_BLOCKS],
        cwd=shell.folder,
        env={**shell.environment, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert saved.returncode == 0, saved.stderr
    film = shell.folder / "saved.yaml"
    film.write_text(FILM.replace("project: film", "project: saved").replace("the sea", "the hills"))
    names = {"provider": "sora-credentials", "store": "video-store", "ledger": "video-ledger"}
    options = [part for option, kind in names.items() for part in (f"--{option}", f"{kind}/secretive")]
    answer = shell("run", film, *options, **LOGGING)
    assert answer.status == 0, answer.err
    return {"blocks": saved.stdout + saved.stderr, "run with blocks": answer.out + answer.err}


async def ask_as_agent(shell: Shell, environment: dict[str, str], token: str) -> str:
    """Ask the tools of an agent for a plan and for what was spent; return the answers."""
    variables = {**shell.environment, **environment, "PREFECT_VIDEO_MCP_TOKEN": token}
    transport = StdioTransport(
        str(COMMAND),
        ["mcp", "--account", "sora"],
        env=variables,
        cwd=str(shell.folder),
        keep_alive=False,
        log_file=shell.folder / "mcp.log",
    )
    async with Client(transport) as client:
        plan = await client.call_tool("plan", {"prompt": "dusk over the sea", "duration": 1})
        spend = await client.call_tool("spend", {})
    assert plan.structured_content is not None
    assert "cost_usd" in plan.structured_content
    assert spend.structured_content is not None
    assert spend.structured_content["token"] == "agent"
    return repr((plan, spend))


def assert_everything_is_there(outputs: dict[str, str], left: dict[str, str]) -> None:
    """Assert that what is looked through is what a run leaves, at the level of detail that was requested."""
    assert {"prefect.db", "index.html", "manifest.json", "tokens.yaml", "mcp.log"} <= {Path(path).name for path in left}
    database = "".join(text for path, text in left.items() if Path(path).name.startswith("prefect.db"))
    assert "secretive: 2 of 2 stored" in database
    assert "saved: 2 of 2 stored" in database
    assert "DEBUG" in outputs["run with blocks"]
    assert [path for path in left if "/.prefect/storage/" in path]
    assert "sora:secretive:" in outputs["jobs --json"]
    assert "dusk over the sea" in outputs["rows"]
    assert "dusk over the hills" in outputs["rows"]


def read_service(process: subprocess.Popen[str], receiver: WebhookReceiver, token: str) -> dict[str, str]:
    """Read every kind of answer of a running service, and what it sends to others."""
    assert process.stdout is not None
    first = process.stdout.readline()
    address = first.split("Serving on ")[1].split(". ")[0]
    headers = {"Authorization": f"Bearer {SECRETS['PREFECT_VIDEO_SERVICE_API_TOKEN']}"}
    answers = {"first line": first}
    shot = {"prompt": "dusk over the sea", "duration": 1}
    film = {"project": "requested", "shots": [{"id": "sea", **shot, "resolution": "480p"}]}
    posts = {
        "/v1/jobs": {**shot, "callback_url": receiver.url},
        "/v1/batches": {"jobs": [shot, {**shot, "duration": 60}]},
        "/v1/projects": {"project": film},
        "/v1/projects/plan": {"project": film},
        "/v1/jobs/unknown/cancel": {},
        "/generate": {"prompt": 1},
        "/webhooks/sora": {},
    }
    with httpx.Client(base_url=address, headers=headers, timeout=30) as client:
        for path, body in posts.items():
            answers[path] = client.post(path, json=body, headers={"X-Sora-Signature": "00"}).text
        answers["no token"] = client.get("/v1/jobs", headers={"Authorization": "Bearer other"}).text
        answers["token"] = client.get("/v1/spend", headers={"Authorization": f"Bearer {token}"}).raise_for_status().text
        answers["callback"] = repr(receiver.take(1, timeout_seconds=60))
        for path in ("docs", "openapi.json", "metrics", "healthz", "readyz", "status", "v1/spend", "v1/jobs"):
            answers[path] = client.get(path).text
        job = client.get("/v1/jobs", params={"project": "secretive", "state": "stored"}).json()["jobs"][0]["job_id"]
        answers |= {part: client.get(f"/v1/jobs/{job}{part}").text for part in ("", "/events", "/none")}
        # The service passes on what it reads at a link of S3 that is signed with the secret.
        video = client.get(f"/v1/jobs/{job}/video")
    assert (video.status_code, video.content[4:8]) == (200, b"ftyp")
    answers["/video"] = f"{video.headers}\n{video.content.decode('latin-1')}"
    assert "job.completed" in answers["callback"]
    assert "duration" in answers["/v1/batches"]
    assert all(answers.values())
    return answers
