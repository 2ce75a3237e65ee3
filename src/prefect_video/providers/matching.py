"""Tells whether a generation is the one that an unanswered submit began, and proves that there is none.

The order of evidence: our key, then ids that the ledger knows, then the time, then words and parameters. A key decides,
whatever else differs. Without one, servers respell what they were sent and clocks differ, so that a generation of the
same words and parameters is taken, anything else that may be ours is left to a human, and only what is certainly of
another request is passed over.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from difflib import SequenceMatcher
from enum import IntEnum
from itertools import pairwise
from typing import Any, Final, Protocol

from prefect_video.errors import AuthenticationFailed, HeldForReview, RequestRejected
from prefect_video.generations import Generation
from prefect_video.providers.clocks import CLOCK_MARGIN, ClockReading
from prefect_video.providers.pages import Cursor, ListItem, ListPage, UnreadableItem, read_whole
from prefect_video.shots import Shot

_SHORTEST_SPELLING: Final = 4
"""Of shorter words, another letter makes another word."""

KEY_FIELD: Final = "idempotency_key"
"""Where a generation's metadata holds the key that it was submitted with."""
SEARCH_BACK: Final = timedelta(days=1)
"""How much older than the submit a whole page of a list must be for the rest not to be read."""
_UUID_LENGTH: Final = 36
_ELLIPSIS: Final = re.compile(r"(\.\.\.|…)\s*$")
_WORDS: Final = re.compile(r"[^\W_]+")
_UNSPACED: Final = 0x2E80
"""Scripts from this code point on are written without spaces: each sign counts as a word."""
_SPELLING: Final = 0.8
"""How much of two words must agree for one to be a spelling of the other."""


class Match(IntEnum):
    """How a generation compares with what was requested."""

    DIFFERENT = 0
    POSSIBLE = 1
    SAME = 2


def match_prompt(requested: str, echoed: str | None) -> Match:
    """Compare a prompt with a server's echo of it.

    Servers collapse white space, normalise Unicode, change case, cut text short and put words of their own around and
    into it: such an echo may be ours. One that differs in nothing but white space, Unicode form and case is the same,
    and one in which words are exchanged is another.
    """
    if echoed is None or not echoed.strip():
        return Match.POSSIBLE
    if normalise_text(requested) == normalise_text(echoed):
        return Match.SAME
    ours, theirs = split_words(requested), split_words(_ELLIPSIS.sub("", echoed))
    # Nothing to compare, or a translation into another script: nothing is known.
    if not ours or not theirs or _is_latin(ours) != _is_latin(theirs):
        return Match.POSSIBLE
    return Match.POSSIBLE if _is_respelling(ours, theirs) else Match.DIFFERENT


def match_values(requested: Mapping[str, Any], echoed: Mapping[str, Any], *, required: bool = False) -> Match:
    """Compare requested parameters with those that are echoed.

    Args:
        requested: What was sent.
        echoed: What the server says was sent.
        required: Whether a parameter that is not echoed counts as one that differs.
    """
    alike = all(
        is_same_value(echoed[name], value) if name in echoed else not required for name, value in requested.items()
    )
    return Match.SAME if alike else Match.POSSIBLE


def is_same_value(echoed: Any, requested: Any) -> bool:
    """Return whether two values of a field are the same; numbers count as numbers, also where they come as text."""
    if isinstance(echoed, bool) or isinstance(requested, bool):
        return echoed is requested
    number = _number(requested)
    if number is not None:
        return _number(echoed) == number
    return (
        isinstance(echoed, str) and isinstance(requested, str) and normalise_text(echoed) == normalise_text(requested)
    )


def normalise_text(text: str) -> str:
    """Return a text free of what servers change without changing its meaning: Unicode form, case, white space."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    visible = "".join(sign for sign in plain if unicodedata.category(sign) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", visible).split())


def split_words(text: str) -> list[str]:
    """Return the words of a text without case, accents, punctuation and space."""
    decomposed = unicodedata.normalize("NFKD", normalise_text(text))
    plain = "".join(sign for sign in decomposed if not unicodedata.combining(sign))
    return [part for word in _WORDS.findall(plain) for part in _parts(word)]


def _parts(word: str) -> Iterable[str]:
    return word if any(ord(sign) >= _UNSPACED for sign in word) else (word,)


def _is_latin(words: list[str]) -> bool:
    return any(word.isascii() for word in words)


def _is_respelling(ours: list[str], theirs: list[str]) -> bool:
    """Return whether words may be ours with some put in, some left out, and an end cut off: none of them exchanged."""
    if _is_within(ours, theirs) or (_is_within(theirs[:-1], ours) and _may_be_cut(theirs[-1], ours)):
        return True
    # Words were put before ours, and then the end was cut off.
    ends = [at for at, word in enumerate(ours) if word.startswith(theirs[-1]) or _is_same_word(word, theirs[-1])]
    if any(_is_within(ours[:at], theirs[:-1]) for at in ends):
        return True
    # The beginning was cut off, and words were put behind.
    starts = [at for at, word in enumerate(ours[:-1]) if _is_same_word(word, theirs[0])]
    return any(_is_within(ours[at:], theirs) for at in starts)


def _is_within(some: list[str], words: list[str]) -> bool:
    """Return whether some words all stand in a text, in their order."""
    rest = iter(words)
    return all(any(_is_same_word(word, other) for other in rest) for word in some)


def _may_be_cut(word: str, words: list[str]) -> bool:
    return any(other.startswith(word) or _is_same_word(word, other) for other in words)


def _is_same_word(word: str, other: str) -> bool:
    if word == other:
        return True
    if min(len(word), len(other)) < _SHORTEST_SPELLING or abs(len(word) - len(other)) > 1:
        return False
    return SequenceMatcher(None, word, other, autojunk=False).ratio() >= _SPELLING


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Search:
    """What an unanswered submit may have begun, and what is known of other generations.

    Attributes:
        shot: What was requested.
        idempotency_key: What was sent along.
        sent_at: When the request left, by this machine's clock.
        known: Generations that belong to other rows of the ledger, and when each was recorded.
    """

    shot: Shot
    idempotency_key: str
    sent_at: datetime
    known: Mapping[str, datetime]


class Searchable(Protocol):
    """A provider whose generations can be searched."""

    name: str

    async def read_page(self, cursor: Cursor | None) -> ListPage:
        """Read a page of all generations, newest first."""

    async def confirm(self, listed: Generation) -> Generation:
        """Read whatever a list leaves out of a generation."""

    def compare(self, generation: Generation, shot: Shot) -> Match:
        """Compare a generation with a shot."""

    def unwrap_id(self, generation_id: str) -> str:
        """Return the one spelling of an id that may have several."""

    def read_clock(self, created: Mapping[str, datetime], recorded: Mapping[str, datetime]) -> ClockReading:
        """Combine what is known about the provider's clock."""

    def describe_doubt(self, generation: Generation, shot: Shot) -> str:
        """Say why nobody can tell whether a generation is that of a shot."""


async def find_unclaimed(host: Searchable, search: Search) -> Generation | None:
    """Find the generation that an unanswered submit has begun.

    Returns:
        The generation, or None when the whole list shows that there is none. One that echoes our key is returned even
        where the ledger has given its id to another row: which of them it belongs to is for the caller to settle.

    Raises:
        HeldForReview: There is one that may be ours, or the provider lists nothing.
        InvalidResponse: The list does not hold together.
        ProviderError: The list could not be read.
    """
    try:
        items = await read_whole(
            host.read_page,
            provider=host.name,
            unwrap_id=host.unwrap_id,
            is_enough=lambda read, page: _is_past(host, search, read, page),
        )
    except RequestRejected as error:
        if error.retryable or isinstance(error, AuthenticationFailed):
            raise
        raise HeldForReview(
            f"{host.name} does not list its generations ({error}), so nobody can tell whether shot"
            f" {search.shot.id!r} was accepted"
        ) from error
    # The key first, whatever else is odd about the generation or about others.
    for item in items:
        if isinstance(item, Generation) and _echoes(item, search.idempotency_key):
            return item
    return await _Candidates(host, search, _clock(host, search, items)).choose(items)


@dataclass
class _Candidates:
    """The generations of one list that may be those of a search."""

    host: Searchable
    search: Search
    clock: ClockReading
    same: list[Generation] = field(default_factory=list)
    possible: list[Generation] = field(default_factory=list)
    unreadable: list[UnreadableItem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._recorded = _recorded(self.host, self.search)

    async def choose(self, items: Sequence[ListItem]) -> Generation | None:
        """Take the one that is ours by all evidence; None when none can be."""
        for item in items:
            if isinstance(item, UnreadableItem):
                self._note_unreadable(item)
            elif (ours := await self._examine(item)) is not None:
                return ours
        likely = [one for one in self.same if self.clock.is_likely_since(one.created_at, self.search.sent_at)]
        if likely:
            # Requests that are alike in everything are interchangeable: each row takes one.
            return min(likely, key=lambda one: one.created_at or self.search.sent_at)
        if doubtful := [*self.same, *self.possible]:
            raise HeldForReview(self.host.describe_doubt(doubtful[0], self.search.shot))
        if self.unreadable:
            named = f"generation {self.unreadable[0].id}" if self.unreadable[0].id else "a generation without an id"
            raise HeldForReview(
                f"{self.host.name} lists {named}, which cannot be read, so nobody can tell whether it is"
                f" the one of shot {self.search.shot.id!r}"
            )
        return None

    async def _examine(self, listed: Generation) -> Generation | None:
        """Sort a generation in; return it when it echoes our key."""
        sent_at = self.search.sent_at
        recorded_at = self._recorded.get(self.host.unwrap_id(listed.id))
        is_reused = recorded_at is not None and self.clock.is_reused(listed.created_at, recorded_at)
        is_claimed = recorded_at is not None and not is_reused
        if is_claimed and recorded_at is not None and recorded_at < sent_at - CLOCK_MARGIN:
            return None
        is_older = self.clock.is_older(listed.created_at, sent_at)
        if is_older and match_prompt(self.search.shot.prompt, listed.prompt) is Match.DIFFERENT:
            return None
        generation = await self.host.confirm(listed)
        if _echoes(generation, self.search.idempotency_key):
            return generation
        if is_claimed or is_older or _echoes_another(generation, self.search.idempotency_key):
            return None
        match self.host.compare(generation, self.search.shot):
            # Two rows cannot have the same id, so one that was given out again is for a human.
            case Match.SAME if not is_reused:
                self.same.append(generation)
            case Match.SAME | Match.POSSIBLE:
                self.possible.append(generation)
            case Match.DIFFERENT:
                pass
        return None

    def _note_unreadable(self, item: UnreadableItem) -> None:
        is_claimed = item.id is not None and self.host.unwrap_id(item.id) in self._recorded
        if not is_claimed and not self.clock.is_older(item.created_at, self.search.sent_at):
            self.unreadable.append(item)


def _echoes(generation: Generation, key: str) -> bool:
    echoed = generation.metadata.get(KEY_FIELD)
    return echoed is not None and normalise_text(echoed) == normalise_text(key)


def _echoes_another(generation: Generation, key: str) -> bool:
    """Return whether a generation was submitted with another key: not where ours may have been cut or blotted out."""
    echoed = generation.metadata.get(KEY_FIELD)
    if echoed is None:
        return False
    theirs, ours = normalise_text(echoed), normalise_text(key)
    return theirs != ours and (len(ours) != _UUID_LENGTH or len(theirs) == len(ours))


def _recorded(host: Searchable, search: Search) -> Mapping[str, datetime]:
    return {host.unwrap_id(generation_id): at for generation_id, at in search.known.items()}


def _clock(host: Searchable, search: Search, items: Sequence[ListItem]) -> ClockReading:
    created = {
        host.unwrap_id(item.id): item.created_at
        for item in items
        if item.id is not None and item.created_at is not None
    }
    return host.read_clock(created, _recorded(host, search))


def _is_past(host: Searchable, search: Search, read: Sequence[ListItem], page: Sequence[ListItem]) -> bool:
    """Return whether a list has come to what is far older than the submit, newest first as it should."""
    times = [item.created_at for item in read if item.created_at is not None]
    descends = all(newer >= older for newer, older in pairwise(times)) and len(set(times)) > 1
    if not descends or any(item.created_at is None for item in page):
        return False
    clock = _clock(host, search, read)
    return all(clock.is_older(item.created_at, search.sent_at, by=SEARCH_BACK) for item in page)
