"""Jobs, spend, review, and the decisions that only a human can take."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from prefect_video.emulator.settings import EmulatorSettings
from prefect_video.emulator.threaded import Emulator
from prefect_video.errors import GenerationLost, PromptScreened
from prefect_video.generations import Generation, Status
from prefect_video.ledger import Entry, Intent, Ledger, State
from prefect_video.pipeline.project_run import run_project
from prefect_video.pipeline.steps import build_project_intents, submit
from prefect_video.project_files import load_project
from prefect_video.session.refs import StudioRef, open_session
from prefect_video.session.session import Studio
from prefect_video.shots import Project, Shot
from tests.support.cli_fixtures import InProcess
from tests.support.records import an_asset

WAITING = Project(name="film", shots=(Shot(id="sea", prompt="the sea at night", duration=20, resolution="480p"),))
SHORT = Project(name="film", shots=(Shot(id="sea", prompt="the sea at noon", duration=1, resolution="480p"),))


def with_studio(work: Callable[[Studio], Awaitable[Entry]]) -> Entry:
    async def run() -> Entry:
        async with await open_session(StudioRef.of("emulator")) as studio:
            return await work(studio)

    return asyncio.run(run())


def read(entry_id: str) -> Entry:
    async def get() -> Entry:
        async with await Ledger.open() as ledger:
            return await ledger.get(entry_id)

    return asyncio.run(get())


async def reserve(studio: Studio, project: Project) -> Entry:
    intent: Intent = (await build_project_intents(studio, project))[0]
    entry = (await studio.ledger.claim([intent])).claims[0].entry
    assert entry is not None
    return entry


def reserved(project: Project = SHORT) -> Entry:
    return with_studio(lambda studio: reserve(studio, project))


def submitted(project: Project) -> Entry:
    async def send(studio: Studio) -> Entry:
        return await submit(studio, await reserve(studio, project))

    return with_studio(send)


def unanswered() -> Entry:
    """A row whose submit went out, was accepted by nobody, and waits for a human."""

    async def leave(studio: Studio) -> Entry:
        entry = await reserve(studio, SHORT)
        await studio.ledger.begin_submit(entry.id)
        await studio.ledger.record_unknown(entry.id, "the connection broke")
        return await studio.ledger.flag(entry.id, "nobody can tell whether it was accepted")

    return with_studio(leave)


def lost() -> Entry:
    """A paid row whose generation its provider has forgotten, held for a human."""

    async def lose(studio: Studio) -> Entry:
        entry = await submit(studio, await reserve(studio, SHORT))
        error = GenerationLost("gone", provider="emulator", generation_id=entry.generation_id)
        await studio.ledger.record_ended(entry.id, State.LOST, error, actual_usd=None)
        return await studio.ledger.flag(entry.id, "it was paid for and is gone")

    return with_studio(lose)


def make(project: Project) -> list[tuple[str, bool]]:
    async def produce() -> list[tuple[str, bool]]:
        async with await open_session(StudioRef.of("emulator")) as studio:
            report = await run_project(studio, project)
            return [(shot.status, shot.cached) for shot in report.shots]

    return asyncio.run(produce())


def disputed() -> Entry:
    """A stored row whose provider says that it cost a fortune."""

    async def store(studio: Studio) -> Entry:
        entry = await submit(studio, await reserve(studio, SHORT))
        generation = Generation(
            id=entry.generation_id or "", provider="emulator", status=Status.COMPLETED, cost_usd=Decimal(999_999)
        )
        await studio.ledger.record_completed(entry.id, generation)
        return await studio.ledger.record_stored(entry.id, an_asset(entry))

    return with_studio(store)


def test_a_cost_that_is_not_believed_is_settled(call: InProcess, environment: None) -> None:
    entry = disputed()
    (job,) = call("jobs", "--attention", "--json").json["jobs"]
    assert (job["state"], job["disputed_usd"], job["cost_usd"], job["actual_usd"]) == ("stored", 999999, 0.3, None)
    assert "$999999.00" in call("jobs", "--attention").out.replace("\n", " ")
    assert call("spend", "--json").json["spent_usd"] == 0.3
    for amount in ("-1", "nan", "inf", "1e30"):
        refused = call("resolve", entry.id, f"--cost={amount}")
        assert (refused.status, "--cost" in refused.err) == (2, True), refused.err
    assert read(entry.id).disputed_usd == 999_999

    answer = call("resolve", entry.id, "--cost", "1.25")
    assert (answer.status, "booked as $1.25" in answer.out) == (0, True), answer.err
    after = read(entry.id)
    assert (after.actual_usd, after.disputed_usd, after.attention) == (Decimal("1.25"), None, None)
    assert call("spend", "--json").json["spent_usd"] == 1.25
    again = call("resolve", entry.id, "--cost", "1.25")
    assert (again.status, "not disputed" in again.err) == (2, True)
    assert call("resolve", entry.id, "--cost", "1", "--absent").status == 2


def test_a_released_job_costs_nothing(call: InProcess, environment: None) -> None:
    async def release(studio: Studio) -> Entry:
        return await studio.ledger.release((await reserve(studio, SHORT)).id, "it was refused")

    with_studio(release)
    (job,) = call("jobs", "--json").json["jobs"]
    assert (job["state"], job["cost_usd"]) == ("released", 0)
    assert "$0.00" in call("jobs").out
    assert call("spend", "--json").json["lines"] == []


@pytest.fixture
def slow_emulator(environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(EmulatorSettings(port=0, speed=1.0)) as running:
        monkeypatch.setenv("PREFECT_VIDEO_EMULATOR_ENDPOINT", running.endpoint)
        yield running


def test_jobs_are_listed_and_filtered(call: InProcess, film: Path) -> None:
    make(load_project(film))
    waiting = unanswered()

    jobs = call("jobs", "--json").json["jobs"]
    assert [(job["shot"], job["state"]) for job in jobs] == [
        ("sea", "unknown"),
        ("closing", "stored"),
        ("opening", "stored"),
    ]
    assert [job["id"] for job in call("jobs", "--attention", "--json").json["jobs"]] == [waiting.id]
    assert [job["shot"] for job in call("jobs", "--state", "stored", "--limit", "1", "--json").json["jobs"]] == [
        "closing"
    ]
    assert call("jobs", "--project", "other", "--json").json == {"jobs": []}
    shown = call("jobs").out
    assert waiting.id[:8] in shown
    assert "nobody can tell whether it was accepted" in shown
    assert call("jobs", "--state", "nonsense").status == 2
    assert call("jobs", "--limit", "0").status == 2


def test_spending_is_added_up_for_people_machines_and_spreadsheets(call: InProcess, film: Path) -> None:
    make(load_project(film))
    answer = call("spend", "--by", "project", "--json").json
    assert answer["spent_usd"] == 0.9
    line = {"project": "film", "videos": 2, "stored": 2, "spent_usd": 0.9, "reserved_usd": 0}
    assert answer["lines"] == [{**line, "unpriced": 0, "assumed_usd": 0}]
    rows = list(csv.DictReader(io.StringIO(call("spend", "--by", "model", "--csv").out)))
    assert [(row["model"], Decimal(row["spent_usd"])) for row in rows] == [("sora-2", Decimal("0.9"))]
    assert "$0.90 spent" in call("spend").out
    assert call("spend", "--since", "2999-01-01", "--json").json["lines"] == []
    assert call("spend", "--csv", "--json").status == 2


def test_a_refused_prompt_is_reviewed_and_allowed_by_the_beginning_of_its_fingerprint(call: InProcess) -> None:
    async def refuse(studio: Studio) -> Entry:
        return await studio.ledger.record_screened(
            (await build_project_intents(studio, SHORT))[0], PromptScreened("too bright")
        )

    refused = with_studio(refuse)
    assert call("review", "--json").json["refused"][0]["fingerprint"] == refused.fingerprint
    assert "too bright" in call("review").out

    answer = call("review", "--allow", refused.fingerprint[:12], "--note", "it is a beach", "--json")
    assert answer.json == {"allowed": refused.fingerprint}

    async def allowed() -> set[str]:
        async with await Ledger.open() as ledger:
            return await ledger.allowed([refused.fingerprint])

    assert asyncio.run(allowed()) == {refused.fingerprint}
    assert call("review", "--allow", "v1:ffff").status == 2
    assert call("review", "--allow", "v1:").status == 2
    assert call("review", "--note", "without").status == 2


def test_what_was_submitted_and_left_is_collected(call: InProcess) -> None:
    left = submitted(SHORT)
    answer = call("collect", "--wait", "--json")
    assert answer.status == 0
    assert [(line["id"], line["state"], line["outcome"]) for line in answer.json["collected"]] == [
        (left.id, "stored", "stored")
    ]
    assert call("collect").out == "nothing is unfinished\n"


def test_what_waits_for_a_human_makes_collect_say_so(call: InProcess) -> None:
    unanswered()
    answer = call("collect", "--json")
    assert answer.status == 1
    assert answer.json["collected"][0]["outcome"] == "needs a human"


def test_a_running_generation_is_cancelled_at_the_provider(call: InProcess, slow_emulator: Emulator) -> None:
    running = submitted(WAITING)
    answer = call("cancel", running.id[:8], "--json")
    assert answer.status == 0
    assert answer.json["cancelled"][0]["outcome"] == "cancelled at the provider"
    assert read(running.id).state is State.CANCELLED
    assert slow_emulator.books()["cancelled"] == 1
    assert "was over already" in call("cancel", running.id).out


def test_a_whole_project_is_cancelled_and_others_are_not(call: InProcess) -> None:
    mine = reserved()
    other = reserved(Project(name="other", shots=(Shot(id="b", prompt="another", duration=1),)))
    assert "nothing is owed" in call("cancel", "--project", "film").out
    assert read(mine.id).state is State.RELEASED
    assert read(other.id).state is State.RESERVED


@pytest.mark.parametrize("arguments", [(), ("abcdefgh",), ("x", "--project", "film")])
def test_cancel_must_be_told_what(call: InProcess, arguments: tuple[str, ...]) -> None:
    assert call("cancel", *arguments).status == 2


def test_an_unanswered_submit_that_was_not_accepted_may_be_sent_anew(call: InProcess, quick_emulator: Emulator) -> None:
    job = unanswered()
    assert make(SHORT) == [("held", False)]
    billed = quick_emulator.books()["billed"]
    answer = call("resolve", job.id, "--absent", "--json")
    assert (answer.status, answer.json["state"]) == (0, "released")
    assert make(SHORT) == [("stored", False)]
    assert quick_emulator.books()["billed"] == billed + 1


def test_an_unanswered_submit_that_was_accepted_is_fetched_and_not_bought_again(
    call: InProcess, quick_emulator: Emulator
) -> None:
    job = unanswered()

    async def accept(studio: Studio) -> str:
        generation = await studio.provider.submit(SHORT.shots[0], idempotency_key=job.id, project="film")
        return generation.id

    async def sent() -> str:
        async with await open_session(StudioRef.of("emulator")) as studio:
            return await accept(studio)

    generation_id = asyncio.run(sent())
    billed = quick_emulator.books()["submitted"]
    assert call("resolve", job.id, "--generation", "gen_nobody").status == 2
    assert read(job.id).attention is not None
    answer = call("resolve", job.id, "--generation", generation_id)
    assert answer.status == 0
    assert "prefect-video collect" in answer.out
    assert call("collect", "--wait").status == 0
    assert read(job.id).state is State.STORED
    assert make(SHORT) == [("stored", True)]
    assert quick_emulator.books()["submitted"] == billed


def test_a_generation_of_another_prompt_is_not_taken(call: InProcess) -> None:
    job = unanswered()
    other = submitted(Project(name="film", shots=(Shot(id="other", prompt="something else", duration=1),)))
    answer = call("resolve", job.id, "--generation", other.generation_id or "")
    assert answer.status == 2
    assert "another prompt" in answer.err
    assert read(job.id).state is State.UNKNOWN


def test_a_lost_video_is_held_until_somebody_buys_it_again(call: InProcess) -> None:
    job = lost()
    assert make(SHORT) == [("held", False)]
    assert call("resolve", job.id[:8], "--buy-again").status == 0
    assert read(job.id).attention is None
    assert make(SHORT) == [("stored", False)]
    assert call("spend", "--json").json["spent_usd"] == 0.6


def test_a_lost_video_that_is_given_up_is_bought_by_no_run_until_somebody_says_so(call: InProcess) -> None:
    job = lost()
    answer = call("resolve", job.id, "--give-up", "--json")
    assert (answer.status, answer.json["state"]) == (0, "lost")
    assert make(SHORT) == [("held", False)]
    assert call("resolve", job.id, "--buy-again").status == 0
    assert make(SHORT) == [("stored", False)]


def test_a_generation_past_its_deadline_is_waited_for_once_more(call: InProcess) -> None:
    job = submitted(SHORT)

    async def hold() -> None:
        async with await Ledger.open() as ledger:
            await ledger.set_deadline(job.id, datetime.now(UTC) - timedelta(seconds=1))
            await ledger.flag(job.id, "it has not ended by its deadline")

    asyncio.run(hold())
    assert make(SHORT) == [("held", False)]
    assert call("resolve", job.id, "--keep-waiting").status == 0
    after = read(job.id)
    assert after.attention is None
    assert after.deadline_at is not None
    assert after.deadline_at > datetime.now(UTC)
    assert make(SHORT)[0][0] == "stored"


def test_a_lost_generation_that_is_there_after_all_is_taken_up_again(call: InProcess, quick_emulator: Emulator) -> None:
    job = submitted(SHORT)
    quick_emulator.settle()

    async def lose() -> None:
        async with await Ledger.open() as ledger:
            await ledger.record_ended(job.id, State.LOST, "not known", actual_usd=None, attention="look")

    asyncio.run(lose())
    before = quick_emulator.books()["submitted"]
    assert call("resolve", job.id, "--absent").status == 2
    answer = call("resolve", job.id, "--generation", job.generation_id or "")
    assert (answer.status, read(job.id).state) == (0, State.SUBMITTED)
    assert call("collect", "--wait").status == 0
    assert read(job.id).state is State.STORED
    assert quick_emulator.books()["submitted"] == before


def test_a_generation_whose_key_was_replaced_is_taken_up_with_the_new_one(call: InProcess) -> None:
    job = submitted(SHORT)
    assert call("resolve", job.id, "--generation", job.generation_id or "").status == 2

    async def replace_key() -> None:
        async with await Ledger.open() as ledger:
            await ledger.rebook(job.id, account="emulator-old", credentials=job.credentials)

    asyncio.run(replace_key())
    assert make(SHORT) == [("held", False)]
    assert call("resolve", job.id, "--generation", job.generation_id or "").status == 0
    assert (read(job.id).account, read(job.id).state) == (job.account, State.SUBMITTED)
    assert make(SHORT)[0][0] == "stored"


def test_a_decision_must_fit_the_job(call: InProcess) -> None:
    job = reserved()
    for decision in ("--absent", "--buy-again", "--give-up", "--keep-waiting"):
        answer = call("resolve", job.id, decision)
        assert answer.status == 2
        assert "reserved" in answer.err
    assert call("resolve", job.id).status == 2
    assert call("resolve", job.id, "--absent", "--give-up").status == 2
    assert call("resolve", "nobody", "--absent").status == 2


def test_a_ledger_is_created_checked_and_named_without_its_password(call: InProcess, tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    assert call("ledger", "upgrade", "--ledger", path, "--json").json == {"ledger": f"sqlite:///{path}", "ok": True}
    assert path.exists()
    assert call("ledger", "check", "--ledger", path).status == 0
    path.write_bytes(b"no database at all, but long enough to be read as one" * 100)
    answer = call("ledger", "check", "--ledger", path)
    assert answer.status == 1
    assert "is not a ledger or is damaged" in answer.err
    answer = call("ledger", "check", "--ledger", "postgresql://user:hunter2@127.0.0.1:1/video")
    assert answer.status == 1
    assert "hunter2" not in answer.err + answer.out
