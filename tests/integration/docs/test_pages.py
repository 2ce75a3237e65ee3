"""The tutorial and the how-tos, followed from top to bottom against the emulator, with one Prefect for all."""

from __future__ import annotations

import json
import re
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml
from prefect.client.orchestration import get_client

from prefect_video.emulator import Emulator
from tests.support.page_blocks import (
    Block,
    Command,
    PageRun,
    check_block,
    check_output,
    parse_block,
    read_blocks,
    replace_lines,
)
from tests.support.s3_server import KEY, SECRET, S3Server
from tests.support.storage_fixtures import s3

__all__ = ["s3"]

DOCS: Final = Path(__file__).parents[3] / "docs"
PAGES: Final = [DOCS / "tutorial.md", DOCS / "deploying.md", *sorted((DOCS / "how-to").glob("*.md"))]
FOLLOWED: Final = frozenset(
    {"tutorial", "deploying", "embed", "schedule", "s3", "webhooks", "own-gpus", "routing", "budgets", "approval"}
    | {"key-rotation", "recovery", "from-openai"}
)
"""Pages that there must be, and that are followed."""
READ: Final = ("concepts", "providers", "production", "security", "faq")
"""Further pages that there must be."""


@pytest.fixture
def page_run(tmp_path: Path, emulator: Emulator, prefect_api: str, s3: S3Server) -> Iterator[PageRun]:
    """Yield an empty folder and a shell; what the pages call by an example's address is on this machine."""
    bucket = f"films-{uuid.uuid4().hex[:8]}"
    s3.make_bucket(bucket)
    (tmp_path / "work").mkdir()
    environment = {
        "HOME": str(tmp_path),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": prefect_api,
        "PREFECT_VIDEO_EMULATOR_ENDPOINT": emulator.endpoint,
        "PREFECT_VIDEO_EMULATOR_KEY": emulator.key,
        # A machine with credentials of its own, where S3 is this server.
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": s3.endpoint_url,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    ports = {name: str(find_free_port()) for name in ("8124", "8126")}
    addresses = {
        "http://127.0.0.1:4200/api": prefect_api,
        "postgresql://user:password@host/video": f"sqlite:///{tmp_path}/ledger.db",
        "https://host/v1/sora": emulator.endpoint,
        "http://gpu-1:8000/v1": f"{emulator.url}/profiles/vllm_omni/v1",
        "http://gpu-2:30000/v1": f"{emulator.url}/profiles/sglang/v1",
        "https://api.openai.com/v1": f"{emulator.url}/v1",
        "https://minio.example:9000": s3.endpoint_url,
        "s3://films/": f"s3://{bucket}/",
        "ACCESS-KEY-ID": KEY,
        "SECRET-ACCESS-KEY": SECRET,
        "sk-…": emulator.key,
        "whsec_b2xkLWFuZC1zZWNyZXQ=": emulator.webhook_secret,
        "https://video.example.com": f"http://127.0.0.1:{ports['8124']}",
        **ports,
    }
    states = {
        "the blocks of deploying.md are saved": save_blocks,
        "the provider cannot say whether it has two jobs": leave_two_jobs_unanswered(emulator),
    }
    run = PageRun(tmp_path / "work", environment, addresses, states)
    try:
        yield run
    finally:
        run.kill()
    # No page begins with what another one has deployed.
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)


def find_free_port() -> int:
    """Return a port that nothing listens on: the pages' own may be in use on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def save_blocks(run: PageRun) -> None:
    """Save an account, a store and a ledger as the page about deploying does."""
    (saving,) = [
        block
        for block in read_blocks(DOCS / "deploying.md")
        if block.language == "python" and "VideoLedger" in block.text
    ]
    run.follow(saving)


def leave_two_jobs_unanswered(emulator: Emulator) -> Callable[[PageRun], None]:
    """Return what lets two submits end without an answer: the provider has the first one, and cannot list either."""

    def leave(run: PageRun) -> None:
        emulator.add_fault(operation="list", kind="list_off", times=None)
        for prompt, kind in {"A lighthouse at dusk": "reset_after", "A lighthouse at noon": "reset_before"}.items():
            emulator.add_fault(operation="submit", kind=kind, match={"prompt": prompt})
        shots = "[{id: dusk, prompt: A lighthouse at dusk}, {id: noon, prompt: A lighthouse at noon}]"
        text = f"{{project: shots, defaults: {{duration: 1, resolution: 480p}}, shots: {shots}}}"
        (run.folder / "unanswered.yaml").write_text(text, encoding="utf-8")
        run.run("given", Command("prefect-video run unanswered.yaml; test $? -eq 1", ()))
        emulator.clear_faults()
        jobs = json.loads(run.run("given", Command("prefect-video jobs --held --json", ())))["jobs"]
        accepted, refused = (next(job["id"] for job in jobs if job["shot"] == shot) for shot in ("dusk", "noon"))
        (generation,) = (line["id"] for line in emulator.requests() if line["prompt"] == "A lighthouse at dusk")
        run.addresses |= {"3fa94c07": accepted[:8], "9c20be51": refused[:8], "gen_8d1e": generation}

    return leave


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_does_what_it_says(page: Path, page_run: PageRun, emulator: Emulator) -> None:
    if page.stem == "experiments":
        # So slow that a busy machine sees them unfinished: a late wait does not show how long one took.
        emulator.change_speed(10)
    blocks = read_blocks(page)
    assert any(block.reason is None for block in blocks), f"{page.name}: nothing is run"
    for block in blocks:
        page_run.follow(block)
    page_run.end()


def test_the_pages_that_readers_were_promised_exist() -> None:
    assert {page.stem for page in PAGES} >= FOLLOWED
    assert [name for name in READ if not (DOCS / f"{name}.md").is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_how_to_says_goal_steps_and_how_to_check(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.match(r"# .+\n\n\*\*Goal:\*\* ", text)
    assert "\n## Steps\n" in text or page.stem == "tutorial"
    assert "\n## Check that it worked\n" in text


def test_what_is_not_run_is_checked(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: needs an account -->\n```console\n$ prefect-video plan film.yaml --no-such-option\n```\n"
    )
    (block,) = read_blocks(page)
    with pytest.raises(AssertionError, match="no-such-option"):
        check_block(block)
    wrong = Block("page.md:1", "python", None, "needs an account", "from prefect_video import no_such_name\n")
    with pytest.raises(AssertionError, match="no_such_name"):
        check_block(wrong)


def test_data_is_parsed_and_its_commands_exist() -> None:
    start = {"command": "prefect-video", "args": ["mcp", "--account", "emulator"]}
    servers = {"mcpServers": {"prefect-video": start}}
    parse_block(Block("page.md:1", "json", None, None, json.dumps(servers)))
    start["args"] = ["mcp", "--no-such-option"]
    with pytest.raises(AssertionError, match="no-such-option"):
        parse_block(Block("page.md:1", "json", None, None, json.dumps(servers)))
    with pytest.raises(json.JSONDecodeError):
        parse_block(Block("page.md:1", "json", None, None, "{"))
    with pytest.raises(yaml.YAMLError):
        parse_block(Block("page.md:1", "yaml", None, None, "a: *unknown"))
    with pytest.raises(AssertionError, match="neither run"):
        parse_block(Block("page.md:1", "text", None, None, "a"))


def test_lines_of_a_file_are_replaced_by_their_keys(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("one:\n  a: 1\n  b: 2\n")
    replace_lines(file, "  b: 3\n")
    assert file.read_text() == "one:\n  a: 1\n  b: 3\n"
    with pytest.raises(AssertionError, match="0 lines"):
        replace_lines(file, "  c: 3\n")


def test_what_runs_on_is_waited_for_and_must_end_well(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    run = PageRun(tmp_path / "work", {}, {})
    program = "import signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit({status})); print('ready'); signal.pause()"
    for status in (0, 3):
        command = f'$ python -c "{program.format(status=status)}"\n'
        run.follow(Block("page.md:1", "console", None, None, command, until="ready"))
    with pytest.raises(AssertionError, match="ended with 3"):
        run.end()
    run.kill()
    with pytest.raises(pytest.fail.Exception, match="without 'ready to go'"):
        run.follow(Block("page.md:1", "console", None, None, "$ echo unready\n", until="ready to go"))


def test_an_output_that_is_not_there_is_noticed() -> None:
    check_output("page.md:1", ["opening … stored"], "one\nopening  8 s   stored\n")
    with pytest.raises(AssertionError, match="no line"):
        check_output("page.md:1", ["opening … failed"], "opening  8 s   stored\n")
