"""Search for the generation that an unanswered submit has started, or for the proof that there is none.

The order of evidence: our idempotency key, then what the ledger knows of an id, then prompt and parameters. A key
decides, whatever else differs. Without one, a generation with the same prompt and parameters is taken, and any other
that no job has is left to a human: servers change the words that they echo, and clocks are set wrong, so that neither
shows that a generation is of another request. Only one that is a day older than the request is passed over.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol
from uuid import UUID

from prefect_video.errors import (
    AuthenticationFailed,
    HeldForReview,
    InvalidInput,
    InvalidResponse,
    NotFound,
    ProviderError,
    RequestRejected,
)
from prefect_video.generations import Generation, RecordedGeneration
from prefect_video.providers.clocks import CLOCK_MARGIN, ClockReading
from prefect_video.providers.matching import KEY_FIELD, Match, match_prompt, normalise_text
from prefect_video.providers.pages import Cursor, ListItem, ListPage, UnreadableItem, read_whole
from prefect_video.shots import Shot

logger = logging.getLogger(__name__)

_MASK: Final = re.compile(r"[*•…]|\.\.\.")
"""Signs that take the place of others in a text that is hidden or cut."""
_MOST_FAILURES: Final = 3
"""Reads of single generations that may fail in one search before it sends no more of them."""


class UnclaimedFound(HeldForReview):
    """A provider lists generations that may be of an unanswered submit, and that no job has.

    Attributes:
        candidates: The generations, some of them perhaps unreadable.
        is_passing: Whether another read may show what they are.
    """

    def __init__(self, message: str, *, candidates: Sequence[ListItem] = (), is_passing: bool = False) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)
        self.is_passing = is_passing


@dataclass(frozen=True)
class Search:
    """Search for the generation of one unanswered submit.

    Attributes:
        shot: The shot that was submitted.
        idempotency_key: The key that was sent with it.
        sent_at: The time when the request left, by this machine's clock.
        known: The generations of other jobs in the ledger by their ids.
    """

    shot: Shot
    idempotency_key: str
    sent_at: datetime
    known: Mapping[str, RecordedGeneration]


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
        UnclaimedFound: There are some that may be ours.
        HeldForReview: The provider lists nothing.
        InvalidResponse: The list is inconsistent, incomplete or out of date.
        ProviderError: The list could not be read.
    """
    began_at = datetime.now(UTC)
    try:
        whole = await read_whole(host.read_page, provider=host.name, unwrap_id=host.unwrap_id)
    except RequestRejected as error:
        if error.retryable or isinstance(error, AuthenticationFailed):
            raise
        raise HeldForReview(
            f"{host.name} does not list its generations ({error}), so it is unknown whether shot"
            f" {search.shot.id!r} was accepted"
        ) from error
    # The key first: it decides even where another generation would be held.
    for item in whole.items:
        if isinstance(item, Generation) and echoes_key(item, search.idempotency_key):
            return item
    found = await _Candidates(host, search, _read_clock(host, search, whole.items)).choose(whole.items)
    if found is None:
        if whole.is_stale:
            raise InvalidResponse(f"{host.name}: its list comes from a cache and is out of date", provider=host.name)
        _require_known(host, search, whole.items, began_at)
    return found


@dataclass
class _Candidates:
    """Candidates of a search: the generations of one list that may be the one."""

    host: Searchable
    search: Search
    clock: ClockReading
    same: list[Generation] = field(default_factory=list)
    possible: list[Generation] = field(default_factory=list)
    unreadable: list[UnreadableItem] = field(default_factory=list)
    failures: int = 0
    reason: str = ""

    def __post_init__(self) -> None:
        self._recorded = _find_recorded(self.host, self.search)

    async def choose(self, items: Sequence[ListItem]) -> Generation | None:
        """Return the generation that is ours by all evidence; None when there is certainly none.

        Raises:
            UnclaimedFound: There are some that may be ours.
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
        doubtful = [*self.same, *self.possible]
        if doubtful or self.unreadable:
            message = self.host.describe_doubt(doubtful[0], self.search.shot) if doubtful else self._describe_unread()
            raise UnclaimedFound(
                message, candidates=[*doubtful, *self.unreadable], is_passing=not doubtful and self.failures > 0
            )
        return None

    async def _examine(self, listed: Generation) -> Generation | None:
        """Classify a generation; return it when it echoes our key."""
        search, record = self.search, self._recorded.get(self.host.unwrap_id(listed.id))
        if record is not None and self._is_certainly(record, listed):
            return None
        is_older = self.clock.is_older(listed.created_at, search.sent_at)
        if record is None and is_older and match_prompt(search.shot.prompt, listed.prompt) is Match.DIFFERENT:
            return None
        generation = await self._confirm(listed, record)
        if generation is None or echoes_key(generation, search.idempotency_key):
            return generation
        if _echoes_another(generation, search.idempotency_key):
            return None
        if record is not None:
            # Two jobs cannot have the same id, so that a human decides about an id that was given out again.
            if self._is_reused(generation, record):
                self.possible.append(generation)
        elif is_older and self.clock.is_older(generation.created_at, search.sent_at):
            pass
        elif generation.remixed_from not in (None, search.shot.remixed_from):
            # It says itself that it was made from another generation, for another request of the account.
            pass
        elif self.host.compare(generation, search.shot) is Match.SAME:
            self.same.append(generation)
        else:
            self.possible.append(generation)
        return None

    async def _confirm(self, listed: Generation, record: RecordedGeneration | None) -> Generation | None:
        """Read the whole of a generation; note one that cannot be read, and return None."""
        try:
            if self.failures < _MOST_FAILURES:
                return await self.host.confirm(listed)
            self.reason = self.reason or "not read, as others could not be read"
        except (ProviderError, InvalidInput) as error:
            logger.warning("%s: generation %s is listed and cannot be read: %s", self.host.name, listed.id, error)
            # A replica that lags behind does not know a generation yet.
            self.failures += isinstance(error, NotFound) or error.retryable
            self.reason = self.reason or str(error)
        if record is None or self._is_reused(listed, record):
            self.unreadable.append(UnreadableItem(id=listed.id, created_at=listed.created_at))
        return None

    def _is_certainly(self, record: RecordedGeneration, listed: Generation) -> bool:
        """Return whether a listed generation is the recorded one, and not another that was given its id since.

        One that was recorded since the submit may have been recorded for the wrong job.
        """
        return record.recorded_at < self.search.sent_at - CLOCK_MARGIN and self._is_nearer_to(record, listed)

    def _is_nearer_to(self, record: RecordedGeneration, generation: Generation) -> bool:
        """Return whether a prompt is rather that of a recorded generation than ours."""
        return _match_record(record, generation) > match_prompt(self.search.shot.prompt, generation.prompt)

    def _is_reused(self, generation: Generation, record: RecordedGeneration) -> bool:
        """Return whether an id was given out again since it was recorded: by prompt, status or time."""
        if self._is_nearer_to(record, generation):
            return False
        is_like_ours = match_prompt(self.search.shot.prompt, generation.prompt) > _match_record(record, generation)
        # What has ended does not begin again.
        has_ended = record.in_progress is False and record.recorded_at < self.search.sent_at
        is_another = (is_like_ours and record.prompt is not None) or (has_ended and not generation.status.ended)
        return is_another or self.clock.is_reused(generation.created_at, record.recorded_at)

    def _add_unreadable(self, item: UnreadableItem) -> None:
        is_claimed = item.id is not None and self.host.unwrap_id(item.id) in self._recorded
        if not is_claimed and not self.clock.is_older(item.created_at, self.search.sent_at):
            self.unreadable.append(item)

    def _describe_unread(self) -> str:
        first = self.unreadable[0]
        label = f"generation {first.id}" if first.id else "a generation without an id"
        reason = f" ({self.reason})" if self.reason else ""
        return (
            f"{self.host.name} lists {label}, which cannot be read{reason}, so it is unknown whether it is"
            f" the one of shot {self.search.shot.id!r}"
        )


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


def _match_record(record: RecordedGeneration, generation: Generation) -> Match:
    """Compare a generation with the prompt of the job that has its id; without one there is nothing to compare."""
    return Match.POSSIBLE if record.prompt is None else match_prompt(record.prompt, generation.prompt)


def _find_recorded(host: Searchable, search: Search) -> Mapping[str, RecordedGeneration]:
    """Return the known generations by the canonical spelling of their ids."""
    return {host.unwrap_id(generation_id): record for generation_id, record in search.known.items()}


def _read_clock(host: Searchable, search: Search, items: Sequence[ListItem]) -> ClockReading:
    created = {
        host.unwrap_id(item.id): item.created_at
        for item in items
        if item.id is not None and item.created_at is not None
    }
    recorded = {name: record.recorded_at for name, record in _find_recorded(host, search).items()}
    return host.read_clock(created, recorded)


def _require_known(host: Searchable, search: Search, items: Sequence[ListItem], began_at: datetime) -> None:
    """Check that a list has all generations that are known to be in progress: one without them proves no absence.

    Those that were recorded just now may still be missing, as lists lag behind. What was recorded before half the
    time since the submit must be there, or the submit's own generation may be missing as well.

    Raises:
        InvalidResponse: One is missing.
    """
    halfway = search.sent_at + (began_at - search.sent_at) / 2
    listed = {host.unwrap_id(item.id) for item in items if item.id is not None}
    for generation_id, record in search.known.items():
        is_due = record.in_progress is True and record.recorded_at <= halfway
        if is_due and host.unwrap_id(generation_id) not in listed:
            raise InvalidResponse(
                f"{host.name}: its list leaves out generation {generation_id}, which is in progress", provider=host.name
            )
