"""`setup` against a real Prefect server: everything is made once, and what people have changed by hand stays."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events import emit_event
from prefect.events.schemas.automations import Automation, EventTrigger, Posture
from prefect.events.worker import EventsWorker
from prefect.exceptions import ObjectNotFound
from prefect.utilities.templating import apply_values

from prefect_video.blocks import SoraCredentials, VideoLedger, VideoStore
from prefect_video.cli import main
from prefect_video.cli.check_result import Check
from prefect_video.cli.fleet_checks import check_fleet
from prefect_video.deployments import Change, read_deployment_file, setup_prefect, write_folder
from prefect_video.deployments.automations import HEARTBEAT_VARIABLE
from prefect_video.deployments.work_pools import ensure_work_pool
from prefect_video.emulator import Emulator
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Budget, BudgetUsage, DeferredRun, Ledger, describe_nearly_used
from prefect_video.pipeline import DeferredOutcome, ProjectReport, publish_run, run_project
from prefect_video.service.prefect_events import build_event
from prefect_video.session import SessionEvent
from prefect_video.tasks.events import announce_anomaly, announce_budget, announce_project
from tests.integration.service.test_prefect import a_received_event
from tests.support.records import submit_one
from tests.support.recovery import RecoveryHarness, a_shot, film
from tests.support.webhook_receiver import WebhookReceiver

ENVIRONMENT = "staging"
"""Not that of the other tests, which share the server."""
POOL = "setup-tests"
NAMES = (
    "generate-shot/shot",
    "generate-project/project",
    "collect-generations/collect",
    "spend-report/spend-report",
    "verify-store/verify-store",
    "publish-gallery/gallery",
)
AUTOMATIONS = (
    "prefect-video collects what has ended",
    "prefect-video marks runs without a sign of life as crashed",
    "prefect-video marks runs that are taken and not begun as crashed",
    "prefect-video reports a budget that is nearly used up",
    "prefect-video reports an unusual volume",
    "prefect-video reports deferred projects",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "films")
    return tmp_path / "films"


@pytest.fixture
async def client(prefect_api: str) -> AsyncIterator[PrefectClient]:
    async with get_client() as opened:
        yield opened


async def run_setup(folder: Path, **options: Any) -> list[Change]:
    given = {"environment": ENVIRONMENT, "pool": POOL, **options}
    return [change async for change in setup_prefect(read_deployment_file(folder), folder, **given)]


async def read_deployments(client: PrefectClient, environment: str = ENVIRONMENT) -> dict[str, DeploymentResponse]:
    return {name: await client.read_deployment_by_name(f"{name}-{environment}") for name in NAMES}


async def read_automations(client: PrefectClient, environment: str = ENVIRONMENT) -> dict[str, list[Automation]]:
    return {name: await client.read_automations_by_name(f"{name} ({environment})") for name in AUTOMATIONS}


async def fleet_of(environment: str) -> list[Check]:
    """Return what `doctor` says about one environment and its pool."""
    return [check for check in await check_fleet() if f"-{environment}" in check.detail or POOL in check.detail]


def outcomes(changes: list[Change]) -> Counter[tuple[str, str]]:
    return Counter((change.kind, change.outcome.value) for change in changes)


async def unregister(client: PrefectClient, slug: str) -> None:
    """Remove a block type, where the server has it."""
    with contextlib.suppress(ObjectNotFound):
        await client.delete_block_type((await client.read_block_type_by_slug(slug)).id)


def assert_marks_only_silent_runs(detector: Automation, deployments: list[DeploymentResponse]) -> None:
    """Assert that it waits for several heartbeats, and looks at runs of these deployments only."""
    trigger = detector.trigger
    assert isinstance(trigger, EventTrigger)
    beats = [int(item.job_variables["env"][HEARTBEAT_VARIABLE]) for item in deployments]
    assert trigger.within.total_seconds() >= 3 * max(beats)
    assert (trigger.posture, trigger.for_each) == (Posture.Proactive, {"prefect.resource.id"})
    related = trigger.model_dump(mode="json")["match_related"]
    assert set(related["prefect.resource.id"]) == {f"prefect.deployment.{item.id}" for item in deployments}


MADE = {"work pool": 1, "work queue": 3, "deployment": 6, "automation": 6}
QUEUES_AND_LIMITS = {
    "generate-shot/shot": ("normal", "ENQUEUE", 10),
    "generate-project/project": ("normal", "ENQUEUE", 4),
    "collect-generations/collect": ("high", "ENQUEUE", 4),
    "spend-report/spend-report": ("low", "CANCEL_NEW", 1),
    "verify-store/verify-store": ("low", "CANCEL_NEW", 1),
    "publish-gallery/gallery": ("low", "CANCEL_NEW", 1),
}


def queue_and_limit(deployment: DeploymentResponse) -> tuple[str | None, str, int]:
    """Return the queue of a deployment's runs, what happens to one too many, and how many run at once."""
    options, limit = deployment.concurrency_options, deployment.global_concurrency_limit
    assert options is not None
    assert limit is not None
    return deployment.work_queue_name, options.collision_strategy.value, limit.limit


async def test_it_is_made_once_and_runs_anywhere(client: PrefectClient, folder: Path) -> None:
    new = {"environment": "development", "pool": "new-pool"}
    await unregister(client, "video-api-tokens")
    dry = await run_setup(folder, dry_run=True, **new)
    created = [change for change in dry if change.outcome == "created"]
    assert Counter(change.kind for change in created if change.kind != "block type") == MADE
    assert "video-api-tokens" in {change.name for change in created if change.kind == "block type"}
    missing = {change.name: change.detail for change in dry if change.outcome == "missing"}
    assert set(missing) == {f"{slug}/development" for slug in ("sora-credentials", "video-store", "video-ledger")}
    for name, detail in missing.items():
        assert f"prefect block create {name.partition('/')[0]}" in detail
        assert '.save("development")' in detail
    assert "new-pool" not in {pool.name for pool in await client.read_work_pools()}
    with pytest.raises(ObjectNotFound):
        await client.read_block_type_by_slug("video-api-tokens")

    assert outcomes(await run_setup(folder, **new)) == outcomes(dry), "a dry run says what would be done"
    assert (await client.read_block_type_by_slug("video-api-tokens")).name == "Video API Tokens"
    deployments, automations = (
        await read_deployments(client, "development"),
        await read_automations(client, "development"),
    )
    assert {name: queue_and_limit(deployment) for name, deployment in deployments.items()} == QUEUES_AND_LIMITS
    for name, deployment in deployments.items():
        # A worker on another machine finds the flow by its module, and fetches nothing.
        assert (deployment.pull_steps, deployment.path) == ([], None), name
        assert not any(schedule.active for schedule in deployment.schedules)
    assert [len(found) for found in automations.values()] == [1] * len(AUTOMATIONS)
    for detector in AUTOMATIONS[1:3]:
        assert_marks_only_silent_runs(automations[detector][0], list(deployments.values()))

    assert {outcome for _, outcome in outcomes(await run_setup(folder, **new))} == {"unchanged", "missing"}
    found = await read_deployments(client, "development")
    assert {name: item.id for name, item in found.items()} == {name: item.id for name, item in deployments.items()}
    assert await read_automations(client, "development") == automations
    queues = sorted(await client.read_work_queues(work_pool_name="new-pool"), key=lambda queue: queue.priority or 0)
    assert [queue.name for queue in queues[:3]] == ["high", "normal", "low"]


async def test_a_limit_that_a_block_names_has_as_many_slots_as_the_block_says(
    client: PrefectClient, folder: Path
) -> None:
    block = SoraCredentials(endpoint="http://127.0.0.1:9/v1/sora", concurrency_limit="of-the-block", max_in_flight=3)
    await block.save("limited", overwrite=True)  # type: ignore[misc]
    for outcome in ("created", "unchanged"):
        changes = await run_setup(folder, environment="limited")
        (limit,) = (change for change in changes if change.kind == "concurrency limit")
        assert (limit.name, limit.outcome) == ("of-the-block", outcome)
        assert (await client.read_global_concurrency_limit_by_name("of-the-block")).limit == 3


async def test_what_people_changed_by_hand_stays(client: PrefectClient, folder: Path) -> None:
    await run_setup(folder)
    collect = (await read_deployments(client))["collect-generations/collect"]
    (schedule,) = collect.schedules
    advice = {check.name: check for check in await fleet_of(ENVIRONMENT)}
    assert (advice["collect"].ok, advice["workers"].ok) == (False, False)
    assert f"schedule resume collect-generations/collect-{ENVIRONMENT} {schedule.id}" in str(advice["collect"].fix)
    assert f"prefect worker start --pool {POOL}" in str(advice["workers"].fix)
    await client.update_deployment_schedule(collect.id, schedule.id, active=True)
    (trigger,) = (await read_automations(client))[AUTOMATIONS[0]]
    await client.pause_automation(trigger.id)

    assert [check.ok for check in await fleet_of(ENVIRONMENT) if check.name == "collect"] == [True]

    path = folder / "prefect.yaml"
    path.write_text(path.read_text().replace("limit: 4", "limit: 2").replace("within: 10", "within: 20"))
    changed = [change for change in await run_setup(folder) if change.outcome == "updated"]
    assert {(change.name, change.detail) for change in changed} == {
        (f"generate-project/project-{ENVIRONMENT}", "concurrency_limit"),
        (f"collect-generations/collect-{ENVIRONMENT}", "concurrency_limit"),
        (f"{AUTOMATIONS[0]} ({ENVIRONMENT})", "trigger"),
    }
    collect = (await read_deployments(client))["collect-generations/collect"]
    assert [schedule.active for schedule in collect.schedules] == [True]
    assert collect.global_concurrency_limit is not None
    assert collect.global_concurrency_limit.limit == 2
    (trigger,) = (await read_automations(client))[AUTOMATIONS[0]]
    assert trigger.enabled is False
    await client.resume_automation(trigger.id)

    # Who is notified is said once.
    hook = SlackWebhook(url="https://hooks.example.com/services/x")  # type: ignore[arg-type]
    await hook.save("ops", overwrite=True)  # type: ignore[misc]
    changed = [change for change in await run_setup(folder, notify="slack-webhook/ops") if change.outcome == "updated"]
    assert [(change.kind, change.detail) for change in changed] == [("automation", "actions")] * 3
    assert not [change for change in await run_setup(folder) if change.outcome == "updated"]
    (alert,) = (await read_automations(client))[AUTOMATIONS[3]]
    assert [action.type for action in alert.actions] == ["send-notification"]


async def test_doctor_sees_what_the_deployments_lack(client: PrefectClient, folder: Path) -> None:
    """Each fault, its fix, and that it is gone then, on the server itself."""
    await run_setup(folder, environment="doctors", pool="doctors-pool")
    blocks = (SoraCredentials(endpoint="http://127.0.0.1:9/v1/sora"), VideoStore(url="/videos"), VideoLedger())

    async def faults() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for check in await check_fleet():
            if not check.ok and "doctors" in check.detail:
                found.setdefault(check.name, []).append(f"{check.detail} → {check.fix}")
        return found

    seen = await faults()
    assert {name: len(lines) for name, lines in seen.items()} == {"blocks": 3, "workers": 1, "collect": 1}
    assert all("missing" in line and "prefect block create" in line for line in seen["blocks"])
    for block in blocks:
        await block.save("doctors", overwrite=True)  # type: ignore[misc]
    await client.send_worker_heartbeat("doctors-pool", "worker-1", heartbeat_interval_seconds=30)
    collect = (await read_deployments(client, "doctors"))["collect-generations/collect"]
    await client.update_deployment_schedule(collect.id, collect.schedules[0].id, active=True)
    assert await faults() == {}

    await client.pause_deployment(collect.id)
    await client.update_work_pool("doctors-pool", WorkPoolUpdate(is_paused=True))
    seen = await faults()
    assert "prefect work-pool resume doctors-pool" in seen["workers"][0]
    assert f"prefect api POST /deployments/{collect.id}/resume_deployment" in seen["collect"][0]
    await client.resume_deployment(collect.id)
    await client.update_work_pool("doctors-pool", WorkPoolUpdate(is_paused=False))

    # What is deployed for buying is of no use to a ledger that nothing collects.
    await client.delete_deployment(collect.id)
    (line,) = (await faults())["collect"]
    assert "video-ledger/doctors" in line
    # A service does the same, which Prefect does not show.
    assert "prefect-video serve --collect --ledger video-ledger/doctors" in line
    for deployment in await client.read_deployments():
        if deployment.name.endswith("-doctors"):
            await client.delete_deployment(deployment.id)
    assert await faults() == {}


async def test_many_ends_of_a_project_are_collected_by_one_run(client: PrefectClient, folder: Path) -> None:
    await run_setup(folder)
    collect = (await read_deployments(client))["collect-generations/collect"]
    async with await Ledger.open(f"sqlite:///{folder}/ledger.db") as ledger:
        for number, project in enumerate(["first", "second", "first", "second", "first"]):
            job = await submit_one(ledger, number, project=project, environment=ENVIRONMENT)
            emit_event(**build_event(job, a_received_event()))
    await asyncio.to_thread(EventsWorker.instance().drain)
    of_collect = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[collect.id]))
    async with asyncio.timeout(300):
        while len(runs := await client.read_flow_runs(flow_run_filter=of_collect)) < 2:
            await asyncio.sleep(0.5)
    # Those of other projects or events would have come with these: the window is theirs too.
    assert sorted(run.parameters["project"] for run in runs) == ["first", "second"]
    assert {run.parameters["ledger"] for run in runs} == {f"video-ledger/{ENVIRONMENT}"}


async def announce_deferred_project(emulator: Emulator, folder: Path, environments: Sequence[str]) -> ProjectReport:
    """Announce that a project is complete which was not waited for, in each environment; return its report."""
    project = film(a_shot())
    async with RecoveryHarness(emulator, folder, f"sqlite:///{folder}/deferred.db").session() as session:
        report = await publish_run(session, project, await run_project(session, project))
        for environment in environments:
            run = DeferredRun(
                id=uuid4().hex,
                environment=environment,
                project=project,
                credentials=(session.credentials,),
                store=session.store_name,
                created_at=datetime.now(UTC),
            )
            announce_project(DeferredOutcome(run, report, session, is_news=True))
    return report


async def test_what_needs_a_human_is_sent_by_a_notification_block(
    client: PrefectClient, emulator: Emulator, folder: Path, tmp_path: Path
) -> None:
    budget = Budget(scope="environment", limit_usd=Decimal(10))
    usage = BudgetUsage(budget=budget, name="environment alerted", spent_usd=Decimal(9))
    await VideoStore(url=str(tmp_path)).save("alerted", overwrite=True)  # type: ignore[misc]
    with pytest.raises(InvalidInput, match="sends no notifications"):
        await run_setup(folder, environment="alerted", notify="video-store/alerted")
    with WebhookReceiver() as receiver:
        hook = CustomWebhookNotificationBlock(
            name="ops", url=receiver.url, json_data={"subject": "{{subject}}", "body": "{{body}}"}
        )
        await hook.save("alerted", overwrite=True)  # type: ignore[misc]
        await run_setup(folder, environment="alerted", notify="custom-webhook/alerted")
        for environment in ("another", "alerted"):
            announce_budget(usage, environment)
        async with await Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
            job = await submit_one(ledger, project="film", account="sora:main", environment="alerted")
        announce_anomaly(SessionEvent.ANOMALY, job)
        report = await announce_deferred_project(emulator, tmp_path, ("another", "alerted"))
        await asyncio.to_thread(EventsWorker.instance().drain)
        sent = await asyncio.to_thread(receiver.take, 3, 60)
    assert report.page_uri is not None
    assert sorted((message.event["subject"], message.event["body"]) for message in sent) == [
        ("A video budget is nearly used up", describe_nearly_used(usage)),
        ("Project film", f"{report.summary()}\nThe page: {report.page_uri}"),
        (
            "Unusually many videos are submitted",
            "Account sora:main submits unusually many generations; the last one is for project film.",
        ),
    ]
    assert receiver.received.empty(), "the other environment has automations of its own"


async def test_a_pool_of_containers_runs_the_image_of_the_file(client: PrefectClient, folder: Path) -> None:
    image = "registry.example.com/films:1"
    path = folder / "prefect.yaml"
    path.write_text(path.read_text().replace("job_variables: {env", f'job_variables: {{image: "{image}", env'))
    await run_setup(folder, environment="contained", pool="docker-pool", pool_type="docker")
    await ensure_work_pool(client, "kubernetes-pool", "kubernetes", dry_run=False)
    deployments = await read_deployments(client, "contained")
    for kind in ("docker", "kubernetes"):
        pool = await client.read_work_pool(f"{kind}-pool")
        assert pool.type == kind
        for name, deployment in deployments.items():
            # As a worker of the pool puts the job together.
            job = str(apply_values(pool.base_job_template["job_configuration"], deployment.job_variables or {}))
            assert image in job, name
            assert HEARTBEAT_VARIABLE in job, name


async def test_nothing_is_made_when_something_cannot_be(client: PrefectClient, folder: Path) -> None:
    path = folder / "prefect.yaml"
    text = path.read_text()
    for wrong, message in (
        (text.replace("flows.verify.verify_videos", "flows.verify.nothing"), "verify-store.*cannot be loaded"),
        (text.replace("repair: false}", "repair: maybe}"), "(?s)verify-store.*repair"),
        (text.replace("for_each: [", "for_all: ["), "Prefect knows no for_all"),
    ):
        path.write_text(wrong)
        with pytest.raises(InvalidInput, match=message):
            await run_setup(folder, pool="never-made")
    assert "never-made" not in {pool.name for pool in await client.read_work_pools()}


def test_the_commands_say_what_was_done_and_what_is_left_to_do(
    prefect_api: str, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    options = [str(folder), "--environment", ENVIRONMENT, "--pool", POOL]
    assert main(["setup", *options, "--json", "--dry-run"]) == 1
    answer = json.loads(capfd.readouterr().out)
    assert (answer["ok"], answer["dry_run"]) == (False, True)
    assert main(["setup", *options]) == 1
    shown = capfd.readouterr()
    assert f"deployment        generate-shot/shot-{ENVIRONMENT}" in shown.out
    assert "3 blocks are missing" in shown.err
    assert f"prefect worker start --pool {POOL}" in shown.err
    assert os.environ["PREFECT_API_URL"] == prefect_api

    monkeypatch.setenv("PREFECT_VIDEO_LEDGER_URL", f"sqlite:///{folder}/ledger.db")
    assert main(["doctor", "--store", str(folder / "videos"), "--json"]) == 1
    checks = json.loads(capfd.readouterr().out)["checks"]
    (deployments,) = (check for check in checks if check["name"] == "deployments")
    assert f"generate-shot/shot-{ENVIRONMENT}" in deployments["detail"]
    missing = {check["detail"].split()[0] for check in checks if check["name"] == "blocks" and not check["ok"]}
    assert f"video-ledger/{ENVIRONMENT}" in missing
    assert [check["ok"] for check in checks if check["name"] in ("provider", "store", "ledger")] == [True] * 3
