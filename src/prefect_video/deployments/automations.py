"""Automations: those that deployments declare as triggers, and those that watch over the fleet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.schemas.deployment_triggers import DeploymentTriggerTypes
from prefect.events.schemas.events import ResourceSpecification
from pydantic import TypeAdapter, ValidationError

from prefect_video.deployments.changes import Change, Outcome
from prefect_video.deployments.declaration import (
    DEFAULT_ENVIRONMENT,
    ENVIRONMENT_LABEL,
    DeclaredDeployment,
    DeploymentFile,
)
from prefect_video.errors import InvalidInput

HEARTBEAT_VARIABLE: Final = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
PREFECT_HEARTBEAT_SECONDS: Final = 180
"""Prefect's own interval, for runs that are given none."""
MISSED_HEARTBEATS: Final = 4
"""Signs of life that a run may miss before it counts as dead; fewer than three have killed healthy runs."""
LONGEST_START: Final = timedelta(minutes=30)
"""Time that a worker may take to begin a run: that of pulling a large image on a new node."""
LONGEST_PROCESS_START: Final = timedelta(minutes=5)
"""The same where runs are processes of the worker's machine: that of a `pull:` step and the imports."""
ALERT_PAUSE: Final = timedelta(days=1)
"""Least time between two notifications about the same budget."""

_HEARTBEAT: Final = "prefect.flow-run.heartbeat"
_TAKEN: Final = frozenset({"prefect.flow-run.Pending", "prefect.flow-run.Submitting"})
_BEGUN: Final = frozenset(
    # A run that finds no free place at its deployment's concurrency limit goes back to the queue.
    f"prefect.flow-run.{state}"
    for state in ("Running", "AwaitingConcurrencySlot", "Scheduled")
)
_ENDS: Final = tuple(
    f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed", "Suspended", "Paused")
)


@dataclass(frozen=True)
class _SilentRun:
    """Sign of a run whose worker has died.

    Attributes:
        after: The events after which another one is due.
        expect: Those that may come.
        within: Until when.
    """

    after: frozenset[str]
    expect: frozenset[str]
    within: timedelta


def parse_triggers(declared: DeclaredDeployment) -> list[DeploymentTriggerTypes]:
    """Parse the triggers of a deployment with Prefect's own models.

    Raises:
        InvalidInput: A trigger has no name, a key that Prefect would ignore, or a value that it refuses.
    """
    return [_parse_trigger(declared, trigger) for trigger in declared.triggers]


def build_trigger(trigger: DeploymentTriggerTypes, deployment_id: UUID) -> AutomationCore:
    """Build the automation of a deployment's trigger, owned by the deployment as `prefect deploy` has it."""
    trigger.set_deployment_id(deployment_id)
    return trigger.as_automation()


def build_crash_detectors(
    file: DeploymentFile, ids: Sequence[UUID], environment: str, pool_types: Collection[str]
) -> list[AutomationCore]:
    """Build the automations that mark runs of a file's deployments as crashed when their worker has died.

    A run that is running shows no sign of life: it may miss several of the longest heartbeat of them, as one that takes
    longer than that between two would be marked while it is healthy. A run that a worker has taken and not begun has
    no heartbeat yet: it has the time that starting a process or a container takes. The file's name is in the names:
    another file has others.

    Args:
        file: What `prefect.yaml` declares.
        ids: The deployments.
        environment: Whose runs they are.
        pool_types: The types of the deployments' work pools.
    """
    longest_start = LONGEST_PROCESS_START if set(pool_types) == {"process"} else LONGEST_START
    intervals = (item.environ().get(HEARTBEAT_VARIABLE, PREFECT_HEARTBEAT_SECONDS) for item in file.deployments)
    silence = timedelta(seconds=MISSED_HEARTBEATS * max(map(int, intervals)))
    return [
        _build_crash_detector(
            _name(f"{file.name} marks runs without a sign of life as crashed", environment),
            "A run whose worker died stays Running otherwise. Its generations go on: collect finishes them.",
            ids,
            _SilentRun(frozenset({_HEARTBEAT}), frozenset({_HEARTBEAT, *_ENDS}), silence),
            f"No sign of life for {silence.seconds} s; `collect` finishes what it submitted.",
        ),
        _build_crash_detector(
            _name(f"{file.name} marks runs that are taken and not begun as crashed", environment),
            "A run whose worker died before it began stays Submitting otherwise. It has submitted nothing.",
            ids,
            _SilentRun(_TAKEN, _BEGUN | set(_ENDS), longest_start),
            f"Taken by a worker and not begun within {longest_start.seconds} s; run it again.",
        ),
    ]


def build_alerts(environment: str, notification_block: UUID | None) -> list[AutomationCore]:
    """Build the automations for a budget of which four fifths are committed, and for an unusual volume.

    Args:
        environment: Whose events they listen to.
        notification_block: Block that sends the notifications; without one the event is only to be seen in Prefect.
    """
    return [
        _build_alert(
            "prefect-video reports a budget that is nearly used up",
            "video.budget.nearly-used",
            "prefect-video.budget.*",
            environment,
            _notify(notification_block, "A video budget is nearly used up", "{{ event.payload.detail }}"),
        ),
        _build_alert(
            "prefect-video reports an unusual volume",
            "video.account.anomaly",
            "prefect-video.account.*",
            environment,
            _notify(
                notification_block,
                "Unusually many videos are submitted",
                "Account {{ event.resource.name }} submits unusually many generations; the last one is for project"
                " {{ event.payload.project }}.",
            ),
        ),
        _build_project_notice(environment, notification_block),
    ]


async def ensure_automation(
    client: PrefectClient, wanted: AutomationCore, *, dry_run: bool, keep_actions: bool = False
) -> Change:
    """Create or update an automation by its name; one that an operator has disabled stays so.

    Args:
        client: A client of Prefect's API.
        wanted: What it should be.
        dry_run: Compare only.
        keep_actions: Leave the actions of one that exists.
    """
    found = next(iter(await client.read_automations_by_name(wanted.name)), None)
    if found is None:
        if not dry_run:
            await client.create_automation(wanted)
        return Change(kind="automation", name=wanted.name, outcome=Outcome.CREATED)
    update = _merge(wanted, found, keep_actions)
    differences = _list_differences(update, found)
    if not differences:
        return Change(kind="automation", name=wanted.name, outcome=Outcome.UNCHANGED)
    if not dry_run:
        await client.update_automation(found.id, update)
    return Change(kind="automation", name=wanted.name, outcome=Outcome.UPDATED, detail=", ".join(differences))


def _parse_trigger(declared: DeclaredDeployment, trigger: Mapping[str, Any]) -> DeploymentTriggerTypes:
    place = f"deployment {declared.name!r}, trigger {trigger.get('name')!r}"
    if not trigger.get("name"):
        raise InvalidInput(f"{place}: give it a name, by which it is found again")
    try:
        parsed: DeploymentTriggerTypes = TypeAdapter(DeploymentTriggerTypes).validate_python(trigger)
    except ValidationError as error:
        raise InvalidInput(f"{place}: {error.errors()[0]['msg']}") from error
    if ignored := sorted(set(trigger) - set(type(parsed).model_fields)):
        raise InvalidInput(f"{place}: Prefect knows no {', '.join(ignored)}; remove it")
    return parsed


def _build_crash_detector(
    name: str, description: str, ids: Sequence[UUID], silent: _SilentRun, message: str
) -> AutomationCore:
    return AutomationCore(
        name=name,
        description=description,
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match=ResourceSpecification.model_validate({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification.model_validate(
                {
                    "prefect.resource.role": "deployment",
                    "prefect.resource.id": sorted(f"prefect.deployment.{deployment_id}" for deployment_id in ids),
                }
            ),
            after=set(silent.after),
            expect=set(silent.expect),
            for_each={"prefect.resource.id"},
            threshold=1,
            within=silent.within,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )


def _build_alert(name: str, event: str, resource: str, environment: str, action: ActionTypes) -> AutomationCore:
    return AutomationCore(
        name=_name(name, environment),
        description="At most once a day for each budget or account.",
        trigger=EventTrigger(
            posture=Posture.Reactive,
            match=ResourceSpecification.model_validate(
                {"prefect.resource.id": resource, ENVIRONMENT_LABEL: environment}
            ),
            expect={event},
            for_each={"prefect.resource.id"},
            threshold=1,
            within=ALERT_PAUSE,
        ),
        actions=[action],
    )


def _build_project_notice(environment: str, notification_block: UUID | None) -> AutomationCore:
    body = "{{ event.payload.detail }}\nThe page: {{ event.payload.page or 'not written' }}"
    return AutomationCore(
        name=_name("prefect-video reports deferred projects", environment),
        description="Each time that a project which was not waited for is complete, has failed, or waits for a human.",
        trigger=EventTrigger(
            posture=Posture.Reactive,
            match=ResourceSpecification.model_validate(
                {"prefect.resource.id": "prefect-video.project.*", ENVIRONMENT_LABEL: environment}
            ),
            expect={f"video.project.{status}" for status in ("completed", "failed", "waiting")},
            threshold=1,
            within=timedelta(0),
        ),
        actions=[_notify(notification_block, "Project {{ event.resource.name }}", body)],
    )


def _notify(block: UUID | None, subject: str, body: str) -> ActionTypes:
    return SendNotification(block_document_id=block, subject=subject, body=body) if block else DoNothing()


def _name(name: str, environment: str) -> str:
    return name if environment == DEFAULT_ENVIRONMENT else f"{name} ({environment})"


def _merge(wanted: AutomationCore, found: Automation, keep_actions: bool) -> AutomationCore:
    """Build the update of an automation: its owner cannot be changed, and is left out."""
    return AutomationCore(
        name=wanted.name,
        description=wanted.description,
        enabled=found.enabled,
        trigger=wanted.trigger,
        actions=found.actions if keep_actions else wanted.actions,
    )


def _list_differences(wanted: AutomationCore, found: Automation) -> list[str]:
    differences = [] if wanted.description == found.description else ["description"]
    if wanted.trigger.model_dump() != found.trigger.model_dump():
        differences.append("trigger")
    if [action.model_dump() for action in wanted.actions] != [action.model_dump() for action in found.actions]:
        differences.append("actions")
    return differences
