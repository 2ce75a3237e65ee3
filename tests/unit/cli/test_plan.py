"""`plan`, `optimize` and `schema`: nothing is sent and nothing reserved."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest

from prefect_video.cli.report_view import show_report
from prefect_video.emulator.threaded import Emulator
from prefect_video.ledger import CommittedSums, usd_sum
from prefect_video.pipeline import ProjectReport
from prefect_video.pipeline.entry_points import run_project
from prefect_video.project_files import load_project
from prefect_video.session import SessionRef, open_session
from tests.support.cli_fixtures import InProcess


def run_file(path: Path, provider: str = "emulator") -> ProjectReport:
    """Run a project file with a provider, by default the emulator, without Prefect."""

    async def produce() -> ProjectReport:
        async with await open_session(SessionRef.from_names(provider)) as session:
            return await run_project(session, load_project(path))

    return asyncio.run(produce())


def test_a_new_project_is_to_be_generated_and_costs_what_the_table_says(
    call: InProcess, film: Path, quick_emulator: Emulator
) -> None:
    requests = quick_emulator.usage()["requests"]
    answer = call("plan", film, "--json")
    assert answer.status == 0
    assert [(shot["id"], shot["action"], shot["estimate_usd"]) for shot in answer.json["shots"]] == [
        ("opening", "generate", 0.6),
        ("closing", "generate", 0.3),
    ]
    assert answer.json["cost_usd"] == 0.9
    assert answer.json["fits"] is True
    assert quick_emulator.usage()["requests"] == requests
    assert call("jobs", "--json").json == {"jobs": []}
    assert not Path("videos").exists()


def test_a_stored_video_is_cached_until_its_file_is_missing(call: InProcess, film: Path) -> None:
    run_file(film)
    answer = call("plan", film, "--json")
    assert [shot["action"] for shot in answer.json["shots"]] == ["cached", "cached"]
    assert answer.json["cost_usd"] == 0

    next(Path("videos/film").glob("opening*.mp4")).unlink()
    planned = call("plan", film, "--json").json["shots"]
    assert [shot["action"] for shot in planned] == ["in_progress", "cached"]
    assert "missing: fetched again" in planned[0]["reason"]
    assert {job["state"] for job in call("jobs", "--json").json["jobs"]} == {"stored"}

    assert [shot["action"] for shot in call("plan", film, "--refresh", "--json").json["shots"]] == ["generate"] * 2


def test_a_budget_that_would_not_hold_is_exit_status_3(call: InProcess, film: Path) -> None:
    film.write_text("budget_usd: 0.75\nbudget_videos: 5\n" + film.read_text())
    answer = call("plan", film, "--json")
    assert answer.status == 3
    assert answer.json["fits"] is False
    assert "the limit is $0.75" in answer.json["refusal"]
    assert answer.json["limits"] == [
        {"name": "project film", "limit_usd": 0.75, "limit_videos": 5, "spent_usd": 0, "reserved_usd": 0, "videos": 0}
    ]
    shown = call("plan", film)
    assert "$0.00 spent and $0.00 reserved of $0.75, 0 of 5 videos" in shown.out
    assert "over budget" in shown.out


def test_shots_that_still_fit_are_planned_where_the_project_says_so(call: InProcess, film: Path) -> None:
    film.write_text("budget_usd: 0.75\nover_budget: fit\n" + film.read_text())
    answer = call("plan", film, "--json")
    assert answer.status == 3
    assert [shot["action"] for shot in answer.json["shots"]] == ["generate", "over_budget"]


def test_a_plan_agrees_with_the_run_that_follows(call: InProcess, film: Path) -> None:
    film.write_text("budget_usd: 0.9\n" + film.read_text())
    planned = call("plan", film, "--json").json["cost_usd"]
    run_file(film)
    assert call("spend", "--by", "project", "--json").json["spent_usd"] == planned


def test_hints_on_duration_come_from_the_price_table(call: InProcess) -> None:
    Path("film.yaml").write_text(
        "project: film\nshots:\n"
        "  - {id: a, prompt: x, duration: 9}\n"
        "  - {id: b, prompt: y, duration: 12, metadata: {content_type: broll}}\n"
    )
    shots = call("plan", "film.yaml", "--json").json["shots"]
    assert shots[0]["hints"] == ["10 s would cost $2.50, 9 s cost $2.70"]
    assert shots[1]["hints"] == ["8 s suit broll content and cost $2.40 instead of $3.00"]
    assert "hint b: 8 s suit broll content" in call("plan", "film.yaml").out


def test_the_same_video_twice_is_bought_once(call: InProcess) -> None:
    Path("film.yaml").write_text(
        "project: film\ndefaults: {duration: 1}\nshots:\n  - {id: a, prompt: x}\n  - {id: b, prompt: x}\n"
    )
    answer = call("plan", "film.yaml", "--json")
    assert [shot["action"] for shot in answer.json["shots"]] == ["generate", "in_progress"]
    assert answer.json["cost_usd"] == 0.3


@pytest.mark.parametrize(("kind", "seconds"), [("broll", 8), ("product", 10), ("abstract", 15), ("establishing", 12)])
def test_optimize_follows_the_guide(call: InProcess, kind: str, seconds: int) -> None:
    assert call("optimize", "--content-type", kind, "--json").json["seconds"] == seconds


def test_optimize_refuses_an_impossible_length(call: InProcess) -> None:
    assert call("optimize", "--minimum", "30").status == 2


def test_the_schema_is_one_json_object_that_knows_the_fields(call: InProcess) -> None:
    schema = call("schema").json
    assert schema["title"] == "prefect-video project"
    assert {"project", "shots"} <= set(schema["required"])


def test_an_unknown_price_is_nowhere_nothing(
    call: InProcess,
    film: Path,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LITELLM_API_KEY", emulator.key)
    monkeypatch.setenv("LITELLM_BASE_URL", f"{emulator.url}/profiles/litellm/v1")
    film.write_text(film.read_text().replace("defaults: {", "defaults: {model: a-model-of-no-list, "))
    shown = call("plan", film, "--provider", "litellm")
    assert "2 of 2 to generate, price unknown. Nothing was sent." in " ".join(shown.out.split())
    assert "$0.00" not in shown.out
    assert call("plan", film, "--provider", "litellm", "--json").json["unpriced"] == 2

    report = run_file(film, "litellm")
    assert [shot.status for shot in report.shots] == ["stored", "stored"]
    capsys.readouterr()
    show_report(report)
    table = capsys.readouterr().out
    for text in (report.summary(), table):
        assert "2 of 2 stored (0 cached), price unknown" in text
        assert "$0.00" not in text
    assert report.public()["unpriced"] == 2
    assert "price unknown spent, $0.00 reserved" in call("spend", "--by", "project").out
    # Bought at another provider, whose price is known: the sum is a lower bound.
    film.write_text(film.read_text().replace("model: a-model-of-no-list, ", "").replace("over the sea", "over a lake"))
    assert run_file(film).summary().startswith("film: 2 of 2 stored (0 cached), $0.90 paid")
    assert "at least $0.90 spent, $0.00 reserved" in call("spend", "--by", "project").out
    film.write_text(film.read_text().replace("project: film", "project: film\nbudget_usd: 1"))
    assert "at least $0.90 spent" in call("plan", film).out


def test_a_sum_is_a_lower_bound_where_a_price_is_unknown() -> None:
    assert usd_sum(Decimal("2.4"), 0) == "$2.40"
    assert usd_sum(Decimal("2.4"), 1) == "at least $2.40"
    assert (usd_sum(Decimal(0), 1), usd_sum(Decimal(0), 0)) == ("price unknown", "$0.00")
    # As the artifact of `spend-report` shows it.
    sums = CommittedSums(spent_usd=Decimal("0.9"), unpriced=2, unpriced_reserved=1)
    assert (sums.describe_spent(str), sums.describe_reserved(format_amount=str)) == ("at least 0.9", "price unknown")


def test_a_plan_says_what_is_claimed_after_which_shot(call: InProcess, film: Path) -> None:
    film.write_text(film.read_text().replace("duration: 1}", "duration: 1, continue_from: opening}"))
    shown = call("plan", film)
    assert shown.status == 0
    assert "\n  after opening: $0.30\n" in shown.out
    answer = call("plan", film, "--json").json
    assert (answer["later"], answer["cost_usd"], answer["shots"][1]["after"]) == ({"opening": 0.3}, 0.9, "opening")
