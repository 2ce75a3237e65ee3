"""`jobs`, `spend`, `review`, `collect`, `cancel`, and the decisions of `resolve`."""

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
from prefect_video.errors import GenerationLost, PromptBlocked
from prefect_video.generations import Generation, Status
from prefect_video.ledger import Job, JobRequest, Ledger, State
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.steps import build_project_job_requests, submit
from prefect_video.project_files import load_project
from prefect_video.projects import Project
from prefect_video.session import Session, SessionRef, open_session
from prefect_video.shots import Shot
from tests.support.cli_fixtures import InProcess
from tests.support.records import an_asset, begin_submit

WAITING = Project(name="film", shots=(Shot(id="sea", prompt="the sea at night", duration=20, resolution="480p"),))
SHORT = Project(name="film", shots=(Shot(id="sea", prompt="the sea at noon", duration=1, resolution="480p"),))


def run_with_session(work: Callable[[Session], Awaitable[Job]]) -> Job:
    async def run() -> Job:
        async with await open_session(SessionRef.from_names("emulator")) as session:
            return await work(session)

    return asyncio.run(run())


def read_job(job_id: str) -> Job:
    async def get() -> Job:
        async with await Ledger.open() as ledger:
            return await ledger.jobs.get(job_id)

    return asyncio.run(get())


async def reserve(session: Session, project: Project) -> Job:
    job_request: JobRequest = (await build_project_job_requests(session, project))[0]
    job = (await session.ledger.claims.claim([job_request])).claims[0].job
    assert job is not None
    return job


def reserve_job(project: Project = SHORT) -> Job:
    return run_with_session(lambda session: reserve(session, project))


def submit_job(project: Project) -> Job:
    async def send(session: Session) -> Job:
        return await submit(session, await reserve(session, project))

    return run_with_session(send)


def create_unanswered_job() -> Job:
    """Create a held job whose submit was sent and not accepted."""

    async def leave(session: Session) -> Job:
        job = await reserve(session, SHORT)
        await begin_submit(session.ledger, job.id)
        await session.ledger.jobs.record_unknown(job.id, "the connection broke")
        return await session.ledger.jobs.hold(job.id, "it is unknown whether it was accepted")

    return run_with_session(leave)


def create_lost_job() -> Job:
    """Create a held, paid job whose generation its provider no longer has."""

    async def lose(session: Session) -> Job:
        job = await submit(session, await reserve(session, SHORT))
        error = GenerationLost("gone", provider="emulator", generation_id=job.generation_id)
        await session.ledger.jobs.record_ended(job.id, State.LOST, error, actual_usd=None)
        return await session.ledger.jobs.hold(job.id, "it was paid for and is lost")

    return run_with_session(lose)


def run_shots(project: Project) -> list[tuple[str, bool]]:
    async def produce() -> list[tuple[str, bool]]:
        async with await open_session(SessionRef.from_names("emulator")) as session:
            report = await run_project(session, project)
            return [(shot.status, shot.cached) for shot in report.shots]

    return asyncio.run(produce())


def create_disputed_job() -> Job:
    """Create a stored job whose provider reports an implausible cost."""

    async def store(session: Session) -> Job:
        job = await submit(session, await reserve(session, SHORT))
        generation = Generation(
            id=job.generation_id or "", provider="emulator", status=Status.COMPLETED, cost_usd=Decimal(999_999)
        )
        await session.ledger.jobs.record_completed(job.id, generation)
        return await session.ledger.jobs.record_stored(job.id, an_asset(job))

    return run_with_session(store)


def test_a_disputed_cost_is_settled(call: InProcess, environment: None) -> None:
    job = create_disputed_job()
    (line,) = call("jobs", "--held", "--json").json["jobs"]
    assert (line["state"], line["disputed_usd"], line["cost_usd"], line["actual_usd"]) == ("stored", 999999, 0.3, None)
    assert "$999999.00" in call("jobs", "--held").out.replace("\n", " ")
    assert call("spend", "--json").json["spent_usd"] == 0.3
    for amount in ("-1", "nan", "inf", "1e30"):
        refused = call("resolve", job.id, f"--cost={amount}")
        assert (refused.status, "--cost" in refused.err) == (2, True), refused.err
    assert read_job(job.id).disputed_usd == 999_999

    answer = call("resolve", job.id, "--cost", "1.25")
    assert (answer.status, "booked as $1.25" in answer.out) == (0, True), answer.err
    after = read_job(job.id)
    assert (after.actual_usd, after.disputed_usd, after.hold_reason) == (Decimal("1.25"), None, None)
    assert call("spend", "--json").json["spent_usd"] == 1.25
    again = call("resolve", job.id, "--cost", "1.25")
    assert (again.status, "not disputed" in again.err) == (2, True)
    assert call("resolve", job.id, "--cost", "1", "--absent").status == 2


def test_a_released_job_costs_nothing(call: InProcess, environment: None) -> None:
    async def release(session: Session) -> Job:
        return await session.ledger.jobs.release_reservation((await reserve(session, SHORT)).id, "it was refused")

    run_with_session(release)
    (job,) = call("jobs", "--json").json["jobs"]
    assert (job["state"], job["cost_usd"]) == ("released", 0)
    assert "$0.00" in call("jobs").out
    assert call("spend", "--json").json["lines"] == []


@pytest.fixture
def slow_emulator(environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Run an emulator that is slow enough to cancel a generation."""
    with Emulator(EmulatorSettings(port=0, speed=1.0)) as running:
        monkeypatch.setenv("PREFECT_VIDEO_EMULATOR_ENDPOINT", running.endpoint)
        yield running


def test_jobs_are_listed_and_filtered(call: InProcess, film: Path) -> None:
    run_shots(load_project(film))
    waiting = create_unanswered_job()

    jobs = call("jobs", "--json").json["jobs"]
    assert [(job["shot"], job["state"]) for job in jobs] == [
        ("sea", "unknown"),
        ("closing", "stored"),
        ("opening", "stored"),
    ]
    assert [job["id"] for job in call("jobs", "--held", "--json").json["jobs"]] == [waiting.id]
    assert [job["shot"] for job in call("jobs", "--state", "stored", "--limit", "1", "--json").json["jobs"]] == [
        "closing"
    ]
    assert call("jobs", "--project", "other", "--json").json == {"jobs": []}
    shown = call("jobs").out
    assert waiting.id[:8] in shown
    assert "it is unknown whether it was accepted" in shown
    assert call("jobs", "--state", "nonsense").status == 2
    assert call("jobs", "--limit", "0").status == 2


def test_spending_is_added_up_for_people_machines_and_spreadsheets(call: InProcess, film: Path) -> None:
    run_shots(load_project(film))
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
    async def refuse(session: Session) -> Job:
        return await session.ledger.reviews.record_screened(
            (await build_project_job_requests(session, SHORT))[0], PromptBlocked("too bright")
        )

    refused = run_with_session(refuse)
    assert call("review", "--json").json["refused"][0]["fingerprint"] == refused.fingerprint
    assert "too bright" in call("review").out

    answer = call("review", "--allow", refused.fingerprint[:12], "--note", "it is a beach", "--json")
    assert answer.json == {"allowed": refused.fingerprint}

    async def allowed() -> set[str]:
        async with await Ledger.open() as ledger:
            return await ledger.reviews.allowed([refused.fingerprint])

    assert asyncio.run(allowed()) == {refused.fingerprint}
    assert call("review", "--allow", "v1:ffff").status == 2
    assert call("review", "--allow", "v1:").status == 2
    assert call("review", "--note", "without").status == 2


def test_what_was_submitted_and_left_is_collected(call: InProcess) -> None:
    left = submit_job(SHORT)
    answer = call("collect", "--wait", "--json")
    assert answer.status == 0
    assert [(line["id"], line["state"], line["outcome"]) for line in answer.json["collected"]] == [
        (left.id, "stored", "stored")
    ]
    assert call("collect").out == "nothing is unfinished\n"


def test_a_held_job_makes_collect_exit_with_1(call: InProcess) -> None:
    create_unanswered_job()
    answer = call("collect", "--json")
    assert answer.status == 1
    assert answer.json["collected"][0]["outcome"] == "is held"


def test_a_running_generation_is_cancelled_at_the_provider(call: InProcess, slow_emulator: Emulator) -> None:
    running = submit_job(WAITING)
    answer = call("cancel", running.id[:8], "--json")
    assert answer.status == 0
    assert answer.json["cancelled"][0]["outcome"] == "cancelled at the provider"
    assert read_job(running.id).state is State.CANCELLED
    assert slow_emulator.usage()["cancelled"] == 1
    assert "was over already" in call("cancel", running.id).out


def test_a_whole_project_is_cancelled_and_others_are_not(call: InProcess) -> None:
    job = reserve_job()
    other = reserve_job(Project(name="other", shots=(Shot(id="b", prompt="another", duration=1),)))
    assert "nothing is owed" in call("cancel", "--project", "film").out
    assert read_job(job.id).state is State.RELEASED
    assert read_job(other.id).state is State.RESERVED


@pytest.mark.parametrize("arguments", [(), ("abcdefgh",), ("x", "--project", "film")])
def test_cancel_needs_ids_or_a_project(call: InProcess, arguments: tuple[str, ...]) -> None:
    assert call("cancel", *arguments).status == 2


def test_an_unanswered_submit_that_was_not_accepted_may_be_sent_again(
    call: InProcess, quick_emulator: Emulator
) -> None:
    job = create_unanswered_job()
    assert run_shots(SHORT) == [("held", False)]
    billed = quick_emulator.usage()["billed"]
    answer = call("resolve", job.id, "--absent", "--json")
    assert (answer.status, answer.json["state"]) == (0, "released")
    assert run_shots(SHORT) == [("stored", False)]
    assert quick_emulator.usage()["billed"] == billed + 1


def test_an_unanswered_submit_that_was_accepted_is_fetched_and_not_bought_again(
    call: InProcess, quick_emulator: Emulator
) -> None:
    job = create_unanswered_job()

    async def accept(session: Session) -> str:
        generation = await session.provider.submit(SHORT.shots[0], idempotency_key=job.id, project="film")
        return generation.id

    async def sent() -> str:
        async with await open_session(SessionRef.from_names("emulator")) as session:
            return await accept(session)

    generation_id = asyncio.run(sent())
    billed = quick_emulator.usage()["submitted"]
    assert call("resolve", job.id, "--generation", "gen_nobody").status == 2
    assert read_job(job.id).hold_reason is not None
    answer = call("resolve", job.id, "--generation", generation_id)
    assert answer.status == 0
    assert "prefect-video collect" in answer.out
    assert call("collect", "--wait").status == 0
    assert read_job(job.id).state is State.STORED
    assert run_shots(SHORT) == [("stored", True)]
    assert quick_emulator.usage()["submitted"] == billed


def test_a_submit_through_a_litellm_proxy_is_settled_by_the_id_that_its_console_shows(
    call: InProcess, quick_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_API_KEY", quick_emulator.key)
    monkeypatch.setenv("LITELLM_BASE_URL", f"{quick_emulator.url}/profiles/litellm/v1")
    quick_emulator.add_fault(operation="submit", kind="reset_after", match={"prompt": "through a proxy"})
    shot = Shot(id="sea", prompt="the sea, through a proxy", duration=1, resolution="480p")
    before = quick_emulator.usage()["accepted"]

    async def produce() -> list[str]:
        async with await open_session(SessionRef.from_names("litellm")) as session:
            report = await run_project(session, Project(name="film", shots=(shot,)))
            return [line.status for line in report.shots]

    assert asyncio.run(produce()) == ["held"]
    (held,) = call("jobs", "--held", "--json").json["jobs"]
    assert "litellm does not list its generations" in held["hold_reason"]
    console_id = quick_emulator.requests()[-1]["id"]
    assert call("resolve", held["id"], "--generation", console_id).status == 0
    assert call("collect", "--wait").status == 0
    assert asyncio.run(produce()) == ["stored"]
    assert quick_emulator.usage()["accepted"] == before + 1


def test_a_generation_of_another_prompt_is_not_taken(call: InProcess) -> None:
    job = create_unanswered_job()
    other = submit_job(Project(name="film", shots=(Shot(id="other", prompt="something else", duration=1),)))
    answer = call("resolve", job.id, "--generation", other.generation_id or "")
    assert answer.status == 2
    assert "another prompt" in answer.err
    assert read_job(job.id).state is State.UNKNOWN


def test_a_lost_video_is_held_until_it_is_bought_again(call: InProcess) -> None:
    job = create_lost_job()
    assert run_shots(SHORT) == [("held", False)]
    assert call("resolve", job.id[:8], "--buy-again").status == 0
    assert read_job(job.id).hold_reason is None
    assert run_shots(SHORT) == [("stored", False)]
    assert call("spend", "--json").json["spent_usd"] == 0.6


def test_a_lost_video_that_is_given_up_is_bought_by_no_run_until_that_is_revoked(call: InProcess) -> None:
    job = create_lost_job()
    answer = call("resolve", job.id, "--give-up", "--json")
    assert (answer.status, answer.json["state"]) == (0, "lost")
    assert run_shots(SHORT) == [("held", False)]
    assert call("resolve", job.id, "--buy-again").status == 0
    assert run_shots(SHORT) == [("stored", False)]


def test_keep_waiting_renews_the_deadline(call: InProcess) -> None:
    job = submit_job(SHORT)

    async def hold() -> None:
        async with await Ledger.open() as ledger:
            await ledger.jobs.set_deadline(job.id, datetime.now(UTC) - timedelta(seconds=1))
            await ledger.jobs.hold(job.id, "it has not ended by its deadline")

    asyncio.run(hold())
    assert run_shots(SHORT) == [("held", False)]
    assert call("resolve", job.id, "--keep-waiting").status == 0
    after = read_job(job.id)
    assert after.hold_reason is None
    assert after.deadline_at is not None
    assert after.deadline_at > datetime.now(UTC)
    assert run_shots(SHORT)[0][0] == "stored"


def test_a_lost_generation_that_exists_after_all_is_resumed(call: InProcess, quick_emulator: Emulator) -> None:
    job = submit_job(SHORT)
    quick_emulator.wait_until_idle()

    async def lose() -> None:
        async with await Ledger.open() as ledger:
            await ledger.jobs.record_ended(job.id, State.LOST, "not known", actual_usd=None, hold_reason="look")

    asyncio.run(lose())
    before = quick_emulator.usage()["submitted"]
    assert call("resolve", job.id, "--absent").status == 2
    answer = call("resolve", job.id, "--generation", job.generation_id or "")
    assert (answer.status, read_job(job.id).state) == (0, State.SUBMITTED)
    assert call("collect", "--wait").status == 0
    assert read_job(job.id).state is State.STORED
    assert quick_emulator.usage()["submitted"] == before


def test_a_generation_whose_key_was_replaced_is_resumed_with_the_new_one(call: InProcess) -> None:
    job = submit_job(SHORT)
    assert call("resolve", job.id, "--generation", job.generation_id or "").status == 2

    async def replace_key() -> None:
        async with await Ledger.open() as ledger:
            await ledger.jobs.assign_account(
                job.id, account="emulator-old", credentials=job.credentials, key_fingerprint="old"
            )

    asyncio.run(replace_key())
    assert run_shots(SHORT) == [("held", False)]
    assert call("resolve", job.id, "--generation", job.generation_id or "").status == 0
    assert (read_job(job.id).account, read_job(job.id).state) == (job.account, State.SUBMITTED)
    assert run_shots(SHORT)[0][0] == "stored"


def test_a_decision_must_fit_the_job(call: InProcess) -> None:
    job = reserve_job()
    for decision in ("--absent", "--buy-again", "--give-up", "--keep-waiting"):
        answer = call("resolve", job.id, decision)
        assert answer.status == 2
        assert "reserved" in answer.err
    assert call("resolve", job.id).status == 2
    assert call("resolve", job.id, "--absent", "--give-up").status == 2
    assert call("resolve", "unknown", "--absent").status == 2


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


def test_a_video_that_is_not_as_requested_is_accepted(call: InProcess, quick_emulator: Emulator) -> None:
    match = {"prompt": "a sea of another length"}
    quick_emulator.add_fault(operation="content", kind="altered_file", alteration="longer", match=match)
    Path("film.yaml").write_text(
        "project: film\nshots:\n  - {id: sea, prompt: a sea of another length, duration: 1, resolution: 480p}\n"
    )

    async def produce() -> None:
        async with await open_session(SessionRef.from_names("emulator")) as session:
            await run_project(session, load_project(Path("film.yaml")))

    asyncio.run(produce())
    (held,) = call("jobs", "--held", "--json").json["jobs"]
    assert f"resolve {held['id']} --accept" in held["hold_reason"]
    answer = call("resolve", held["id"], "--accept", "--json")
    assert answer.status == 0
    assert answer.json["state"] == "stored"
    assert Path("videos/film").joinpath(answer.json["uri"].rpartition("/")[2]).exists()
    assert call("jobs", "--held", "--json").json["jobs"] == []
    assert call("resolve", held["id"], "--accept").status == 2


def test_what_collect_keeps_leaving_is_listed(call: InProcess) -> None:
    async def leave(session: Session) -> Job:
        job = await submit(session, await reserve(session, WAITING))
        for _ in range(2):
            job = await session.ledger.jobs.record_left(job.id, "the provider does not answer.")
        return job

    job = run_with_session(leave)
    assert [listed["id"] for listed in call("jobs", "--held", "--json").json["jobs"]] == [job.id]
    shown = " ".join(call("jobs", "--held").out.split())
    assert "left for later 2 times: the provider does not answer. The next `prefect-video collect` tries" in shown
