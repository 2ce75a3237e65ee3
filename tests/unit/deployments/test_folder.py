"""The folder that `init` writes, and what a set-up reads of it."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from prefect_video import __version__
from prefect_video.cli import main
from prefect_video.deployments import read_deployment_file, write_folder
from prefect_video.errors import InvalidInput
from prefect_video.project_files import load_project

ROOT = Path(__file__).parents[3]
NAMES = {"prefect.yaml", "film.yaml", ".env.example", "Dockerfile", "README.md"}


def test_init_writes_a_folder_and_replaces_nothing_unless_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "films"
    assert main(["init", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == NAMES
    assert f"prefect-video setup {folder}" in capsys.readouterr().err
    assert f"prefect-video=={__version__}" in (folder / "Dockerfile").read_text()

    (folder / "film.yaml").write_text("mine")
    (folder / "README.md").unlink()
    assert main(["init", str(folder)]) == 2
    assert "film.yaml" in capsys.readouterr().err
    assert (folder / "film.yaml").read_text() == "mine"
    assert not (folder / "README.md").exists(), "all or nothing"

    assert main(["init", str(folder), "--force"]) == 0
    assert load_project(folder / "film.yaml").name == "coffee-ad"


def test_the_folder_is_that_of_the_repository(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert (tmp_path / "prefect.yaml").read_text() == (ROOT / "prefect.yaml").read_text()
    assert (tmp_path / "film.yaml").read_text() == (ROOT / "examples" / "film.yaml").read_text()
    project = next(item for item in read_deployment_file(tmp_path).deployments if item.name == "project")
    assert project.parameters["project"] == yaml.safe_load((tmp_path / "film.yaml").read_text())
    assert len((tmp_path / "README.md").read_text().splitlines()) == 5


def test_another_environment_takes_its_own_blocks_names_and_events(tmp_path: Path) -> None:
    write_folder(tmp_path)
    staging = read_deployment_file(tmp_path).for_environment("staging", "other")
    assert {item.name for item in staging.deployments} >= {"shot-staging", "collect-staging"}
    assert {item.work_pool.name for item in staging.deployments} == {"other"}
    blocks = {block for item in staging.deployments for block in item.blocks()}
    assert blocks == {"sora-credentials/staging", "video-store/staging", "video-ledger/staging"}
    ((trigger,),) = (item.triggers for item in staging.deployments if item.triggers)
    assert trigger["match"]["prefect-video.environment"] == "staging"
    assert trigger["parameters"]["ledger"] == "video-ledger/staging"
    assert trigger["name"].endswith("(staging)")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no .*prefect-video init"),
        ("name: [", "cannot be read"),
        ("name: x\ndeployments: []", "pull: missing.*pull: \\[\\]"),
        (
            "{name: x, pull: [], deployments: [{name: a, entrypoint: b.c, work_pool: {name: p}, colour: red}]}",
            "deployment a colour: not known to `setup`",
        ),
    ],
    ids=["none", "no YAML", "no pull", "a key that would be ignored"],
)
def test_a_file_that_would_be_misunderstood_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "prefect.yaml").write_text(content)
    with pytest.raises(InvalidInput, match=message):
        read_deployment_file(tmp_path)


def test_a_run_counts_as_dead_after_several_of_the_longest_heartbeats(tmp_path: Path) -> None:
    from prefect_video.deployments.automations import HEARTBEAT_VARIABLE, build_crash_detectors

    write_folder(tmp_path)
    path = tmp_path / "prefect.yaml"
    slow = f"{{name: video, job_variables: {{env: {{{HEARTBEAT_VARIABLE}: '100'}}}}}}"
    for change, beat in (("", 30), (slow, 100), ("{name: video}", 180)):
        text = path.read_text()
        low = next(line for line in text.splitlines() if line.startswith("  low: &low "))
        if change:
            path.write_text(text.replace(low, f"  low: &low {change}"))
        detector, _ = build_crash_detectors(read_deployment_file(tmp_path), [uuid4()], "production", {"process"})
        assert detector.trigger.within.total_seconds() >= 3 * beat  # type: ignore[union-attr]


def test_a_process_that_does_not_begin_counts_as_dead_before_a_container_does(tmp_path: Path) -> None:
    from prefect_video.deployments.automations import build_crash_detectors

    write_folder(tmp_path)
    file = read_deployment_file(tmp_path)
    waits = {}
    for types in (("process",), ("kubernetes",), ("docker", "process")):
        _, detector = build_crash_detectors(file, [uuid4()], "production", types)
        waits[types] = detector.trigger.within.total_seconds() / 60  # type: ignore[union-attr]
        assert f"{waits[types] * 60:.0f} s" in str(detector.actions[0])
    assert waits == {("process",): 5, ("kubernetes",): 30, ("docker", "process"): 30}
