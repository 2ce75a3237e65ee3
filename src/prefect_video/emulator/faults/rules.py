"""Fault rules: what makes the emulator misbehave, on which requests, and how often.

A rule is an object `{operation, kind, times, after, match, ...}`. `times` is how often it fires (1 by default, null
without limit), `after` how many matching requests pass first, `match` restricts it to a part of the prompt or a
generation id; a remix is a submit. The first rule in order that matches and is not exhausted fires, at most one a
request. Rules do not survive a restart.

| kind | operations | parameters | what happens |
| --- | --- | --- | --- |
| rate_limited | all but webhook | retry_after | 429; nothing was done |
| quota_exhausted | all but webhook | – | the quota or the balance is exhausted; nothing was done |
| error_before | all but webhook | – | 500 without a generation id; nothing was done |
| error_after | submit, cancel | – | done (accepted, cancelled), then 500 without a generation id |
| generation_error | submit | – | accepted and failed at once; 500 with `generation_id` |
| repeated | submit | – | accepted twice, as when a proxy sends it again by itself; the answer is about the second |
| reset_before | all but webhook | – | TCP reset without an answer; nothing was done |
| reset_after | submit, retrieve, list, cancel | – | done, then TCP reset without an answer |
| hang | all but webhook | seconds (60) | done, then no answer; reset after that time |
| delay | all but webhook | seconds (1) | done at once, answered after that time |
| slow | all but webhook | bytes_per_second | the body trickles at that rate |
| truncated | all but webhook | fraction | headers promise all, the connection closes after that share |
| short_file | content | fraction | a complete response, but of a file cut to that share |
| altered_file | content | alteration | a complete response, but of another file (below) |
| lying_headers | content | content_type, content_encoding | the file, under these headers |
| not_ready | content | not_ready_status (404) | that status, as where the file is not there yet; nothing was done |
| denied | content | denied_status (401) | that status on a link, as where its host wants another key |
| wrong_size | retrieve, list | off_by (1) | the size of the file is stated as so many bytes more |
| preview_first | retrieve | – | a picture precedes the video among the links (Replicate, OpenRouter) |
| wrong_content | all but webhook | – | 200 with an HTML page; nothing was done |
| expired_link | retrieve, list, content | – | the links are expired; on content: 403 as for an expired link |
| unknown_status | retrieve, list | status | the answer carries that status string; on list, in every item |
| wrong_cost | retrieve | cost | that value is reported as the cost of a completed generation (Sora's dialect) |
| not_found | retrieve, cancel, content | – | 404 although the generation exists |
| list_off | list | http_status (404) | the endpoint answers 404, 405 or 501 |
| foreign_answer | all but content, webhook | foreign, foreign_status (502) | done, then a gateway's answer (below) |
| inflated | all but content, webhook | inflates_to (bytes) | done, then a gzip body that inflates to that size |
| nested | all but content, webhook | depth (200000) | done, then JSON nested that deep |
| odd_number | all but content, webhook | number (`NaN`) | done; each number of the answer is that one |
| quoted_key | all but content, webhook | quoted | 401 whose message and `x-request-id` hold that text as JSON spells it
(escapes and all); nothing was done |
| wrapped | all but content, webhook | wrapper (`data`) | done; the answer is inside of an object of that name |
| blocked | submit | code, message | accepted; fails with this code and message at the end of its work, and is billed |
| empty_page | list | – | a page without items that says that more follow |
| silent_list | list | – | the list does not say whether more follow, nor how many there are |
| odd_item | list | – | the first item does not conform to any contract |
| nameless_item | list | – | the last item of a page has no id |
| lost_tail | list | – | pages after the first have nothing new and say that they are the last |
| foreign_item | list | item_id (`gen_foreign`) | the first item is a generation of this id, which cannot be read |
| twin_id | list | – | the first item is an older generation with the id of the newest one |
| unfinished_hidden | list | – | what is unfinished is not listed |
| cached | list | age (600) | the list as it was so many seconds ago, with that `Age` |
| skewed | list | skew_seconds (-600), about | the items with `about` in their prompt are dated by a wrong clock |
| untimed | list, retrieve | – | no time of creation is reported |
| renamed_model | list | – | the owners of all models have another name |
| shifted_page | list | – | pages after the first leave out an item, as when one before it was deleted; lists with
cursors begin again, as when the cursor's generation was |
| duplicate | webhook | copies (2) | the same delivery is sent that many times |
| late | webhook | seconds (1), backdate_seconds (0) | sent that late; the signed timestamp is older by both |
| forged | webhook | – | a false "completed" with a wrong signature precedes the true one |
| drop | webhook | – | never sent |

An altered file is `longer` (twice the length), `shorter` (half of it), `resized` (half the width and height),
`stretched` (pixels of 4:3), `black`, `frozen` (its first frame all along), `silent` (its sound, if any, is silence),
`trailing` (with bytes behind its end), `matroska`, or `unbranded` (its first box is not `ftyp`).

A gateway answers as `foreign` says: `html`, `json`, `problem` (RFC 9457), `text` or `empty`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

Operation = Literal["submit", "retrieve", "list", "cancel", "content", "webhook"]
Kind = Literal[
    "rate_limited", "quota_exhausted", "error_before", "error_after", "generation_error", "repeated", "reset_before",
    "reset_after", "hang", "delay", "slow", "truncated", "short_file", "wrong_content", "expired_link",
    "unknown_status", "not_found", "list_off", "empty_page", "silent_list", "odd_item", "nameless_item", "lost_tail",
    "foreign_item", "twin_id", "unfinished_hidden", "cached", "skewed", "untimed", "renamed_model", "shifted_page",
    "wrong_cost", "foreign_answer", "inflated", "nested", "odd_number", "quoted_key", "wrapped", "blocked", "duplicate",
    "late", "forged", "drop", "altered_file", "lying_headers", "not_ready", "denied", "wrong_size", "preview_first",
]  # fmt: skip
Alteration = Literal[
    "longer", "shorter", "resized", "stretched", "black", "frozen", "silent", "trailing", "matroska", "unbranded",
]  # fmt: skip

_HTTP: frozenset[Operation] = frozenset({"submit", "retrieve", "list", "cancel", "content"})
_WEBHOOK: frozenset[Operation] = frozenset({"webhook"})
ALLOWED_OPERATIONS: dict[Kind, frozenset[Operation]] = {
    "rate_limited": _HTTP,
    "quota_exhausted": _HTTP,
    "error_before": _HTTP,
    "error_after": frozenset({"submit", "cancel"}),
    "generation_error": frozenset({"submit"}),
    "repeated": frozenset({"submit"}),
    "reset_before": _HTTP,
    "reset_after": _HTTP - {"content"},
    "hang": _HTTP,
    "delay": _HTTP,
    "slow": _HTTP,
    "truncated": _HTTP,
    "short_file": frozenset({"content"}),
    "altered_file": frozenset({"content"}),
    "lying_headers": frozenset({"content"}),
    "not_ready": frozenset({"content"}),
    "denied": frozenset({"content"}),
    "wrong_size": frozenset({"retrieve", "list"}),
    "preview_first": frozenset({"retrieve"}),
    "wrong_content": _HTTP,
    "expired_link": frozenset({"retrieve", "list", "content"}),
    "unknown_status": frozenset({"retrieve", "list"}),
    "wrong_cost": frozenset({"retrieve"}),
    "not_found": frozenset({"retrieve", "cancel", "content"}),
    "list_off": frozenset({"list"}),
    "foreign_answer": _HTTP - {"content"},
    "inflated": _HTTP - {"content"},
    "nested": _HTTP - {"content"},
    "odd_number": _HTTP - {"content"},
    "quoted_key": _HTTP - {"content"},
    "wrapped": _HTTP - {"content"},
    "blocked": frozenset({"submit"}),
    "empty_page": frozenset({"list"}),
    "silent_list": frozenset({"list"}),
    "odd_item": frozenset({"list"}),
    "nameless_item": frozenset({"list"}),
    "lost_tail": frozenset({"list"}),
    "foreign_item": frozenset({"list"}),
    "twin_id": frozenset({"list"}),
    "unfinished_hidden": frozenset({"list"}),
    "cached": frozenset({"list"}),
    "skewed": frozenset({"list"}),
    "untimed": frozenset({"list", "retrieve"}),
    "renamed_model": frozenset({"list"}),
    "shifted_page": frozenset({"list"}),
    "duplicate": _WEBHOOK,
    "late": _WEBHOOK,
    "forged": _WEBHOOK,
    "drop": _WEBHOOK,
}
_SECONDS: dict[Kind, float] = {"hang": 60.0}


class FaultMatch(BaseModel):
    """Condition on the requests of a rule; a field that is None matches every request.

    Attributes:
        prompt: Part of the prompt.
        generation_id: Id of the generation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str | None = None
    generation_id: str | None = None

    def accepts(self, prompt: str | None, generation_id: str | None) -> bool:
        """Return True if a request about this prompt and generation matches."""
        if self.prompt is not None and (prompt is None or self.prompt not in prompt):
            return False
        return self.generation_id is None or self.generation_id == generation_id


class FaultRule(BaseModel):
    """One fault rule; the module's table lists what each kind does and which parameters it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operation: Operation
    kind: Kind
    times: int | None = Field(default=1, ge=1)
    after: int = Field(default=0, ge=0)
    match: FaultMatch = FaultMatch()
    retry_after: float = Field(default=1.0, ge=0)
    seconds: float | None = Field(default=None, ge=0)
    backdate_seconds: float = Field(default=0.0, ge=0)
    bytes_per_second: int = Field(default=65_536, ge=1)
    fraction: float = Field(default=0.5, ge=0, lt=1)
    status: str = Field(default="moderating", min_length=1)
    cost: float | str | bool | None = 999_999.0
    http_status: Literal[404, 405, 501] = 404
    copies: int = Field(default=2, ge=2)
    foreign: Literal["html", "json", "problem", "text", "empty"] = "html"
    foreign_status: int = Field(default=502, ge=300, le=599)
    inflates_to: int = Field(default=1_500_000_000, ge=1)
    depth: int = Field(default=200_000, ge=1)
    number: str = "NaN"
    quoted: str = ""
    wrapper: str = Field(default="data", min_length=1)
    item_id: str = Field(default="gen_foreign", min_length=1)
    age: int = Field(default=600, ge=1)
    skew_seconds: float = -600.0
    about: str = ""
    code: str = Field(default="moderation_blocked", min_length=1)
    message: str = "Your request was blocked by our moderation system."
    alteration: Alteration = "longer"
    content_type: str = "text/plain"
    content_encoding: str | None = None
    not_ready_status: Literal[202, 404, 409, 425] = 404
    denied_status: Literal[401, 403] = 401
    off_by: int = 1

    @model_validator(mode="after")
    def _kind_fits_operation(self) -> Self:
        allowed = ALLOWED_OPERATIONS[self.kind]
        if self.operation not in allowed:
            raise ValueError(
                f"a fault of kind {self.kind!r} cannot happen on {self.operation!r}; "
                f"use one of: {', '.join(sorted(allowed))}"
            )
        return self

    @property
    def wait_seconds(self) -> float:
        """Return `seconds`, or the default of the kind."""
        return self.seconds if self.seconds is not None else _SECONDS.get(self.kind, 1.0)


_RULES: TypeAdapter[list[FaultRule]] = TypeAdapter(list[FaultRule])


def parse_faults(document: Any) -> list[FaultRule]:
    """Build rules from decoded JSON or YAML: one object or a list of them.

    Raises:
        ValueError: A rule is malformed; the message names its place and field.
    """
    try:
        return _RULES.validate_python(document if isinstance(document, list) else [document])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"fault rule {place}: {first['msg']}") from error


def load_faults(path: Path) -> tuple[FaultRule, ...]:
    """Load rules from a YAML (`.yaml`, `.yml`) or JSON file.

    Raises:
        ValueError: The file cannot be parsed or holds a malformed rule; the message names the file.
        OSError: The file cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix in (".yaml", ".yml"):
            import yaml

            try:
                document = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(f"not valid YAML: {error}") from error
        else:
            document = json.loads(text)
        return tuple(parse_faults(document if document is not None else []))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


class FaultRules:
    """Rules in force, with how often each has matched and fired."""

    def __init__(self, rules: Iterable[FaultRule] = ()) -> None:
        self._active: list[_ActiveRule] = []
        self.add(rules)

    def add(self, rules: Iterable[FaultRule]) -> None:
        """Add rules after those in force."""
        self._active.extend(_ActiveRule(rule) for rule in rules)

    def clear(self) -> None:
        """Remove every rule."""
        self._active.clear()

    def match(
        self, operation: Operation, *, prompt: str | None = None, generation_id: str | None = None
    ) -> FaultRule | None:
        """Return the rule that fires for this request, and count it; None if no rule does."""
        for active in self._active:
            rule = active.rule
            if rule.operation != operation or not rule.match.accepts(prompt, generation_id):
                continue
            if rule.times is not None and active.fired >= rule.times:
                continue
            # Exhausted rules were skipped above: `after` counts only requests for which this rule's turn has come.
            active.seen += 1
            if active.seen > rule.after:
                active.fired += 1
                return rule
        return None

    def describe(self) -> list[dict[str, Any]]:
        """Return every rule as JSON, with the counts `seen` and `fired`."""
        return [
            {**active.rule.model_dump(mode="json"), "seen": active.seen, "fired": active.fired}
            for active in self._active
        ]


class _ActiveRule:
    """Rule in force with its counts."""

    __slots__ = ("fired", "rule", "seen")

    def __init__(self, rule: FaultRule) -> None:
        self.rule = rule
        self.seen = 0
        self.fired = 0
