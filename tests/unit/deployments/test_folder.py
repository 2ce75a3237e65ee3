"""The folder that `init` writes, and what a set-up reads of it."""

from __future__ import annotations

import re
from importlib.metadata import metadata
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from docs.providers_table import opened
from prefect_video import __version__
from prefect_video.cli import main
from prefect_video.deployments import read_deployment_file, write_folder
from prefect_video.errors import InvalidInput
from prefect_video.ledger import default_ledger_url
from prefect_video.project_files import load_project
from prefect_video.providers.registry import provider_names
from prefect_video.service import ServiceSettings
from prefect_video.session import SessionRef, Settings

ROOT = Path(__file__).parents[3]
NAMES = {"prefect.yaml", "film.yaml", ".env.example", "Dockerfile", "README.md"}

INSTRUCTIONS = frozenset(
    [
        "ADD",
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "ONBUILD",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ]
)
"""Those of Docker's reference, without one that is deprecated."""


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


def read_instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with what follows each, in order."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    instructions = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in instructions if line.strip())]


def test_the_image_has_this_version_and_runs_as_a_user_without_rights(tmp_path: Path) -> None:
    write_folder(tmp_path)
    instructions = read_instructions(tmp_path / "Dockerfile")
    names = [name for name, _ in instructions]
    assert set(names) <= INSTRUCTIONS
    assert (names[0], names.count("FROM")) == ("FROM", 1)
    version = re.fullmatch(r"python:(\d+\.\d+)-slim", instructions[0][1])
    assert version is not None
    assert version[1] in SpecifierSet(metadata("prefect-video")["Requires-Python"])
    installed = [package for _, rest in instructions for package in re.findall(r"pip install (?:-\S+ )*(\S+)", rest)]
    assert installed == [f'"prefect-video=={__version__}"']
    users = [rest for name, rest in instructions if name == "USER"]
    assert users
    assert not set(users) & {"root", "0"}
    last_run = len(names) - 1 - names[::-1].index("RUN")
    assert names.index("USER") > last_run, "packages are installed by root"
    assert any(f"useradd --create-home {users[-1]}" in rest for name, rest in instructions if name == "RUN")


def test_every_variable_of_the_example_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import prefect.settings

    write_folder(tmp_path)
    given = dict(re.findall(r"(?m)^(?:# )?([A-Z][A-Z_]*)=(.*)$", (tmp_path / ".env.example").read_text()))
    # These two are no fields of a settings class.
    for name in ("PREFECT_VIDEO_STORE", "PREFECT_VIDEO_LEDGER_URL"):
        monkeypatch.setenv(name, given[name])
    assert SessionRef.from_names("emulator").store == given.pop("PREFECT_VIDEO_STORE")
    assert default_ledger_url() == given.pop("PREFECT_VIDEO_LEDGER_URL")
    read = {variable for name in provider_names() for variable in (*opened(name).needed, *opened(name).taken)}
    for settings in (Settings, ServiceSettings):
        prefix = settings.model_config.get("env_prefix", "")
        read |= {f"{prefix}{field.upper()}" for field in settings.model_fields}
    assert "SORA_API_KEY" in given
    assert [name for name in given if name not in read and not hasattr(prefect.settings, name)] == []


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
