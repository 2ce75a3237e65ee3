"""Vocabulary: one word for one thing, in code, messages and docs; the words that were given up stay away."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
CODE: Final = ("src", "blocks", "tasks", "flows", "tests", "benchmarks", "examples", "docs")

RETIRED: Final[Mapping[str, str]] = {
    # Session, pipeline
    "Studio": "Session",
    "StudioRef": "SessionRef",
    "StudioSettings": "Settings",
    "open_studio": "open_session",
    "Making": "ProjectRun",
    "Wanted": "TakeRequest",
    "Way": "Candidate",
    "Moment": "SessionEvent",
    "wanted_of": "build_take_requests",
    "intents_of": "build_job_requests",
    "takes_of": "build_job_requests",
    "build_project_intents": "build_project_job_requests",
    "budgets_of": "project_budgets",
    "draft_of": "asset_draft",
    "tasks_of": "task_runner",
    "steps_of": "step_runner",
    "ref_of": "ref_for_job",
    "studios_used": "sessions_of",
    "produce_project": "run_project",
    "PlainSteps": "StepRunner",
    "TaskSteps": "StepRunner",
    "Departure": "DetachBarrier",
    "Passage": "DetachToken",
    "give_back": "release_claims",
    "bring_home": "copy_to_project",
    "known_copies": "load_copies",
    "leave_told": "stash_generation",
    "take_told": "pop_generation",
    "last_told": "fresh_generations",
    "settle_stray": "handle_orphan",
    "record_stray": "record_orphan",
    "to_its_end": "shielded",
    "ShotsFailed": "ProjectFailed",
    # Ledger
    "Entry": "Job",
    "entry_id": "job_id",
    "attention": "hold_reason",
    "NeedsAttention": "HeldForReview",
    "let_go": "release_ownership",
    "owner_alive": "is_owner_alive",
    "stop_waiting": "leave_slot_queue",
    "renew_submit": "refresh_submit",
    "LedgerPart": "LedgerBase",
    "BudgetStanding": "BudgetUsage",
    "CREEP_SECONDS": "SLOT_RECOVERY_SECONDS",
    "writing_aside": "writing_immediately",
    "Strays": "Transitions",
    # Polling, limits
    "Watcher": "Poller",
    "Inquiry": "StatusRequests",
    "Agenda": "PollQueue, Scheduler",
    "Listing": "ListStrategy",
    "Expectation": "CompletionEstimate",
    "LearnedTimes": "LatencyCache",
    "RowWatch": "JobWatcher",
    "Breaker": "CircuitBreaker",
    "Turns": "PrioritySemaphore",
    "Pace": "RateLimiter",
    "give_way": "yield_to_higher",
    # Providers, downloads, storage
    "Wire": "ResponseModel",
    "Loose": "LenientModel",
    "Told": "ModelT",
    "UnlistedProvider": "HttpProvider",
    "GuardedProvider": "CircuitBreakerProvider",
    "native_id": "unwrap_id",
    "check_fit": "check_supported",
    "free_ends": "free_outcomes",
    "takes_webhook_url": "supports_webhook_url",
    "Spool": "PartialFile",
    "Reach": "AddressKind",
    "find_elsewhere": "exists_anywhere",
    "or_in_environment": "missing_key_hint",
    "MisplacedError": "LocatedError",
    # Errors
    "UnreadableAnswer": "InvalidResponse",
    "SubmitUnknown": "SubmitOutcomeUnknown",
    "DeadlinePassed": "DeadlineExceeded",
    "NotPlayable": "InvalidVideo",
    "LinkRefused": "UnsafeUrl",
    "BrokenDownload": "IncompleteDownload",
    "PromptScreened": "PromptBlocked",
    "PolicyRefused": "ContentPolicyError",
    "RequestRefused": "RequestRejected",
    "IllegalTransition": "InvalidTransition",
    "LedgerOutdated": "LedgerSchemaMismatch",
    "Stranger": "UnknownGeneration",
    "NotYet": "NotFinished",
    # Service, command line, emulator
    "Desk": "DialectHandler",
    "pass_gate": "with_faults",
    "Books": "UsageCounters",
    "Lettering": "TextOverlay",
    "Courier": "WebhookSender",
    "FaultBoard": "FaultRules",
}
"""Identifiers that were given up, and the ones that replace them; house words that no reader of the field knows."""

PROSE: Final[Mapping[str, str]] = {
    "whoever": "owner, or the one who is meant",
    "somebody": "another process, a human",
    "nobody": "no owner",
    "under way": "in progress",
    "for ever": "indefinitely",
    "at the most": "at most",
    "what becomes of": "outcome",
    "as it then stands": "afterwards",
    "needs a human": "is held",
    "--attention": "--held",
    "the books": "the ledger, the usage",
    "turned away": "rejected",
    "a look": "a poll, a read",
    "asked for": "requested",
}
"""Words of prose that were given up."""

QUESTIONS: Final = frozenset({"What", "Whether", "How", "Where", "When", "Why", "Who", "Which"})
"""Words that no docstring begins with: it says what a thing does, or is."""

VAGUE: Final = frozenset({"one", "told", "asked", "word", "said"})
"""Names that say nothing about the value: a job, a shot, a request or a response is named as what it is."""

THIS: Final = Path(__file__)

RETIRED_NAME: Final = re.compile(rf"\b(?:{'|'.join(map(re.escape, RETIRED))})\b")
RETIRED_PHRASE: Final = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, PROSE))})(?![\w-])")
"""Any of them: what has none need not be looked at word by word, which takes a second for each folder."""


@dataclass(frozen=True)
class Statements:
    """What the statements of a source say, each with its line: its syntax tree is built and walked once.

    Attributes:
        texts: Every text: docstrings, messages, logs.
        declared: Every name that is declared: variables, parameters, attributes, functions, classes. A method of a
            library, such as `one` of a query's result, is called and not declared.
        docstrings: Every docstring, without a line.
    """

    texts: list[tuple[int, str]] = field(default_factory=list)
    declared: list[tuple[int, str]] = field(default_factory=list)
    docstrings: list[str] = field(default_factory=list)


def source_files(folder: str) -> list[Path]:
    """Find every Python file of a folder but this one, which has to name the words."""
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if path != THIS]


def pages() -> list[Path]:
    """Find every page for people, and every file besides the sources that says something to them."""
    texts = ("*.yaml", "*.html", "*.js", "*.css", "*.toml", "*.example", "Makefile", "Dockerfile", "README.md")
    own = (
        path
        for folder in (*CODE, ".github", "docs")
        for name in (*texts, "*.yml")
        for path in (ROOT / folder).rglob(name)
    )
    beside = (path for name in ("*.md", *texts) for path in ROOT.glob(name))
    return sorted({*beside, *own, *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")})


def find_retired_names(source: str) -> Iterator[tuple[int, str]]:
    """Yield every retired identifier in a source with its line, without those in comments and texts."""
    if RETIRED_NAME.search(source):
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NAME and token.string in RETIRED:
                yield token.start[0], token.string


def find_retired_comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield every retired word of prose in a source's comments with its line."""
    if any(find_retired_words(line.partition("#")[2]) for line in source.split("\n") if "#" in line):
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield from ((token.start[0], phrase) for phrase in sorted(find_retired_words(token.string)))


def find_retired_prose(source: str, statements: Statements) -> Iterator[tuple[int, str]]:
    """Yield every retired word of prose in a source's comments and texts with its line."""
    yield from find_retired_comments(source)
    for line, text in statements.texts:
        yield from ((line, phrase) for phrase in sorted(find_retired_words(text)))


@cache
def read_file(path: Path) -> tuple[str, Statements]:
    """Return the source of a file, and what its statements say."""
    source = path.read_text(encoding="utf-8")
    return source, read_statements(source)


def read_statements(source: str) -> Statements:
    """Return what the statements of a source say."""
    found = Statements()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                found.texts.append((node.lineno, node.value))
            continue
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            about := ast.get_docstring(node)
        ):
            found.docstrings.append(about)
        if name := declared_name(node):
            found.declared.append((getattr(node, "lineno", 0), name))
    return found


def declared_name(node: ast.AST) -> str | None:
    """Return the name that a node of a syntax tree declares, None for one that declares none."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
            return name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return name
        case ast.alias(asname=str(name)) | ast.MatchMapping(rest=str(name)):
            return name
    return None


def find_retired_words(text: str) -> set[str]:
    """Return the retired words of prose that stand in a text, over line ends too."""
    flat = re.sub(r"\s+", " ", text).casefold()
    if not RETIRED_PHRASE.search(flat):
        return set()
    return {phrase for phrase in PROSE if re.search(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", flat)}


def retired_identifiers(folder: str) -> list[str]:
    """Find the retired identifiers of a folder, as `file:line: old -> new`."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {name} -> {RETIRED[name]}"
        for path in source_files(folder)
        for line, name in find_retired_names(read_file(path)[0])
    ]


def retired_prose(folder: str) -> list[str]:
    """Find the retired words in a folder's texts, as `file:line: old -> new`."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {phrase!r} -> {PROSE[phrase]!r}"
        for path in source_files(folder)
        for line, phrase in find_retired_prose(*read_file(path))
    ]


@pytest.mark.parametrize("folder", CODE)
def test_no_identifier_is_a_retired_word(folder: str) -> None:
    assert retired_identifiers(folder) == []


@pytest.mark.parametrize("folder", CODE)
def test_no_name_is_a_vague_one(folder: str) -> None:
    assert [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, name in read_file(path)[1].declared
        if name in VAGUE
    ] == []


@pytest.mark.parametrize("folder", CODE)
def test_no_message_or_comment_has_a_retired_word(folder: str) -> None:
    assert retired_prose(folder) == []


@pytest.mark.parametrize("folder", ["src", "blocks", "tasks", "flows"])
def test_no_docstring_begins_with_a_question_or_only_points_elsewhere(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {about.splitlines()[0]}"
        for path in source_files(folder)
        for about in read_file(path)[1].docstrings
        if about.split()[0] in QUESTIONS or re.fullmatch(r"(See|As for) \S+", about)
    ]
    assert found == []


def test_no_page_has_a_retired_word() -> None:
    names = re.compile("|".join(rf"`{re.escape(name)}\b" for name in RETIRED))
    found = {}
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if words := find_retired_words(text) | set(names.findall(text)):
            found[str(page.relative_to(ROOT))] = words
    assert found == {}


def test_retired_words_are_found_where_they_stand() -> None:
    source = (
        '"""Ask whoever holds it."""\nclass Studio:\n    pass  # nobody\n\nraise ValueError(f"{1} is under\\nway")\n'
    )
    assert [name for _, name in find_retired_names(source)] == ["Studio"]
    assert {phrase for _, phrase in find_retired_prose(source, read_statements(source))} == {
        "whoever",
        "nobody",
        "under way",
    }
    assert find_retired_words("Somebody-else's e-books are unaffected; attention is paid.") == set()


@pytest.mark.parametrize(
    "source",
    [
        "one = 1",
        "told: int = 1",
        "for asked, _ in pairs: pass",
        "[word for word in words]",
        "if said := read(): pass",
        "self.asked = 0",
        "def find(*, word): pass",
        "async def one(): pass",
        "lambda told: told",
        "with open(path) as said: pass",
        "try: pass\nexcept OSError as told: pass",
        "import json as one",
        "match value:\n    case [one, *_]: pass",
        "class one: pass",
    ],
)
def test_vague_names_are_found_where_they_are_declared(source: str) -> None:
    assert VAGUE & {name for _, name in read_statements(source).declared}


def test_a_method_and_a_longer_name_are_not_vague() -> None:
    statements = read_statements("total = result.one()\nwords, one_line = split(total, word='a')")
    assert {name for _, name in statements.declared} == {"total", "words", "one_line"}


def test_no_name_is_both_retired_and_in_use() -> None:
    replacements = {name for names in RETIRED.values() for name in names.split(", ")}
    assert replacements.isdisjoint(RETIRED)
