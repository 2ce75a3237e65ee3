"""Prompt screen: refuses prompts before anything is spent on them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from prefect_video.errors import InvalidInput, PromptBlocked
from prefect_video.shots import PROMPT_LIMIT, Shot

Verdict = str | None
ScreeningRule = Callable[[Shot], Verdict | Awaitable[Verdict]]
"""A user's rule: returns why a shot is refused, or None; it may be async."""


@dataclass(frozen=True)
class PromptScreen:
    """A screen of prompts by length, patterns and a rule.

    Attributes:
        patterns: Regular expressions, matched anywhere and without regard to case.
        longest: Most characters of a prompt.
        rule: A further rule, of the user.
    """

    patterns: tuple[str, ...] = ()
    longest: int = PROMPT_LIMIT
    rule: ScreeningRule | None = None
    _compiled: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        try:
            compiled = tuple(re.compile(pattern, re.IGNORECASE) for pattern in self.patterns)
        except re.error as error:
            raise InvalidInput(f"screen: {error.pattern!r} is not a regular expression: {error}") from error
        object.__setattr__(self, "_compiled", compiled)

    async def check(self, shot: Shot) -> None:
        """Refuse a shot whose prompt does not pass.

        Raises:
            PromptBlocked: The message names the shot and the reason.
        """
        if reason := await self._reason(shot):
            raise PromptBlocked(
                f"shot {shot.id!r}: the local screen refused the prompt: {reason}. Nothing was sent; change the"
                " prompt, or allow it: prefect-video review --allow FINGERPRINT"
            )

    async def _reason(self, shot: Shot) -> Verdict:
        if len(shot.prompt) > self.longest:
            return f"it has {len(shot.prompt):,} characters and {self.longest:,} are allowed"
        for pattern in self._compiled:
            if pattern.search(shot.prompt):
                return f"it matches the pattern {pattern.pattern!r}"
        if self.rule is None:
            return None
        verdict = self.rule(shot)
        return await verdict if inspect.isawaitable(verdict) else verdict
