"""Pages for people: tables that match the code and the conformance suite, links and paths that lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from docs.providers_table import NOTES, PAGE, TABLES, abilities, names, opened, page
from prefect_video.cli.app import build_app
from prefect_video.errors import InvalidInput
from prefect_video.projects import Project
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.registry import provider_names
from prefect_video.session import Settings
from tests.support.accounts import ACCOUNTS, TestAccount
from tests.support.page_blocks import check_command
from tests.support.production_settings import server_settings

ROOT: Final = Path(__file__).parents[2]
TAKE_AN_ARGUMENT: Final = frozenset({"run"})
"""Commands that sentences name with an option and without their argument."""
PAGES: Final = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


class UnreachableEmulator:
    """Emulator that does not run: no request is sent to it."""

    url = "http://127.0.0.1:9"
    endpoint = "http://127.0.0.1:9/v1/sora"
    key = "key"
    webhook_secret = "whsec_b2xk"


def provider_name(account: TestAccount) -> str:
    """Return the name of the provider that an account of the suite is at."""
    return account.opened(UnreachableEmulator(), "key", HttpSettings()).name


def test_the_tables_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- table: (\w+) -->", text)) == set(TABLES)
    assert page(text) == text, "run: python -m docs.providers_table --write"


def test_every_provider_is_in_the_table_and_in_the_suite() -> None:
    assert set(NOTES) == set(provider_names())
    # The embedded emulator is `sora` at an address of its own.
    assert {provider_name(account) for account in ACCOUNTS} == set(provider_names()) - {"emulator"}


def test_no_table_has_a_ragged_row() -> None:
    for name, table in TABLES.items():
        assert len({len(row) for row in table()}) == 1, name


@pytest.mark.parametrize("account", ACCOUNTS, ids=lambda account: str(account.name))
def test_notes_agree_with_the_suite(account: TestAccount) -> None:
    # The suite tries webhooks and cancelling on each account; the notes may not claim anything else.
    note = NOTES[provider_name(account)]
    assert (note.signed is not None) == account.delivers
    assert (note.cancels == "before it starts") == account.cancels_queued_only


def test_a_provider_without_webhooks_refuses_them() -> None:
    for name, note in NOTES.items():
        with pytest.raises(InvalidInput) as caught:
            opened(name).provider.parse_webhook({}, b"{}")
        assert ("sends none" in str(caught.value)) == (note.signed is None), name


def test_readme_names_every_provider_and_what_it_needs() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Providers\n")[2].partition("\n## ")[0]
    assert "(docs/providers.md)" in section
    for name, _, needed, _ in list(names())[1:]:
        assert name in section
        for variable in needed.split() if needed != "nothing" else ():
            assert variable in section, f"{name} needs {variable}"


def test_the_page_asks_for_a_litellm_proxy_without_retries() -> None:
    (advice,) = re.findall(
        r"^\*\*A LiteLLM proxy\*\*.*?(?=^$)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert re.search(r"Set `router_settings: {num_retries: 0}`", advice)


def test_projects_of_the_page_are_projects() -> None:
    projects = list(_fenced("yaml"))
    assert projects
    for text in projects:
        Project.model_validate(yaml.safe_load(text))


def test_blocks_of_the_page_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect_video.blocks.base import ProviderCredentials

    saved: list[str] = []

    def record(block: ProviderCredentials, name: str) -> None:
        saved.append(f"{block.get_block_type_slug()}/{name}")
        block.get_client()

    monkeypatch.setattr(ProviderCredentials, "save", record)
    for text in _fenced("python"):
        exec(compile(text.replace("…", "key"), str(PAGE), "exec"), {})
    assert saved == ["openai-credentials/gpu-1", "fal-credentials/production"]


def test_the_table_names_the_providers_that_hold_an_unanswered_submit() -> None:
    outcomes = {row[0].strip("`"): row[2] for row in abilities()}
    held = {provider_name(account) for account in ACCOUNTS if account.holds_at(UnreachableEmulator())}
    assert {name for name, outcome in outcomes.items() if outcome == "**held for a human**"} == held


def test_the_security_page_says_what_is_defended_and_what_is_not() -> None:
    page_text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", page_text, re.MULTILINE) == [
        "Money",
        "Keys",
        "Downloads",
        "The published file is the verified one",
        "Text on its way out",
        "`prefect-video serve`",
        "Not defended",
    ]
    for section in re.split(r"^## .+$", page_text, flags=re.MULTILINE)[1:]:
        assert section.strip()


@pytest.mark.parametrize("file", ["SECURITY.md", "docs/security.md"])
def test_a_weakness_is_reported_through_the_issue_tracker(file: str) -> None:
    assert "through the repository's issue tracker" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    for target, _, anchor in re.findall(r"\]\(([^)#:]*)(#([\w-]+))?\)", file.read_text(encoding="utf-8")):
        page = file.parent / target if target else file
        assert page.exists(), f"{file.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_paths_of_the_repository_exist(file: Path) -> None:
    starts = "|".join(("src", "blocks", "tasks", "flows", "tests", "docs", "examples", "benchmarks"))
    for path in re.findall(rf"`((?:{starts})/[\w./-]*)`", file.read_text(encoding="utf-8")):
        if "NAME" not in path:
            assert (ROOT / path).exists(), f"{file.name}: {path}"


def test_the_tree_of_the_architecture_page_is_the_tree() -> None:
    tree = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("```\n")[2].partition("```")[0]
    rooms = set(re.findall(r"^[├└]── (\w+)/", tree, re.MULTILINE))
    package = ROOT / "src" / "prefect_video"
    assert rooms == {path.parent.name for path in package.glob("*/__init__.py")}
    records = set(re.findall(r"\w+\.py", tree.replace(" ", "\n")))
    assert records == {path.name for path in package.glob("*.py") if not path.name.startswith("_")}


def test_every_name_of_the_glossary_is_in_the_code() -> None:
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    names = {name for source in sources for name in re.findall(r"\w+", source)}
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert len(rows) > 30
    for term, code_names in rows:
        for name in re.findall(r"`([A-Za-z_]+)(?:[.(][\w()]*)?`", code_names):
            assert name in names, f"{term}: {name}"


def test_the_settings_of_the_operations_page_are_settings() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = page.partition("## Settings\n")[2].partition("\n## ")[0]
    listed = {
        name.lower() for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE) for name in row.split("`")[1::2]
    }
    assert listed - set(Settings.model_fields) == {"store", "ledger_url", "emulator_speed"}
    explained_elsewhere = {"max_cost_ratio", "max_unpriced_cost_usd", "webhook_url"}
    assert set(Settings.model_fields) - listed <= explained_elsewhere | {"concurrency_limit"}


def test_the_server_of_the_production_page_is_the_one_that_is_tested() -> None:
    text = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(PREFECT_API_DATABASE_.*?)```", text, re.DOTALL)
    # A line may end with a comment.
    given = dict(line.partition("  #")[0].strip().split("=", 1) for line in block.splitlines())
    host, database = given["PREFECT_REDIS_MESSAGING_HOST"], given["PREFECT_API_DATABASE_CONNECTION_URL"]
    tested = server_settings(database.replace("+asyncpg", ""), int(given["PREFECT_REDIS_MESSAGING_PORT"]))
    assert given == {name: value.replace("127.0.0.1", host) for name, value in tested.items()}


def test_every_command_of_prefect_that_is_recommended_exists() -> None:
    from prefect.cli._app import _app

    files = [*PAGES, *(path for path in (ROOT / "src").rglob("*") if path.suffix in {".py", ".yaml", ".md", ".html"})]
    lines = (line for file in files for line in file.read_text(encoding="utf-8").splitlines())
    named = {
        tuple(words.split())
        for line in lines
        for words in re.findall(r"\bprefect ([a-z][a-z-]*(?: [a-z][a-z-]*)*)", line)
    }
    recommended = [words for words in named if words[0] in _app]
    assert len(recommended) > 15
    for words in recommended:
        _, groups, rest = _app.parse_commands(words)
        # What is left over are arguments, which a group takes none of.
        assert not rest or all(name.startswith("-") for name in groups[-1]), words


def test_every_command_of_ours_that_a_sentence_names_exists() -> None:
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    named = {
        " ".join(command.split()): file.name
        for file in files
        for command in re.findall(r"`prefect-video (\w[^`]*)`", _without_fences(file.read_text(encoding="utf-8")))
    }
    assert len(named) > 30
    for command, file in named.items():
        _check_named(file, command)


@pytest.mark.parametrize(
    "command", ["no-such", "jobs --no-such", "account no-such", "resolve ID --cost word", "run --no-such"]
)
def test_a_command_that_does_not_exist_is_noticed(command: str) -> None:
    with pytest.raises(AssertionError):
        _check_named("page.md", command)


def _check_named(file: str, command: str) -> None:
    """Check a command that a sentence names; one without its arguments need only exist."""
    # What may be left out is there in the check; `a|b` are commands of their own, and an amount is one.
    words = command.replace("[", "").replace("]", "").replace("…", "").replace("USD", "1").split()
    if words[0] == "COMMAND":
        return
    for choice in words[-1].split("|"):
        chosen = [*words[:-1], choice]
        path, _, rest = build_app().parse_commands(chosen)
        if rest and rest[0].startswith("-") and path and path[0] in TAKE_AN_ARGUMENT:
            rest = ["sample", *rest]
        if rest:
            check_command(file, shlex.join(["prefect-video", *path, *rest]))


def _without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def _fenced(language: str) -> Iterator[str]:
    """Yield the fenced blocks of the providers page in a language."""
    yield from re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
