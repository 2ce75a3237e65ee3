"""The tutorial and the how-tos, followed from top to bottom against the emulator, with one Prefect for all."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from prefect.client.orchestration import get_client

from prefect_video.emulator import Emulator
from tests.support.page_blocks import Block, PageRun, check_block, check_output, read_blocks
from tests.support.s3_server import KEY, SECRET, S3Server
from tests.support.storage_fixtures import s3

__all__ = ["s3"]

DOCS: Final = Path(__file__).parents[3] / "docs"
PAGES: Final = [DOCS / "tutorial.md", DOCS / "deploying.md", *sorted((DOCS / "how-to").glob("*.md"))]
FOLLOWED: Final = frozenset(
    "tutorial deploying embed schedule s3 webhooks own-gpus routing budgets approval key-rotation recovery from-openai".split()
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
    }
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
    }
    yield PageRun(tmp_path / "work", environment, addresses)
    # No page begins with what another one has deployed.
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_does_what_it_says(page: Path, page_run: PageRun, emulator: Emulator) -> None:
    if page.stem == "experiments":
        # So slow that a busy machine sees them unfinished: a late wait does not show how long one took.
        emulator.change_speed(10)
    blocks = read_blocks(page)
    assert any(block.reason is None for block in blocks), f"{page.name}: nothing is run"
    for block in blocks:
        page_run.follow(block)


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


def test_an_output_that_is_not_there_is_noticed() -> None:
    check_output("page.md:1", ["opening … stored"], "one\nopening  8 s   stored\n")
    with pytest.raises(AssertionError, match="no line"):
        check_output("page.md:1", ["opening … failed"], "opening  8 s   stored\n")
