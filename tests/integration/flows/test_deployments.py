"""`prefect.yaml`, deployed and run by a real worker, with credentials, store and ledger as saved blocks."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel, RawScheduleConfig, WorkPoolConfig
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.deployments import arun_deployment
from prefect.events.actions import RunDeployment
from prefect.flows import load_flow_from_entrypoint
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker
from pydantic import BaseModel

from prefect_video import Shot
from prefect_video.blocks import SoraCredentials, VideoLedger, VideoStore
from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.flows import generate_project, generate_shot
from prefect_video.ledger import Ledger
from prefect_video.ledger import State as LedgerState
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.session import SessionRef
from prefect_video.tasks import default_ledger
from tests.integration.flows.forms import submit_untouched, undescribed
from tests.support.cli_fixtures import COMMAND
from tests.support.flow_fixtures import ROOT

SHOT = {"id": "opening", "prompt": "Dawn over a plantation", "duration": 1, "resolution": "480p"}


def declared() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    return content


def known(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields) | {field.alias for field in model.model_fields.values() if field.alias}


def test_no_key_of_prefect_yaml_would_be_ignored_in_silence() -> None:
    content = declared()
    assert set(content) - {"definitions"} <= known(PrefectYamlModel)
    for deployment in content["deployments"]:
        assert set(deployment) <= known(DeploymentConfig), deployment["name"]
        assert set(deployment["work_pool"]) <= known(WorkPoolConfig)
        for schedule in deployment.get("schedules", []):
            assert set(schedule) <= known(RawScheduleConfig)
            assert schedule["active"] is False
    assert PrefectYamlModel.model_validate(content).name == "prefect-video"


def test_every_deployment_names_a_flow_and_parameters_that_it_takes() -> None:
    names = set()
    for deployment in declared()["deployments"]:
        flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
        # `part` is set by the run that splits a project, and by nothing else.
        assert set(deployment["parameters"]) == set(flow.parameters.properties) - {"part"}
        flow.validate_parameters(deployment["parameters"])
        names.add(f"{flow.name}/{deployment['name']}")
    assert names == {
        "generate-shot/shot",
        "generate-project/project",
        "collect-generations/collect",
        "spend-report/spend-report",
        "verify-store/verify-store",
        "publish-gallery/gallery",
    }


def test_parameters_hold_names_of_blocks_and_no_secrets() -> None:
    text = (ROOT / "prefect.yaml").read_text()
    assert "sora-credentials/production" in text
    assert not {"api_key", "secret", "password", "sk-"} & set(text.lower().replace(":", " ").split())


def test_every_deployment_and_trigger_names_the_shared_ledger() -> None:
    deployments = declared()["deployments"]
    given = [deployment["parameters"] for deployment in deployments]
    given += [trigger["parameters"] for deployment in deployments for trigger in deployment.get("triggers", ())]
    assert [parameters["ledger"] for parameters in given] == ["video-ledger/production"] * 7


def test_every_provider_and_store_is_a_block_too() -> None:
    named = [
        deployment["parameters"][key]
        for deployment in declared()["deployments"]
        for key in ("provider", "store")
        if key in deployment["parameters"]
    ]
    assert named == ["sora-credentials/production", "video-store/production"] * 2 + ["video-store/production"] * 2


def a_ref(**changes: str | None) -> SessionRef:
    names = {"provider": "sora-credentials/production", "store": "video-store/production", "ledger": None}
    return SessionRef.model_validate({**names, **changes})


def test_a_worker_without_a_shared_ledger_warns_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("PREFECT_VIDEO_LEDGER_URL", raising=False)
    monkeypatch.setattr(default_ledger, "_warned", set())
    default_ledger.warn_about_default_ledger(a_ref())
    assert caplog.records == [], "at a desk the file under Prefect's home is what is meant"
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "0")
    default_ledger.warn_about_default_ledger(a_ref(ledger="video-ledger/production"))
    default_ledger.warn_about_default_ledger(a_ref(provider="emulator"))
    assert caplog.records == []
    for _ in range(2):
        default_ledger.warn_about_default_ledger(a_ref())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "may buy the same video again" in record.message
    assert "Give the deployment the parameter ledger" in record.message


@pytest.fixture(scope="module")
def slow_emulator() -> Iterator[Emulator]:
    """A provider whose videos take longer than any test."""
    with Emulator(EmulatorSettings(port=0, speed=0.01)) as running:
        yield running


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deployed")


@pytest.fixture
async def blocks(prefect_api: str, emulator: Emulator, slow_emulator: Emulator, data_folder: Path) -> None:
    """What an operator saves: two accounts, a store, a ledger."""
    for name, account in (("production", emulator), ("slow", slow_emulator)):
        block = SoraCredentials(api_key=account.key, endpoint=account.endpoint, plan="emulator")  # type: ignore[arg-type]
        await block.save(name, overwrite=True)  # type: ignore[misc]
    await VideoStore(url=f"file://{data_folder}/videos").save("production", overwrite=True)  # type: ignore[misc]
    ledger = VideoLedger(url=f"sqlite:///{data_folder}/ledger.db", monthly_usd=100)  # type: ignore[arg-type]
    await ledger.save("production", overwrite=True)  # type: ignore[misc]


@pytest.fixture(scope="module")
def worker(prefect_api: str, pool: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process worker on the pool of `prefect.yaml`."""
    home = tmp_path_factory.mktemp("worker")
    environ = {
        **os.environ,
        "PREFECT_API_URL": prefect_api,
        "PREFECT_HOME": str(home),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "video", "--type", "process"]
    with (home / "worker.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=home, env=environ, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        yield
        # How a worker takes its leave is Prefect's affair; its runs are over.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def pool(prefect_api: str) -> None:
    """The work pool that `prefect.yaml` names."""
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        client.create_work_pool(
            WorkPoolCreate(name="video", type=ProcessWorker.type, base_job_template=template), overwrite=True
        )


@pytest.fixture(scope="module")
def deployed(prefect_api: str, pool: None) -> None:
    """Everything in `prefect.yaml`, deployed as an operator does it."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=ROOT,
        env={**os.environ, "PREFECT_API_URL": prefect_api},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def run_until(run_id: UUID, reached: Callable[[FlowRun], Awaitable[bool]], seconds: float = 120) -> FlowRun:
    async with get_client() as client, asyncio.timeout(seconds):
        while True:
            run = await client.read_flow_run(run_id)
            if await reached(run):
                return run
            await asyncio.sleep(0.5)


async def ended(run: FlowRun) -> bool:
    return bool(run.state and run.state.is_final())


async def started(name: str, **parameters: object) -> UUID:
    run: FlowRun = await arun_deployment(name, parameters=parameters, timeout=0, as_subflow=False)
    return run.id


async def test_what_prefect_deploy_makes_runs_anywhere_and_is_triggered_as_set_up(deployed: None) -> None:
    async with get_client() as client:
        for deployment in declared()["deployments"]:
            flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
            stored = await client.read_deployment_by_name(f"{flow.name}/{deployment['name']}")
            assert (stored.pull_steps, stored.path) == ([], None)
        (automation,) = await client.read_automations_by_name("prefect-video collects what has ended")
    (action,) = automation.actions
    assert isinstance(action, RunDeployment)
    assert action.parameters is not None
    assert action.parameters["project"] == {
        "__prefect_kind": "jinja",
        "template": "{{ event.resource['prefect-video.project'] }}",
    }


async def test_a_deployed_project_runs_on_a_worker_with_saved_blocks(
    blocks: None, deployed: None, worker: None, emulator: Emulator, data_folder: Path
) -> None:
    project = {"project": "ad", "shots": [SHOT, {**SHOT, "id": "pour", "prompt": "Espresso"}]}
    run_id = await started("generate-project/project", project=project)
    run = await run_until(run_id, ended)
    assert run.state is not None
    assert run.state.is_completed(), run.state.message
    assert emulator.usage()["billed"] == 2
    assert len(list((data_folder / "videos" / "ad").glob("*.mp4"))) == 2
    assert emulator.key not in json.dumps(run.parameters)

    # What the worker made is found from elsewhere, by the names of the same blocks.
    found = await generate_shot(
        Shot.model_validate(SHOT),
        project="ad",
        provider="sora-credentials/production",
        store="video-store/production",
        ledger="video-ledger/production",
    )
    assert found.uri.startswith(f"file://{data_folder}/videos/ad/")
    assert emulator.usage()["billed"] == 2


async def test_the_run_form_submitted_untouched_buys_what_the_deployment_says(
    blocks: None, deployed: None, worker: None, emulator: Emulator
) -> None:
    before = emulator.usage()
    async with get_client() as client:
        deployment = await client.read_deployment_by_name("generate-project/project")
    assert deployment.parameter_openapi_schema is not None
    form = submit_untouched(deployment.parameter_openapi_schema, deployment.parameters)
    assert form["project"]["shots"][0]["duration"] is None
    assert form["project"]["shots"][0]["metadata"] is None
    run = await run_until(await started("generate-project/project", **form), ended)
    assert run.state is not None
    assert run.state.is_completed(), run.state.message
    assert emulator.usage()["billed"] - before["billed"] == 2

    provider = SoraProvider(api_key=emulator.key, endpoint=emulator.endpoint, plan="emulator")
    try:
        made = [generation async for generation in provider.list()][:2]
        bought = [(await provider.retrieve(generation.id)).parameters for generation in made]
    finally:
        await provider.aclose()
    assert {(order["duration"], order["resolution"]) for order in bought} == {(8, "720p"), (5, "720p")}


@pytest.mark.parametrize("name", ["shot", "project", "collect", "spend-report", "gallery", "verify-store"])
def test_every_field_of_a_run_form_is_described(name: str) -> None:
    (deployment,) = (item for item in declared()["deployments"] if item["name"] == name)
    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    assert list(undescribed(flow.parameters.model_dump())) == []


@pytest.mark.parametrize("name", ["shot", "project", "collect", "spend-report", "gallery", "verify-store"])
def test_a_form_submitted_untouched_asks_for_the_same_as_the_deployment(name: str) -> None:
    (deployment,) = (item for item in declared()["deployments"] if item["name"] == name)
    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    form = submit_untouched(flow.parameters.model_dump(), deployment["parameters"])
    assert flow.validate_parameters(form) == flow.validate_parameters(deployment["parameters"])


async def test_cancelling_a_deployed_run_cancels_its_generation(
    blocks: None, deployed: None, worker: None, slow_emulator: Emulator, data_folder: Path
) -> None:
    run_id = await started(
        "generate-shot/shot",
        shot={**SHOT, "prompt": "never done"},
        provider="sora-credentials/slow",
    )

    async def submitted(_: FlowRun) -> bool:
        return bool(slow_emulator.usage()["accepted"] == 1)

    async def cancelled(_: FlowRun) -> bool:
        return bool(slow_emulator.usage()["cancelled"] == 1)

    await run_until(run_id, submitted)
    async with get_client() as client:
        await client.set_flow_run_state(run_id, State(type=StateType.CANCELLING))
    await run_until(run_id, cancelled)

    async with await Ledger.open(f"sqlite:///{data_folder}/ledger.db") as ledger:
        async with asyncio.timeout(300):
            while jobs := await ledger.jobs.unfinished(flow_run_id=str(run_id)):
                await asyncio.sleep(0.2)
        assert jobs == []
        [job] = await ledger.jobs.find(flow_run_id=str(run_id))
        assert (job.state.value, job.actual_usd) == ("cancelled", 0)


def processes_of(run_id: UUID) -> list[int]:
    """Find the processes that a flow run has on this machine."""
    mark, found = f"PREFECT__FLOW_RUN_ID={run_id}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


async def test_a_deployed_project_that_is_not_waited_for_holds_no_process(
    blocks: None, deployed: None, worker: None, slow_emulator: Emulator, data_folder: Path
) -> None:
    before = slow_emulator.usage()
    project = {"project": "left", "shots": [{**SHOT, "prompt": "left to the collection"}]}
    run_id = await started("generate-project/project", project=project, provider="sora-credentials/slow", wait=False)
    run = await run_until(run_id, ended)
    assert run.state is not None
    assert run.state.is_completed(), run.state.message

    async def left(_: FlowRun) -> bool:
        return not processes_of(run_id)

    await run_until(run_id, left)
    usage = slow_emulator.usage()
    assert (usage["accepted"] - before["accepted"], usage["billed"] - before["billed"]) == (1, 0)
    async with await Ledger.open(f"sqlite:///{data_folder}/ledger.db") as ledger:
        [job] = await ledger.jobs.find(flow_run_id=str(run_id))
    assert (job.state, job.owner) == (LedgerState.SUBMITTED, None)


async def start_project(project: dict[str, Any]) -> UUID:
    """Start a project in a deployment without a limit: Prefect frees the slot of a killed run minutes later."""
    parameters = {"provider": "sora-credentials/production", "store": "video-store/production"}
    deployment = await generate_project.ato_deployment(
        "unlimited",
        work_pool_name="video",
        entrypoint_type=EntrypointType.MODULE_PATH,
        parameters={**parameters, "ledger": "video-ledger/production"},
    )
    await deployment.aapply()
    return await started("generate-project/unlimited", project=project)


async def answer_by_form(run_id: UUID, answer: dict[str, Any]) -> datetime:
    """Answer the question of a suspended run by the form that its schema describes; return when."""
    async with get_client() as client:
        run = await client.read_flow_run(run_id)
        assert run.state is not None
        keyset = run.state.state_details.run_input_keyset
        assert keyset is not None
        schema = json.loads(await client.read_flow_run_input(run_id, keyset["schema"]))
        description = json.loads(await client.read_flow_run_input(run_id, keyset["description"]))
        assert "pour" in str(description)
        assert schema["required"] == ["decision"]
        assert answer["decision"] in schema["properties"]["decision"]["enum"]
        form = {name: field.get("default") for name, field in schema["properties"].items()} | answer
        answered_at = datetime.now(UTC)
        result = await client.resume_flow_run(run_id, run_input=form)
        assert result.status is SetStateStatus.ACCEPT, result.details
    return answered_at


async def seconds_until_taken_up(run_id: UUID, answered_at: datetime) -> float:
    """Return the seconds after which a worker has taken up a run that was answered, by the server's states."""
    async with get_client() as client:
        states = await client.read_flow_run_states(run_id)
    later = [state.timestamp for state in states if state.is_pending() and state.timestamp > answered_at]
    return (min(later) - answered_at).total_seconds()


@pytest.mark.timeout(1200)
async def test_a_run_waits_for_approval_without_a_process_and_goes_on_when_it_is_given(
    blocks: None,
    worker: None,
    emulator: Emulator,
    prefect_api: str,
    data_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A prompt of its own: the tests of this file share a ledger, in which the other is stored.
    own = {**SHOT, "prompt": "A pier at noon"}
    shots = [{**own, "approve": True, "takes": 2}, {**own, "id": "pour", "continue_from": "opening", "approve": True}]
    project = {"project": "approved", "shots": shots}

    async def submitted(_: FlowRun) -> bool:
        return bool(emulator.usage()["accepted"] == 2 and processes_of(run_id))

    async def suspended(run: FlowRun) -> bool:
        assert run.state is None or not run.state.is_final(), run.state.message
        return bool(run.state and run.state.is_paused())

    # A process that is killed before the suspension: the next run finds what was paid.
    emulator.change_speed(0.01)
    run_id = await start_project(project)
    await run_until(run_id, submitted)
    for process in processes_of(run_id):
        os.kill(process, signal.SIGKILL)
    await run_until(run_id, ended)
    emulator.change_speed(200)
    run_id = await start_project(project)
    await run_until(run_id, suspended)
    usage = emulator.usage()
    assert (usage["accepted"], usage["billed"], usage["cancelled"]) == (2, 2, 0)

    async def left(_: FlowRun) -> bool:
        return not processes_of(run_id)

    await run_until(run_id, left, seconds=20)

    # An answer that Prefect accepts and the project cannot use changes nothing, and the question stays.
    async with get_client() as client:
        assert (await client.resume_flow_run(run_id, run_input={})).status.value == "REJECT"

    monkeypatch.setenv("PREFECT_VIDEO_LEDGER_URL", f"sqlite:///{data_folder}/ledger.db")
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    answered = await asyncio.to_thread(
        subprocess.run,
        [COMMAND, "approve", "approved", "opening", "--take", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answered.returncode == 0, answered.stderr
    assert "goes on" in answered.stderr

    # The next question is answered as Prefect's UI does: by the form that the run's schema describes.
    await run_until(run_id, suspended)
    await run_until(run_id, left, seconds=20)
    answered_at = await answer_by_form(run_id, {"decision": "approve", "shot": "pour"})
    run = await run_until(run_id, ended)
    assert await seconds_until_taken_up(run_id, answered_at) <= 10
    assert run.state is not None
    assert run.state.is_completed(), run.state.message
    usage = emulator.usage()
    assert (usage["accepted"], usage["billed"], usage["cancelled"]) == (3, 3, 0)
    async with await Ledger.open(f"sqlite:///{data_folder}/ledger.db") as ledger:
        jobs = await ledger.jobs.find(project="approved", state=LedgerState.STORED)
        choices = await ledger.choices.read("approved", environment="production")
    assert sorted((job.shot.id, job.take) for job in jobs) == [("opening", 1), ("opening", 2), ("pour", 1)]
    assert (choices["pour"].take, choices["pour"].decided_by) == (1, "prefect")
