"""Projects: shots with an order, dependencies, defaults, a budget and a destination."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Literal, Self

from pydantic import AliasChoices, Field, model_validator

from prefect_video.film import Cut, find_problems
from prefect_video.frame_sizes import Resolution
from prefect_video.inputs import Input, Number, WholeNumber
from prefect_video.quality import QualityPolicy
from prefect_video.remixes import KEPT, REFUSED, find_conflicts, inherit_kept
from prefect_video.shots import Duration, Identifier, ModelName, NoAnswerPolicy, ProviderName, Shot, ShotDefaults

AUTO: Final = "auto"
"""Provider of a project whose shots each go to the best of its `accounts`."""
SHOTS_LIMIT: Final = 10_000
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class LocatedError(ValueError):
    """An error at one place of a project, for validators that check the project as a whole. Correct that place.

    Attributes:
        at: The place, such as `("shots", 3, "depends_on")`.
    """

    def __init__(self, message: str, *at: str | int) -> None:
        super().__init__(message)
        self.at = at


class Fallback(Input):
    """Alternative for a shot that cannot be made as requested: another provider or model, or less of something."""

    provider: ProviderName | None = Field(
        default=None, description="Another provider: its name, or `block-type/block-name`"
    )
    model: ModelName | None = Field(default=None, description="That provider's name of the model")
    duration: Duration | None = Field(default=None, description="A shorter length in seconds")
    resolution: Resolution | None = Field(default=None, description="A lower resolution")

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("a fallback names what to give up: provider, model, duration or resolution")
        return self


class Approval(Input):
    """Deadline of the approvals of a project, and what happens without an answer."""

    within_hours: Number | None = Field(
        default=None, gt=0, le=8760, description="How long an answer is waited for; unset: as long as it takes"
    )
    on_no_answer: NoAnswerPolicy = Field(
        default="fail",
        description="After that time, count the proposed take (the best where `choose: best`, else the `first`), `drop`"
        " the shot, or `fail` it; its videos stay in each case",
    )


class Project(Input):
    """Shots with an order, dependencies, defaults, a budget and a destination."""

    # Not a plain `alias`, by which type checkers would refuse `Project(name=...)`.
    name: Identifier = Field(
        validation_alias=AliasChoices("project", "name"),
        serialization_alias="project",
        description="The project's name; becomes the folder in the store",
    )
    defaults: ShotDefaults = Field(
        default=ShotDefaults(), description="Values for every shot that does not give its own"
    )
    provider: ProviderName | None = Field(
        default=None,
        description=(
            "What makes the shots where the run names nothing: a provider's name, `block-type/block-name`, or `auto`"
            " for the best of `accounts`"
        ),
    )
    shots: tuple[Shot, ...] = Field(
        max_length=SHOTS_LIMIT,
        json_schema_extra={"minItems": 1},
        description="The shots, in order; ids are unique and `depends_on` has no cycle",
    )
    budget_usd: Decimal | None = Field(
        default=None, ge=0, description="The most that this project may ever cost, in USD; unset: no limit"
    )
    budget_videos: WholeNumber | None = Field(
        default=None, ge=0, description="The most generations that this project may ever pay for; unset: no limit"
    )
    over_budget: Literal["refuse", "fit"] = Field(
        default="refuse",
        description="Refuse the whole run when it does not fit the limits, or make the shots that still fit",
    )
    max_attempts: WholeNumber = Field(
        default=2, ge=1, le=10, description="How often a failed generation is bought anew, the first included"
    )
    accounts: tuple[ProviderName, ...] = Field(
        default=(),
        description="For provider `auto`: the providers to choose from, as `provider` would name them",
    )
    prefer: Literal["cheapest", "fastest"] = Field(
        default="cheapest", description="Which of several accounts that can make a shot is taken"
    )
    adapt: bool = Field(
        default=False,
        description="Change a shot that does not fit to the nearest that does; what was changed is reported",
    )
    fallbacks: tuple[Fallback, ...] = Field(
        default=(),
        max_length=20,
        description=(
            "What to give up, in order, while a provider is in trouble, its quota is used up or a limit reached"
        ),
    )
    priority: Literal["high", "normal", "low"] = Field(
        default="normal", description="Who goes first when an account's slots are taken"
    )
    on_mismatch: Literal["hold", "accept"] | None = Field(
        default=None,
        description=(
            "What to do with a paid video that plays and is not as requested: keep it as rejected and hold the shot, or"
            " store it with a note; unset: as the credentials or settings say, else hold"
        ),
    )
    approve: bool | None = Field(
        default=None, strict=True, description="A human approves every shot that does not say `approve: false`"
    )
    approval: Approval = Field(default=Approval(), description="Deadline of approvals, and what happens then")
    quality: QualityPolicy | None = Field(
        default=None,
        description="Quality gates: each video is measured after its download; unset: only length, size and format"
        " are compared, as `on_mismatch` says",
    )
    fan_out: WholeNumber | None = Field(
        default=None,
        ge=1,
        le=100,
        description="How many runs of a deployment make the shots, each a part of them, with one report; unset: one",
    )
    cut: Cut | None = Field(
        default=None, description="The final cut, which is made when all its shots are stored; unset: none"
    )

    @property
    def is_routed(self) -> bool:
        """True where each shot goes to the best of `accounts`."""
        return self.provider == AUTO

    @property
    def has_options_by_provider(self) -> bool:
        """True where several providers may make a shot, so that `options` are by the provider's name."""
        return self.is_routed or any(fallback.provider is not None for fallback in self.fallbacks)

    @property
    def requested_seconds(self) -> dict[str, float | None]:
        """Requested length of every shot by its id, in order; None for a clip that was made by hand."""
        return {shot.id: None if shot.clip else shot.length_seconds for shot in self.shots}

    def with_accounts(self, renamed: Mapping[str, str]) -> Self:
        """Return the project with accounts under other names: what makes its shots, and what its fallbacks use."""
        fallbacks = (
            fallback.model_copy(update={"provider": renamed.get(fallback.provider or "", fallback.provider)})
            for fallback in self.fallbacks
        )
        return self.model_copy(
            update={
                "provider": renamed.get(self.provider or "", self.provider),
                "accounts": tuple(dict.fromkeys(renamed.get(name, name) for name in self.accounts)),
                "fallbacks": tuple(fallbacks),
            }
        )

    @model_validator(mode="before")
    @classmethod
    def _apply_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        defaults, shots = data.get("defaults"), data.get("shots")
        if isinstance(defaults, ShotDefaults):
            defaults = defaults.model_dump(exclude_none=True)
        if data.get("approve"):
            defaults = {} if defaults is None else defaults
            defaults = {"approve": True, **_drop_unset(defaults)} if isinstance(defaults, dict) else defaults
        if not isinstance(shots, list | tuple):
            return data
        if isinstance(defaults, dict):
            known = {key: value for key, value in _drop_unset(defaults).items() if key in ShotDefaults.model_fields}
            shots = [_with_defaults(shot, known) for shot in shots] if known else shots
        return {**data, "shots": inherit_kept(shots)}

    @model_validator(mode="after")
    def _check_accounts(self) -> Self:
        if self.provider == AUTO and not self.accounts:
            raise ValueError("accounts: `provider: auto` chooses among accounts; name at least one")
        return self

    @model_validator(mode="after")
    def _check_ids_and_dependencies(self) -> Self:
        if not self.shots:
            raise ValueError("shots: a project needs at least one")
        seen: set[str] = set()
        for number, shot in enumerate(self.shots):
            # Stores may fold case: `A.mp4` and `a.mp4` are one file on many disks.
            if shot.id.casefold() in seen:
                raise LocatedError(
                    f"shot {shot.id!r}: this id is used twice; every shot needs its own", "shots", number, "id"
                )
            seen.add(shot.id.casefold())
        numbers = {shot.id: number for number, shot in enumerate(self.shots)}
        for number, shot in enumerate(self.shots):
            for needed in shot.needs:
                if needed not in numbers:
                    field = _find_field(shot, needed)
                    message = f"shot {shot.id!r}: {field} names {needed!r}, which is not a shot"
                    raise LocatedError(message, "shots", number, field)
            if shot.continue_from and shot.clip:
                message = f"shot {shot.id!r}: continue_from: a clip that was made by hand begins as it is"
                raise LocatedError(message, "shots", number, "continue_from")
            if shot.choose == "best" and self.quality is None:
                message = f"shot {shot.id!r}: choose: best compares by the project's `quality`; add it, such as"
                raise LocatedError(f"{message} `quality: {{}}`", "shots", number, "choose")
            if shot.continue_from and shot.first_frame:
                message = f"shot {shot.id!r}: continue_from: its first frame is the last of {shot.continue_from!r}"
                raise LocatedError(f"{message}; leave out first_frame", "shots", number, "first_frame")
        if circle := _find_cycle({shot.id: shot.needs for shot in self.shots}):
            first = self.shots[numbers[circle[0]]]
            field = _find_field(first, circle[1])
            message = f"shot {first.id!r}: {field} goes in a circle: {' → '.join(circle)}"
            raise LocatedError(message, "shots", numbers[first.id], field)
        return self

    @model_validator(mode="after")
    def _check_remixes(self) -> Self:
        by_id = {shot.id: shot for shot in self.shots}
        for number, shot in enumerate(self.shots):
            if shot.remixed_from is not None:
                message = f"shot {shot.id!r}: remixed_from: a run finds the generation; name the shot with remix_of"
                raise LocatedError(message, "shots", number, "remixed_from")
            for field, reason in find_conflicts(shot, by_id[shot.remix_of]) if shot.remix_of else ():
                raise LocatedError(f"shot {shot.id!r}: {field}: {reason}", "shots", number, field)
        return self

    @model_validator(mode="after")
    def _check_options_by_provider(self) -> Self:
        for number, shot in enumerate(self.shots if self.has_options_by_provider else ()):
            for name, value in shot.options.items():
                if not isinstance(value, dict):
                    raise LocatedError(
                        f"shot {shot.id!r}: options: {name}: several providers may make this shot, so that options are"
                        " by the provider's name, as in `options: {fal: {...}, replicate: {...}}`",
                        *("shots", number, "options", name),
                    )
        return self

    @model_validator(mode="after")
    def _check_cut(self) -> Self:
        if self.cut is not None:
            takes = {shot.id: shot.takes for shot in self.shots}
            for problem in find_problems(self.cut, self.requested_seconds, takes):
                raise LocatedError(f"cut: {problem.message}", "cut", *problem.at)
        return self

    @model_validator(mode="after")
    def _check_prompt_characters(self) -> Self:
        # Here and not in `Shot`, which the ledger reads back: a shot that was paid must remain readable indefinitely.
        for number, shot in enumerate(self.shots):
            for field, text in (("prompt", shot.prompt), ("negative_prompt", shot.negative_prompt or "")):
                if found := _CONTROL.search(text):
                    raise LocatedError(
                        f"shot {shot.id!r}: {field}: character {found.start() + 1} is the control character"
                        f" U+{ord(found[0]):04X}; only line breaks and tabs are text",
                        *("shots", number, field),
                    )
        return self


def as_parameter(project: Project) -> dict[str, Any]:
    """Return a project as a parameter of a flow run: plain values, from which the same shots are read back.

    Its defaults are left out. The shots have them already, and those that have set a value of their own which is that
    of every shot would lose it.
    """
    return project.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"defaults"})


def _with_defaults(shot: Any, defaults: dict[str, Any]) -> Any:
    """Return a shot with a project's defaults for its unset fields."""
    if isinstance(shot, Shot):
        shot = {name: getattr(shot, name) for name in shot.model_fields_set}
    if not isinstance(shot, dict):
        return shot
    if shot.get("seeds"):
        defaults = {name: value for name, value in defaults.items() if name not in ("seed", "takes")}
    if shot.get("remix_of"):
        # Its original decides, whose defaults are the same.
        defaults = {name: value for name, value in defaults.items() if name not in (*KEPT, *REFUSED)}
    return {**defaults, **_drop_unset(shot)}


def _find_field(shot: Shot, needed: str) -> str:
    """Return the field in which a shot names another."""
    if needed in shot.depends_on:
        return "depends_on"
    return "continue_from" if needed == shot.continue_from else "remix_of"


def _drop_unset(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _find_cycle(edges: dict[str, tuple[str, ...]]) -> list[str] | None:
    """Return the nodes of a cycle, the first one again at its end; None when there is none.

    Iterative, so that long chains do not exhaust the stack.
    """
    done: set[str] = set()
    for start in edges:
        path: list[str] = []
        on_path: set[str] = set()
        stack: list[tuple[str, bool]] = [(start, False)]
        while stack:
            node, leaving = stack.pop()
            if leaving:
                done.add(path.pop())
                on_path.discard(node)
            elif node in on_path:
                return [*path[path.index(node) :], node]
            elif node not in done:
                path.append(node)
                on_path.add(node)
                stack.append((node, True))
                stack.extend((needed, False) for needed in edges[node])
    return None
