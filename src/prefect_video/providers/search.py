"""Search for the generation that an unanswered submit has started, or for the proof that there is none.

The order of evidence: our idempotency key, then ids that the ledger knows, then the time, then prompt and parameters. A
key decides, whatever else differs. Without one, servers respell what they were sent and clocks differ: a generation
with the same prompt and parameters is taken, any other that may be ours is left to a human, and only one that is
certainly of another request is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final, Protocol
from uuid import UUID

from prefect_video.errors import AuthenticationFailed, HeldForReview, RequestRejected
from prefect_video.generations import Generation
from prefect_video.providers.clocks import CLOCK_MARGIN, ClockReading
from prefect_video.providers.matching import KEY_FIELD, Match, match_prompt, normalise_text
from prefect_video.providers.pages import Cursor, ListItem, ListPage, UnreadableItem, read_whole
from prefect_video.shots import Shot

SEARCH_BACK: Final = timedelta(days=1)
"""Age, before the submit, that all items of a page must have for the rest of the list not to be read."""
_MASK: Final = re.compile(r"[*•…]|\.\.\.")
"""Signs that take the place of others in a text that is hidden or cut."""


@dataclass(frozen=True)
class Search:
    """Search for the generation of one unanswered submit.

    Attributes:
        shot: The shot that was submitted.
        idempotency_key: The key that was sent with it.
        sent_at: The time when the request left, by this machine's clock.
        known: Ids of generations of other jobs in the ledger, and the time when each was recorded.
    """

    shot: Shot
    idempotency_key: str
    sent_at: datetime
    known: Mapping[str, datetime]


class Searchable(Protocol):
    """Provider whose generations can be searched."""

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
        """Return a message why it is unknown whether a generation is that of a shot."""


async def find_unclaimed(host: Searchable, search: Search) -> Generation | None:
    """Find the generation that an unanswered submit has started.

    Returns:
        The generation, or None when the complete list shows that there is none. One that echoes our key is returned
        even where the ledger has given its id to another job: the caller decides to which of them it belongs.

    Raises:
        HeldForReview: There is one that may be ours, or the provider lists nothing.
        InvalidResponse: The list is inconsistent.
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
            f"{host.name} does not list its generations ({error}), so it is unknown whether shot"
            f" {search.shot.id!r} was accepted"
        ) from error
    # The key first: it decides even where another generation would be held.
    for item in items:
        if isinstance(item, Generation) and echoes_key(item, search.idempotency_key):
            return item
    return await _Candidates(host, search, _read_clock(host, search, items)).choose(items)


@dataclass
class _Candidates:
    """Candidates of a search: the generations of one list that may be the one."""

    host: Searchable
    search: Search
    clock: ClockReading
    same: list[Generation] = field(default_factory=list)
    possible: list[Generation] = field(default_factory=list)
    unreadable: list[UnreadableItem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._recorded = _find_recorded(self.host, self.search)

    async def choose(self, items: Sequence[ListItem]) -> Generation | None:
        """Return the generation that is ours by all evidence; None when there is certainly none.

        Raises:
            HeldForReview: There is one that may be ours.
        """
        for item in items:
            if isinstance(item, UnreadableItem):
                self._add_unreadable(item)
            elif (own := await self._examine(item)) is not None:
                return own
        sent_at = self.search.sent_at
        likely = [generation for generation in self.same if self.clock.is_likely_since(generation.created_at, sent_at)]
        if likely:
            # Requests that are the same in everything are interchangeable: each job takes one generation.
            return min(likely, key=lambda generation: generation.created_at or sent_at)
        if doubtful := [*self.same, *self.possible]:
            raise HeldForReview(self.host.describe_doubt(doubtful[0], self.search.shot))
        if self.unreadable:
            first = self.unreadable[0]
            label = f"generation {first.id}" if first.id else "a generation without an id"
            raise HeldForReview(
                f"{self.host.name} lists {label}, which cannot be read, so it is unknown whether it is"
                f" the one of shot {self.search.shot.id!r}"
            )
        return None

    async def _examine(self, listed: Generation) -> Generation | None:
        """Classify a generation; return it when it echoes our key."""
        sent_at = self.search.sent_at
        recorded_at = self._recorded.get(self.host.unwrap_id(listed.id))
        is_reused = recorded_at is not None and self.clock.is_reused(listed.created_at, recorded_at)
        is_claimed = recorded_at is not None and not is_reused
        # Recorded before the submit was sent: not worth a request. One that was recorded since may have been recorded
        # for the wrong job, so that its key is read.
        if is_claimed and recorded_at is not None and recorded_at < sent_at - CLOCK_MARGIN:
            return None
        is_older = self.clock.is_older(listed.created_at, sent_at)
        if is_older and match_prompt(self.search.shot.prompt, listed.prompt) is Match.DIFFERENT:
            return None
        generation = await self.host.confirm(listed)
        if echoes_key(generation, self.search.idempotency_key):
            return generation
        if is_claimed or is_older or _echoes_another(generation, self.search.idempotency_key):
            return None
        match self.host.compare(generation, self.search.shot):
            # Two jobs cannot have the same id, so that a human decides about an id that was given out again.
            case Match.SAME if not is_reused:
                self.same.append(generation)
            case Match.SAME | Match.POSSIBLE:
                self.possible.append(generation)
            case Match.DIFFERENT:
                pass
        return None

    def _add_unreadable(self, item: UnreadableItem) -> None:
        is_claimed = item.id is not None and self.host.unwrap_id(item.id) in self._recorded
        if not is_claimed and not self.clock.is_older(item.created_at, self.search.sent_at):
            self.unreadable.append(item)


def echoes_key(generation: Generation, key: str) -> bool:
    """Return whether a generation was submitted with this key, also where the server respells it."""
    echoed = generation.metadata.get(KEY_FIELD)
    if echoed is None:
        return False
    own_id = _parse_uuid(key)
    return normalise_text(echoed) == normalise_text(key) or (own_id is not None and _parse_uuid(echoed) == own_id)


def _echoes_another(generation: Generation, key: str) -> bool:
    """Return whether a generation was submitted with another key; False where ours may have been cut or changed.

    Our keys are UUIDs: what is no UUID of the same version is ours under a mask, cut, or replaced by a relay's own.
    """
    echoed = generation.metadata.get(KEY_FIELD)
    if echoed is None or echoes_key(generation, key):
        return False
    own_id, echoed_id = _parse_uuid(key), _parse_uuid(echoed)
    if own_id is None:
        return _MASK.search(echoed) is None
    return echoed_id is not None and echoed_id.version == own_id.version


def _parse_uuid(key: str) -> UUID | None:
    try:
        return UUID(normalise_text(key))
    except ValueError:
        return None


def _find_recorded(host: Searchable, search: Search) -> Mapping[str, datetime]:
    """Return the time when each known generation was recorded, by the canonical spelling of its id."""
    return {host.unwrap_id(generation_id): recorded_at for generation_id, recorded_at in search.known.items()}


def _read_clock(host: Searchable, search: Search, items: Sequence[ListItem]) -> ClockReading:
    created = {
        host.unwrap_id(item.id): item.created_at
        for item in items
        if item.id is not None and item.created_at is not None
    }
    return host.read_clock(created, _find_recorded(host, search))


def _is_past(host: Searchable, search: Search, read: Sequence[ListItem], page: Sequence[ListItem]) -> bool:
    """Return whether a list, sorted newest first, has reached generations that are far older than the submit."""
    times = [item.created_at for item in read if item.created_at is not None]
    is_sorted = all(newer >= older for newer, older in pairwise(times)) and len(set(times)) > 1
    if not is_sorted or any(item.created_at is None for item in page):
        return False
    clock = _read_clock(host, search, read)
    return all(clock.is_older(item.created_at, search.sent_at, by=SEARCH_BACK) for item in page)
