"""`docs/providers.md` says what the code does and what the conformance suite has seen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from docs.providers_table import NOTES, PAGE, TABLES, abilities, names, opened, page
from prefect_video.errors import InvalidInput
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.registry import provider_names
from prefect_video.shots import Project
from tests.support.accounts import ACCOUNTS, TestAccount

ROOT: Final = Path(__file__).parents[2]


class _Nowhere:
    """An emulator that need not run: nothing is asked of it."""

    url = "http://127.0.0.1:9"
    endpoint = "http://127.0.0.1:9/v1/sora"
    key = "key"
    webhook_secret = "whsec_b2xk"


def provider_of(account: TestAccount) -> str:
    return account.opened(_Nowhere(), "key", HttpSettings()).name


def test_the_tables_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- table: (\w+) -->", text)) == set(TABLES)
    assert page(text) == text, "run: python -m docs.providers_table --write"


def test_every_provider_is_in_the_table_and_in_the_suite() -> None:
    assert set(NOTES) == set(provider_names())
    # The embedded emulator is `sora` at an address of its own.
    assert {provider_of(account) for account in ACCOUNTS} == set(provider_names()) - {"emulator"}


def test_no_table_has_a_ragged_row() -> None:
    for name, table in TABLES.items():
        assert len({len(row) for row in table()}) == 1, name


@pytest.mark.parametrize("account", ACCOUNTS, ids=lambda account: str(account.name))
def test_notes_agree_with_the_suite(account: TestAccount) -> None:
    """The suite tries webhooks and cancelling on each account; the notes may not claim anything else."""
    note = NOTES[provider_of(account)]
    assert (note.signed is not None) == account.delivers
    assert (note.cancels == "before it starts") == account.cancels_queued_only


def test_who_sends_no_webhooks_says_so() -> None:
    for name, note in NOTES.items():
        with pytest.raises(InvalidInput) as refused:
            opened(name).provider.parse_webhook({}, b"{}")
        assert ("sends none" in str(refused.value)) == (note.signed is None), name


def test_readme_names_every_provider_and_what_it_needs() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Providers\n")[2].partition("\n## ")[0]
    assert "(docs/providers.md)" in section
    for name, _, needed, _ in list(names())[1:]:
        assert name in section
        for variable in needed.split() if needed != "nothing" else ():
            assert variable in section, f"{name} needs {variable}"


def test_projects_of_the_page_are_projects() -> None:
    projects = list(_fenced("yaml"))
    assert projects
    for text in projects:
        Project.model_validate(yaml.safe_load(text))


def test_blocks_of_the_page_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect_video.blocks.base import ProviderCredentials

    saved: list[str] = []

    def note(block: ProviderCredentials, name: str) -> None:
        saved.append(f"{block.get_block_type_slug()}/{name}")
        block.get_client()

    monkeypatch.setattr(ProviderCredentials, "save", note)
    for text in _fenced("python"):
        exec(compile(text.replace("…", "key"), str(PAGE), "exec"), {})
    assert saved == ["openai-credentials/gpu-1", "fal-credentials/production"]


def test_what_the_table_says_of_an_unanswered_submit_is_what_is_done() -> None:
    said = {row[0].strip("`"): row[2] for row in abilities()}
    held = {provider_of(account) for account in ACCOUNTS if account.holds_at(_Nowhere())}
    assert {name for name, word in said.items() if word == "**held for a human**"} == held


def test_links_between_pages_lead_somewhere() -> None:
    for file in (PAGE, PAGE.with_name("new-provider.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text(encoding="utf-8")):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def _fenced(language: str) -> Iterator[str]:
    yield from re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
