"""Declaration of deployments: the part of `prefect.yaml` that a set-up understands, and refuses to misunderstand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prefect_video.errors import InvalidInput
from prefect_video.session import STORE_BLOCK, names_ledger_block

FILE_NAME: Final = "prefect.yaml"
DEFAULT_ENVIRONMENT: Final = "production"
ENVIRONMENT_LABEL: Final = "prefect-video.environment"


class _Declared(BaseModel):
    # A key that is ignored in silence is a schedule that never runs.
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeclaredPool(_Declared):
    """The work pool of a deployment, and what its runs are started with."""

    name: str
    work_queue_name: str | None = None
    job_variables: dict[str, Any] = Field(default_factory=dict)


class DeclaredSchedule(_Declared):
    """A schedule; exactly one of `cron`, `interval` (seconds) and `rrule` is given."""

    cron: str | None = None
    interval: timedelta | None = None
    rrule: str | None = None
    timezone: str | None = None
    active: bool = True
    parameters: dict[str, Any] = Field(default_factory=dict)
    slug: str

    @model_validator(mode="after")
    def _check_rule(self) -> Self:
        if sum(rule is not None for rule in (self.cron, self.interval, self.rrule)) != 1:
            raise ValueError("give exactly one of cron, interval and rrule")
        return self


class DeclaredLimit(_Declared):
    """Limit on the runs of a deployment that are in progress at once, and the treatment of the others."""

    limit: int = Field(ge=1)
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"
    grace_period_seconds: int | None = None


class DeclaredDeployment(_Declared):
    """One deployment.

    Attributes:
        name: Its name.
        entrypoint: Module and function of its flow, or file and function.
        work_pool: Where it runs.
        description: What it is for.
        tags: Its tags.
        parameters: Values that its runs get.
        schedules: When it runs by itself.
        concurrency_limit: How many of its runs may be in progress at once.
        triggers: Automations that run it, in the form of Prefect's own YAML.
        pull: Its own steps that fetch the code; else those of the file.
    """

    name: str
    entrypoint: str
    work_pool: DeclaredPool
    description: str | None = None
    tags: tuple[str, ...] = ()
    parameters: dict[str, Any] = Field(default_factory=dict)
    schedules: tuple[DeclaredSchedule, ...] = ()
    concurrency_limit: int | DeclaredLimit | None = None
    triggers: tuple[dict[str, Any], ...] = ()
    pull: tuple[dict[str, Any], ...] | None = None

    def blocks(self) -> list[str]:
        """Return the names of the saved blocks that its parameters name, as `type/name`."""
        return find_block_names(self.parameters)

    def environ(self) -> Mapping[str, Any]:
        """Return the environment variables that its runs get."""
        environ: Mapping[str, Any] = self.work_pool.job_variables.get("env", {})
        return environ


class DeploymentFile(_Declared):
    """A `prefect.yaml`.

    Attributes:
        name: Name of the project.
        pull: Steps that fetch the code of every deployment; none for flows of an installed package.
        deployments: The deployments.
        definitions: Anchors of the file; not looked at.
        prefect_version: Version of Prefect that the file was written for; not looked at.
    """

    name: str
    pull: tuple[dict[str, Any], ...]
    deployments: tuple[DeclaredDeployment, ...]
    definitions: Any = None
    prefect_version: str | None = Field(default=None, alias="prefect-version")

    def for_environment(self, environment: str | None, pool: str | None) -> DeploymentFile:
        """Return the file with another environment's blocks and names, and another work pool; None changes nothing."""
        changed = [_change(deployment, environment, pool) for deployment in self.deployments]
        return self.model_copy(update={"deployments": tuple(changed)})


def read_deployment_file(folder: Path) -> DeploymentFile:
    """Read the `prefect.yaml` of a folder.

    Raises:
        InvalidInput: There is none, or it holds what a set-up would not do; the message names the key.
    """
    path = folder / FILE_NAME
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"there is no {path}: write one with `prefect-video init {folder}`") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
    try:
        return DeploymentFile.model_validate(content)
    except ValidationError as error:
        lines = "; ".join(_describe(first["loc"], first["type"], first["msg"], content) for first in error.errors())
        raise InvalidInput(f"{path}: {lines}") from error


def find_block_names(parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of the saved blocks among a deployment's parameters, as `type/name`."""
    return [value for key, value in parameters.items() if is_block_name(key, value)]


def is_block_name(parameter: str, value: object) -> bool:
    """Tell whether a deployment's parameter names a saved block."""
    if not isinstance(value, str):
        return False
    if parameter == "provider":
        return "/" in value
    if parameter == "store":
        return value.startswith(f"{STORE_BLOCK}/")
    return parameter == "ledger" and names_ledger_block(value)


def name_for_environment(name: str, environment: str | None) -> str:
    """Return the name of a deployment in an environment: production's has no ending."""
    return name if environment in (None, DEFAULT_ENVIRONMENT) else f"{name}-{environment}"


def _describe(location: tuple[int | str, ...], kind: str, message: str, content: Any) -> str:
    """Describe an error of the file by the deployment's name and the key."""
    if location == ("pull",) and kind == "missing":
        return "pull: missing; without it the runs of other machines crash. Write `pull: []` for installed packages"
    if location[:1] == ("deployments",) and len(location) > 1 and isinstance(location[1], int):
        name = content["deployments"][location[1]]
        name = name.get("name", location[1]) if isinstance(name, Mapping) else location[1]
        location = ("deployment", str(name), *location[2:])
    if kind == "extra_forbidden":
        message = "not known to `setup`; deploy it with `prefect deploy`, or remove the key"
    return f"{' '.join(str(part) for part in location)}: {message}"


def _change(deployment: DeclaredDeployment, environment: str | None, pool: str | None) -> DeclaredDeployment:
    update: dict[str, Any] = {}
    if pool:
        update["work_pool"] = deployment.work_pool.model_copy(update={"name": pool})
    if environment:
        update["name"] = name_for_environment(deployment.name, environment)
        update["parameters"] = dict(_rename_blocks(deployment.parameters, environment))
        update["triggers"] = tuple(_change_trigger(trigger, environment) for trigger in deployment.triggers)
    return deployment.model_copy(update=update)


def _rename_blocks(parameters: Mapping[str, Any], environment: str) -> Iterator[tuple[str, Any]]:
    for key, value in parameters.items():
        yield key, f"{value.partition('/')[0]}/{environment}" if is_block_name(key, value) else value


def _change_trigger(trigger: Mapping[str, Any], environment: str) -> dict[str, Any]:
    changed = dict(trigger)
    if ENVIRONMENT_LABEL in trigger.get("match", {}):
        changed["match"] = {**trigger["match"], ENVIRONMENT_LABEL: environment}
    if "parameters" in trigger:
        changed["parameters"] = dict(_rename_blocks(trigger["parameters"], environment))
    if "name" in trigger and environment != DEFAULT_ENVIRONMENT:
        changed["name"] = f"{trigger['name']} ({environment})"
    return changed
