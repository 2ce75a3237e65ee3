"""Flows of one's own: `setup` deploys them as written, and where they run they are fetched from git or S3."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.events.schemas.automations import EventTrigger
from prefect.filesystems import RemoteFileSystem
from prefect.flows import load_flow_from_flow_run

from prefect_video.deployments import read_deployment_file, write_folder
from tests.integration.flows.test_setup import POOL, client, run_setup
from tests.support.s3_server import KEY, SECRET, S3Server

__all__ = ["client"]

OWN_FLOW = """
from prefect import flow

@flow
def weekly_report(ledger: str) -> None: ...
"""
OWN_FILE = """
name: films
pull:
  - prefect.deployments.steps.git_clone:
      repository: https://host/films.git
      credentials: "{{ prefect.blocks.github-credentials.films }}"
deployments:
  - name: weekly
    entrypoint: weekly.py:weekly_report
    work_pool: {name: POOL, job_variables: {env: {PREFECT_VIDEO_CONCURRENCY_LIMIT: sora}}}
    parameters: {ledger: video-ledger/staging}
    concurrency_limit: 2
"""


async def test_a_flow_of_ones_own_comes_from_git_as_written(client: PrefectClient, tmp_path: Path) -> None:
    (tmp_path / "weekly.py").write_text(OWN_FLOW)
    (tmp_path / "prefect.yaml").write_text(OWN_FILE.replace("POOL", POOL))
    for outcome in ("created", "unchanged"):
        changes = {change.kind: change for change in await run_setup(tmp_path, environment=None)}
        assert changes["deployment"].outcome == outcome, changes["deployment"].detail
        assert changes["concurrency limit"].detail == "10 at once"
    assert (await client.read_global_concurrency_limit_by_name("sora")).limit == 10
    (detector,) = await client.read_automations_by_name("films marks runs without a sign of life as crashed")
    assert isinstance(detector.trigger, EventTrigger)
    assert detector.trigger.within.total_seconds() >= 3 * 180, "Prefect's own interval, where none is given"
    deployment = await client.read_deployment_by_name("weekly-report/weekly")
    assert deployment.entrypoint == "weekly.py:weekly_report"
    assert deployment.pull_steps == read_deployment_file(tmp_path).model_dump(mode="json")["pull"]
    assert "{{ prefect.blocks.github-credentials.films }}" in json.dumps(deployment.pull_steps)


def read_pull_step(folder: Path, name: str) -> str:
    """Return a step that fetches a flow, as the comment of the file writes it that `init` makes."""
    write_folder(folder)
    template = (folder / "prefect.yaml").read_text()
    (step,) = re.findall(rf"# +- prefect\.deployments\.steps\.{name}:.*\n(?:# {{7}}.*\n)+", template)
    return re.sub("(?m)^#", "", step)


def write_own_file(folder: Path, step: str, deployment: str) -> None:
    """Write the `prefect.yaml` of a flow of one's own, which is fetched by a step."""
    own_file = OWN_FILE.replace("POOL", POOL).replace("weekly\n", f"{deployment}\n")
    (folder / "prefect.yaml").write_text(re.sub(r"(?s)pull:\n.*deployments:", f"pull:\n{step}deployments:", own_file))


async def load_as_a_run(client: PrefectClient, name: str) -> Flow[..., Any]:
    """Load a deployment's flow as the process of a run does that a worker has started in the current folder."""
    deployment = await client.read_deployment_by_name(name)
    run = await client.create_flow_run_from_deployment(deployment.id)
    try:
        return await load_flow_from_flow_run(run, use_placeholder_flow=False)
    finally:
        await client.delete_flow_run(run.id)


async def test_a_flow_of_ones_own_is_fetched_from_git_where_it_runs(
    client: PrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, elsewhere = tmp_path / "films", tmp_path / "elsewhere"
    for path in (repository, elsewhere):
        path.mkdir()
    (repository / "weekly.py").write_text(OWN_FLOW)
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    message = ["--message", "Add the report"]
    for command in (["init", "--quiet", "--initial-branch", "main"], ["add", "."], ["commit", "--quiet", *message]):
        subprocess.run([*git, *command], check=True)
    step = read_pull_step(tmp_path / "template", "git_clone").replace(
        "https://github.com/you/films.git", repository.as_uri()
    )
    # The repository is no private one.
    step, removed = re.subn(r" +credentials: .*\n", "", step)
    assert removed == 1
    write_own_file(repository, step, "fetched")
    await run_setup(repository, environment=None)
    monkeypatch.chdir(elsewhere)
    flow = await load_as_a_run(client, "weekly-report/fetched")
    assert (flow.name, [path.name for path in elsewhere.glob("*/weekly.py")]) == ("weekly-report", ["weekly.py"])


async def test_a_flow_of_ones_own_is_fetched_from_s3_where_it_runs(
    client: PrefectClient, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, elsewhere = tmp_path / "films", tmp_path / "elsewhere"
    for path in (folder, elsewhere):
        path.mkdir()
    (folder / "weekly.py").write_text(OWN_FLOW)
    bucket = s3.make_bucket("own-flows")
    s3.client.put_object(Bucket="own-flows", Key="code/weekly.py", Body=OWN_FLOW.encode())
    settings = {"key": KEY, "secret": SECRET, "client_kwargs": {"endpoint_url": s3.endpoint_url}}
    await RemoteFileSystem(basepath=f"{bucket}/code", settings=settings).save("films", overwrite=True)
    write_own_file(folder, read_pull_step(tmp_path / "template", "pull_with_block"), "pulled")
    await run_setup(folder, environment=None)
    monkeypatch.chdir(elsewhere)
    flow = await load_as_a_run(client, "weekly-report/pulled")
    assert (flow.name, [path.name for path in elsewhere.rglob("weekly.py")]) == ("weekly-report", ["weekly.py"])
