"""What a user asks for: shots, and projects of shots.

Limits come from the Sora contract (durations to 20 s, three aspect ratios, 480p to 1080p); what a plan or
another provider allows beyond or below that is checked by the provider before anything is spent.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

AspectRatio = Literal["16:9", "9:16", "1:1"]
Resolution = Literal["480p", "720p", "1080p"]

DEFAULT_MODEL: Final = "sora-2"
"""What a shot names that names no model; providers take it for whatever they have in its place."""
PROMPT_LIMIT: Final = 32_000
TAKES_LIMIT: Final = 10
AUTO: Final = "auto"
"""The provider of a project whose shots each go to the best of its `accounts`."""
SHOTS_LIMIT: Final = 10_000
DEFAULT_FPS: Final = 24
"""What engines take for frames per second where none are asked for."""

Identifier = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*$", strict=True
    ),
]
"""Names become file names and URLs: letters, digits, `_`, `-` and single dots, starting with a letter or digit."""

Prompt = Annotated[str, StringConstraints(min_length=1, max_length=PROMPT_LIMIT, strict=True)]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Duration = Annotated[int, Field(ge=1, le=20, strict=True), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1, strict=True)]

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SHORT_SIDE: Final[dict[Resolution, int]] = {"480p": 480, "720p": 720, "1080p": 1080}


Size = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{2,3}x[1-9][0-9]{2,3}$", strict=True)]
"""Width and height in pixels, such as `1792x1024`; each 100 to 9999."""


def frame_size(aspect_ratio: AspectRatio, resolution: Resolution) -> tuple[int, int]:
    """Width and height in pixels of a picture, for example `(1280, 720)` for 16:9 at 720p; both are even."""
    short = _SHORT_SIDE[resolution]
    long = -(-short * 16 // 9) + (-(-short * 16 // 9)) % 2
    return {"16:9": (long, short), "9:16": (short, long), "1:1": (short, short)}[aspect_ratio]


class MisplacedError(ValueError):
    """Something is wrong in one place of a project.

    Attributes:
        at: The place, such as `("shots", 3, "depends_on")`.
    """

    def __init__(self, message: str, *at: str | int) -> None:
        super().__init__(message)
        self.at = at


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Shot(_Asked):
    """One video that is wanted.

    Attributes:
        id: Name within the project; becomes part of the file name.
        prompt: What is to be seen; at most 32,000 characters.
        model: The provider's name of the model.
        duration: Length in whole seconds, 1 to 20.
        aspect_ratio: `16:9`, `9:16` or `1:1`.
        resolution: `480p`, `720p` or `1080p`: the length of the shorter side.
        size: Exact width and height in pixels, such as `1792x1024`, where the provider takes it; wins over aspect ratio
            and resolution.
        seed: Fixes the randomness where the provider can.
        negative_prompt: What is not to be seen, for engines that take it.
        fps: Frames per second, for engines that take it.
        num_frames: Exact number of frames, for engines that take it; wins over the duration there.
        num_inference_steps: Denoising steps, for engines that take it.
        guidance_scale: How closely the prompt is followed, for engines that take it.
        references: Paths of reference images, where the provider takes them; fingerprinted by content, so local files.
        depends_on: Ids of shots of the same project that must be stored first.
        takes: How many independent generations are wanted, 1 to 10; each is paid.
        metadata: Free labels; sent along, without effect on the fingerprint.
    """

    id: Identifier
    prompt: Prompt
    model: Annotated[str, StringConstraints(min_length=1, max_length=200)] = DEFAULT_MODEL
    duration: Duration = 10
    aspect_ratio: AspectRatio = "16:9"
    resolution: Resolution = "1080p"
    size: Size | None = None
    seed: Seed | None = None
    negative_prompt: Prompt | None = None
    fps: int | None = Field(default=None, ge=1, le=120, strict=True)
    num_frames: int | None = Field(default=None, ge=1, le=10_000, strict=True)
    num_inference_steps: int | None = Field(default=None, ge=1, le=1_000, strict=True)
    guidance_scale: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)
    references: tuple[str, ...] = ()
    depends_on: tuple[Identifier, ...] = ()
    takes: int = Field(default=1, ge=1, le=TAKES_LIMIT, strict=True)
    metadata: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _prompt_says_something(self) -> Self:
        if not self.prompt.strip():
            raise ValueError("prompt is blank: say what is to be seen")
        return self

    @property
    def frame_size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        if self.size is not None:
            width, height = map(int, self.size.split("x"))
            return width, height
        return frame_size(self.aspect_ratio, self.resolution)

    @property
    def lines(self) -> str:
        """The length of the shorter side as resolutions are named, such as `1024p`."""
        return f"{min(self.frame_size)}p" if self.size is not None else self.resolution

    @property
    def length_seconds(self) -> float:
        """How long the video should be: `num_frames` at `fps` where frames are asked for, else the duration."""
        return self.num_frames / (self.fps or DEFAULT_FPS) if self.num_frames else float(self.duration)


class ShotDefaults(_Asked):
    """Values for every shot of a project that does not give its own."""

    model: str | None = None
    duration: Duration | None = None
    aspect_ratio: AspectRatio | None = None
    resolution: Resolution | None = None
    size: Size | None = None
    seed: Seed | None = None
    negative_prompt: Prompt | None = None
    fps: int | None = Field(default=None, ge=1, le=120, strict=True)
    num_frames: int | None = Field(default=None, ge=1, le=10_000, strict=True)
    num_inference_steps: int | None = Field(default=None, ge=1, le=1_000, strict=True)
    guidance_scale: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)
    references: tuple[str, ...] | None = None
    takes: int | None = Field(default=None, ge=1, le=TAKES_LIMIT, strict=True)
    metadata: dict[str, str] | None = None


class Fallback(_Asked):
    """What to give up when a shot cannot be made as asked: another provider, or less of something.

    Attributes:
        provider: A provider's name or `block-type/block-name`.
        model: That provider's name of the model.
        duration: A shorter length.
        resolution: A lower resolution.
    """

    provider: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    model: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    duration: Duration | None = None
    resolution: Resolution | None = None

    @model_validator(mode="after")
    def _gives_something_up(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("a fallback names what to give up: provider, model, duration or resolution")
        return self


class Project(_Asked):
    """Shots that belong together.

    Attributes:
        name: The project's name (`project:` in a file); becomes the folder in the store.
        defaults: Values for every shot that does not give its own.
        provider: What makes the shots where the caller names nothing: a provider's name, `block-type/block-name`, or
            `auto` for the best of `accounts`; may be left out.
        shots: The shots, in order; ids are unique and `depends_on` has no cycle.
        budget_usd: The most that this project may ever cost, in USD; None for no limit.
        budget_videos: The most generations that this project may ever pay for; None for no limit.
        over_budget: `refuse` the whole run when it does not fit (default), or make the shots that still `fit`.
        max_attempts: How often a failed generation is bought anew, the first included.
        accounts: For `provider: auto`: the providers to choose from, as `provider` would name them.
        prefer: Which of several that can make a shot is taken: the `cheapest`, or the `fastest`.
        adapt: Whether a shot that does not fit is changed to the nearest that does; what was changed is reported.
        fallbacks: What to give up, in order, while a provider is in trouble, its quota is used up or a limit reached.
        priority: Who goes first when an account's slots are taken.
    """

    name: Identifier = Field(alias="project")
    defaults: ShotDefaults = ShotDefaults()
    provider: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    shots: tuple[Shot, ...] = Field(max_length=SHOTS_LIMIT)
    budget_usd: Decimal | None = Field(default=None, ge=0)
    budget_videos: int | None = Field(default=None, ge=0)
    over_budget: Literal["refuse", "fit"] = "refuse"
    max_attempts: int = Field(default=2, ge=1, le=10)
    accounts: tuple[Annotated[str, StringConstraints(min_length=1, max_length=200)], ...] = ()
    prefer: Literal["cheapest", "fastest"] = "cheapest"
    adapt: bool = False
    fallbacks: tuple[Fallback, ...] = Field(default=(), max_length=20)
    priority: Literal["high", "normal", "low"] = "normal"

    @property
    def is_routed(self) -> bool:
        """Whether each shot goes to the best of `accounts`."""
        return self.provider == AUTO

    @model_validator(mode="before")
    @classmethod
    def _apply_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        defaults, shots = data.get("defaults"), data.get("shots")
        if isinstance(defaults, ShotDefaults):
            defaults = defaults.model_dump(exclude_none=True)
        if not isinstance(defaults, dict) or not isinstance(shots, list | tuple):
            return data
        known = {key: value for key, value in defaults.items() if key in ShotDefaults.model_fields}
        return {**data, "shots": [{**known, **shot} if isinstance(shot, dict) else shot for shot in shots]}

    @model_validator(mode="after")
    def _auto_has_accounts(self) -> Self:
        if self.provider == AUTO and not self.accounts:
            raise ValueError("accounts: `provider: auto` chooses among accounts; name at least one")
        return self

    @model_validator(mode="after")
    def _ids_and_dependencies_hold(self) -> Self:
        if not self.shots:
            raise ValueError("shots: a project needs at least one")
        seen: set[str] = set()
        for number, shot in enumerate(self.shots):
            # Stores may fold case: `A.mp4` and `a.mp4` are one file on many disks.
            if shot.id.casefold() in seen:
                raise MisplacedError(
                    f"shot {shot.id!r}: this id is used twice; every shot needs its own", "shots", number, "id"
                )
            seen.add(shot.id.casefold())
        numbers = {shot.id: number for number, shot in enumerate(self.shots)}
        for number, shot in enumerate(self.shots):
            for needed in shot.depends_on:
                if needed not in numbers:
                    message = f"shot {shot.id!r}: depends_on names {needed!r}, which is not a shot"
                    raise MisplacedError(message, "shots", number, "depends_on")
        if circle := _find_cycle({shot.id: shot.depends_on for shot in self.shots}):
            message = f"shot {circle[0]!r}: depends_on goes in a circle: {' → '.join(circle)}"
            raise MisplacedError(message, "shots", numbers[circle[0]], "depends_on")
        return self

    @model_validator(mode="after")
    def _prompts_are_text(self) -> Self:
        # Here and not with the shot, which the ledger reads back: what was paid once must be readable for ever.
        for number, shot in enumerate(self.shots):
            for field, text in (("prompt", shot.prompt), ("negative_prompt", shot.negative_prompt or "")):
                if found := _CONTROL.search(text):
                    raise MisplacedError(
                        f"shot {shot.id!r}: {field}: character {found.start() + 1} is the control character"
                        f" U+{ord(found[0]):04X}; only line breaks and tabs are text",
                        *("shots", number, field),
                    )
        return self


def _find_cycle(edges: dict[str, tuple[str, ...]]) -> list[str] | None:
    """A path that ends where it begins, or None; iterative, so that long chains do not exhaust the stack."""
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


def as_shot(wanted: Shot | str) -> Shot:
    """A shot from a shot, or from a prompt alone, with a name made from its first words.

    Raises:
        pydantic.ValidationError: The prompt is empty or too long.
    """
    return wanted if isinstance(wanted, Shot) else Shot(id=slug(wanted), prompt=wanted)


def slug(text: str, *, fallback: str = "shot") -> str:
    """An `Identifier` made from free text, for shots that have no name of their own."""
    words = re.findall(r"[A-Za-z0-9]+", text.lower())
    return "-".join(words)[:40].strip("-") or fallback
