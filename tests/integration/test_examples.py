"""The examples, run as printed against the embedded provider; its usage says what was paid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prefect_video import SessionRef, Shot, load_project, open_session, run_project
from prefect_video.emulator import Emulator
from prefect_video.providers.capabilities import check_supported
from prefect_video.providers.sora.plans import SORA_PLANS
from tests.support.examples import EXAMPLES, ROOT, example_environment, run_python, stored_videos

__all__ = ["example_environment"]


def readme_blocks(language: str) -> list[str]:
    """Return the README's fenced blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_readme_prints_the_examples() -> None:
    assert (EXAMPLES / "weekly_report.py").read_text(encoding="utf-8") in readme_blocks("python")
    assert (EXAMPLES / "film.yaml").read_text(encoding="utf-8") in readme_blocks("yaml")


def test_every_example_is_run_here() -> None:
    """The weekly report, which needs a Prefect server, in `flows/test_weekly_report.py`."""
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    examples = {"weekly_report.py", "without_prefect.py", "film.yaml", "final_cut.yaml", "feature.yaml", "make_film.py"}
    assert files == examples


@pytest.mark.parametrize("plan", SORA_PLANS)
def test_every_plan_of_a_real_account_makes_the_weekly_report(plan: str) -> None:
    source = re.search(r"opening = (Shot\(.*\))", (EXAMPLES / "weekly_report.py").read_text())
    assert source is not None
    check_supported(eval(source[1], {"Shot": Shot}), SORA_PLANS[plan], by=plan)


@pytest.mark.parametrize("plan", [plan for plan in SORA_PLANS if plan.startswith("api-tier")])
def test_every_api_plan_makes_the_films(plan: str) -> None:
    for name in ("film.yaml", "final_cut.yaml"):
        for shot in load_project(EXAMPLES / name).shots:
            check_supported(shot, SORA_PLANS[plan], by=plan)


@pytest.mark.usefixtures("example_environment")
def test_the_film_without_prefect_pays_once(emulator: Emulator, tmp_path: Path) -> None:
    first = run_python(str(EXAMPLES / "without_prefect.py")).splitlines()
    assert [line.split()[:2] for line in first[1:]] == [["opening", "stored"], ["pour", "stored"]]
    assert len(stored_videos(tmp_path / "videos")) == 2
    usage = emulator.usage()
    assert usage["billed"] == 2

    second = run_python(str(EXAMPLES / "without_prefect.py")).splitlines()
    assert second[1:] == first[1:]
    assert second[0] == "to pay: $0.00"
    assert (emulator.usage()["submitted"], emulator.usage()["billed_usd"]) == (2, usage["billed_usd"])


@pytest.mark.usefixtures("example_environment")
def test_without_prefect_imports_no_prefect(emulator: Emulator) -> None:
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__');"
        " print([name for name in sys.modules if name.split('.')[0] == 'prefect'])"
    )
    assert run_python("-c", code, str(EXAMPLES / "without_prefect.py")).splitlines()[-1] == "[]"
    assert emulator.usage()["billed"] == 2


@pytest.mark.usefixtures("example_environment")
def test_the_film_is_made_by_the_command_line(emulator: Emulator, tmp_path: Path) -> None:
    code = "from prefect_video.cli import main; main()"
    run_python("-c", code, "run", str(EXAMPLES / "film.yaml"), "--provider", "emulator")
    assert len(stored_videos(tmp_path / "videos")) == 2
    assert emulator.usage()["billed"] == 2


@pytest.mark.usefixtures("example_environment")
async def test_the_final_cut_is_made_and_measured(emulator: Emulator, tmp_path: Path) -> None:
    project = load_project(EXAMPLES / "final_cut.yaml")
    small = tuple(shot.model_copy(update={"resolution": "480p"}) for shot in project.shots)
    ref = SessionRef.from_names("emulator", str(tmp_path / "videos"), str(tmp_path / "ledger.db"))
    async with await open_session(ref) as session:
        report = await run_project(session, project.model_copy(update={"shots": small}))
    assert report.film is not None
    assert (report.film.status, report.film.error) == ("made", None)
    # 2 + 4 + 2.5 + 4 + 2 s, with three crossfades of 0.5 s and one of 1 s.
    assert report.film.seconds == pytest.approx(12.0, abs=0.1)
    assert emulator.usage()["billed"] == 3


def test_the_film_of_eight_shots_is_what_was_asked_for(
    example_environment: pytest.MonkeyPatch, emulator: Emulator, tmp_path: Path
) -> None:
    """The script decodes the film itself: its length, the frames of the chain, and the crossfades at the joins."""
    printed = run_python(str(EXAMPLES / "make_film.py"), str(tmp_path / "film"))
    assert printed.count("ok     ") == 9
    assert "FAILED" not in printed
    assert emulator.usage()["billed"] == 8
    assert (tmp_path / "film" / "videos" / "feature" / "index.html").is_file()
