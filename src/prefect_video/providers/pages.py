"""Pagination of lists of generations: lenient to show them, or strict to prove the absence of one.

A list proves absence only when it is complete, which the list itself must show: `has_more: false`, a total that is
reached, or a page that begins where the last one ended and has no new items. An empty page, a missing field, a page
that repeats another, and one without the items that the page before has announced prove nothing.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from prefect_video.errors import InvalidResponse
from prefect_video.generations import Generation

logger = logging.getLogger(__name__)

STARTS: Final = 3
"""Number of passes over a list that is inconsistent, each from its beginning."""

Cursor = str | int


@dataclass(frozen=True)
class UnreadableItem:
    """Item of a list that breaks the contract; it may be any generation.

    Attributes:
        id: Its id, where that can be read.
        created_at: The time of its creation, where that can be read.
    """

    id: str | None = None
    created_at: datetime | None = None


ListItem = Generation | UnreadableItem


@dataclass(frozen=True)
class ListPage:
    """One page of a list.

    Attributes:
        items: The items in the server's order.
        has_more: Whether more follow; None where the server does not report it.
        cursors: For each item, the cursor of the items after it (None: it cannot be a cursor); empty where only the
            server gives cursors, or where there is one page only.
        next_cursor: Cursor of the next page, where the server gives it.
        total: Number of items on all pages, where the server reports it.
        limit: Number of items that were requested.
        paged: Whether the list comes in pages at all.
        positional: Whether cursors count items, so that they mean other items once the list has changed.
        is_stale: Whether a cache has kept it: it may lack what has been accepted since.
    """

    items: tuple[ListItem, ...]
    has_more: bool | None = None
    cursors: tuple[Cursor | None, ...] = ()
    next_cursor: Cursor | None = None
    total: int | None = None
    limit: int | None = None
    paged: bool = True
    positional: bool = False
    is_stale: bool = False

    @property
    def following(self) -> Cursor | None:
        """Cursor of the page after this one."""
        return self.next_cursor or next((cursor for cursor in reversed(self.cursors) if cursor is not None), None)


ReadPage = Callable[[Cursor | None], Awaitable[ListPage]]


@dataclass(frozen=True)
class WholeList:
    """All items of a list, read in one pass.

    Attributes:
        items: The items in the server's order, each once.
        is_stale: Whether any of its pages is.
    """

    items: Sequence[ListItem]
    is_stale: bool = False


async def iterate_generations(read_page: ReadPage, *, page_size: int) -> AsyncIterator[Generation]:
    """Yield each generation of a list once, and leave out unreadable items.

    Args:
        read_page: Reads the page of a cursor, or the first one.
        page_size: Number of items that are requested, for lists that do not report whether more follow.
    """
    seen: set[str] = set()
    cursor: Cursor | None = None
    while True:
        page = await read_page(cursor)
        fresh = [item for item in page.items if isinstance(item, Generation) and item.id not in seen]
        for generation in fresh:
            seen.add(generation.id)
            yield generation
        has_more = page.has_more if page.has_more is not None else len(page.items) >= page_size
        cursor = page.following
        # A page without new items ends the list whatever it reports: some servers repeat their last page indefinitely.
        if not page.paged or not has_more or not fresh or cursor is None:
            return


async def read_whole(read_page: ReadPage, *, provider: str, unwrap_id: Callable[[str], str]) -> WholeList:
    """Read all items of a list, to its end: the order in which a server lists proves nothing.

    Args:
        read_page: Reads the page of a cursor, or the first one.
        provider: Name of the provider.
        unwrap_id: Returns the canonical spelling of an id that may have several.

    Raises:
        InvalidResponse: The list is inconsistent in every pass.
        ProviderError: A page could not be read.
    """
    reason = ""
    for _ in range(STARTS):
        reading = _Reading(unwrap_id)
        while reading.is_open:
            reading.add(await read_page(reading.cursor))
        if reading.fault is None:
            return WholeList(reading.items, reading.is_stale)
        reason = reading.fault
        logger.info("%s: its list is read from the beginning again: %s", provider, reason)
    raise InvalidResponse(f"{provider}: its list does not hold together ({reason})", provider=provider)


class _Reading:
    """One pass over a list, from its beginning.

    Attributes:
        items: The items read so far, each once.
        cursor: Cursor of the next page.
        is_open: Whether there is a next page to be read.
        fault: The inconsistency for which this pass proves nothing; None while there is none.
        is_stale: Whether any page so far is.
    """

    def __init__(self, unwrap_id: Callable[[str], str]) -> None:
        self.items: list[ListItem] = []
        self.cursor: Cursor | None = None
        self.is_open = True
        self.fault: str | None = None
        self.is_stale = False
        self._unwrap_id = unwrap_id
        self._seen: dict[str, ListItem] = {}
        self._counted = 0
        self._overlap = 0
        self._expected_first: str | None = None
        self._longest_page = 0
        self._more_announced = False
        self._total: int | None = None

    def add(self, page: ListPage) -> None:
        """Add a page, and decide whether to continue and from which cursor."""
        if (fault := self._find_discontinuity(page)) is not None:
            self._stop(fault)
            return
        self.is_stale = self.is_stale or page.is_stale
        item_count = len(self.items)
        fresh_count = self._add_items(page)
        is_last = self._is_last(page, fresh_count)
        if self._more_announced and len(self.items) == item_count:
            self._stop("a page has nothing new although more was to follow")
        elif is_last:
            self.is_open = False
        elif is_last is None:
            self._stop("it neither ends nor goes on")
        else:
            self._advance(page)
        self._more_announced = page.has_more is True
        self._longest_page = max(self._longest_page, len(page.items))

    def _find_discontinuity(self, page: ListPage) -> str | None:
        """Return why a page does not continue the one before it; None when it does."""
        if self._more_announced and not page.items:
            return "a page is empty although more was to follow"
        if self._expected_first is None:
            return None
        first = self._canonical_id(page.items[0]) if page.items else None
        if first == self._expected_first or (page.positional and first in self._seen):
            return None
        return "a page is empty that should not be" if not page.items else "its pages have shifted"

    def _add_items(self, page: ListPage) -> int:
        """Add the items that were not seen before, and return the number of new ids."""
        before = len(self._seen)
        first = self._canonical_id(page.items[0]) if page.items else None
        continues = self._expected_first is None or first == self._expected_first
        for index, item in enumerate(page.items):
            item_id = self._canonical_id(item)
            # A page repeats the items that the page before had behind its cursor, among them items without an id.
            if item_id is None and continues and index < self._overlap:
                continue
            if item_id is not None and item_id in self._seen:
                if _is_same(item, self._seen[item_id]):
                    continue
                is_new = continues and index >= self._overlap
            else:
                is_new = item_id is not None or continues
            self.items.append(item)
            # Only what is certainly not a repeat counts towards the total.
            self._counted += is_new
            if item_id is not None:
                self._seen[item_id] = item
        # Generations that begin while the list is read came after the submit, so that the lowest total counts.
        totals = [total for total in (self._total, page.total) if total is not None]
        self._total = min(totals, default=None)
        # Items without an id do not show that a list goes on: a page with some may be repeated indefinitely.
        return len(self._seen) - before

    def _is_last(self, page: ListPage, fresh_count: int) -> bool | None:
        """Return whether the list ends with this page; None when it contradicts itself."""
        if page.has_more is False or not page.paged:
            complete = self._total is None or self._counted >= self._total
            return True if complete and page.has_more is not True else None
        if page.has_more:
            return False if fresh_count else None
        if self._total is not None:
            return self._counted >= self._total or (False if fresh_count else None)
        if self.cursor is None:
            return not page.items
        if fresh_count:
            return False
        # A page that only repeats ends the list if it had room for more.
        return True if len(page.items) < self._longest_page else None

    def _advance(self, page: ListPage) -> None:
        # One item of this page is requested again: the next page then shows that it continues this one.
        usable = [index for index, cursor in enumerate(page.cursors) if cursor is not None]
        overlapping = [
            index for index in usable if index + 1 < len(page.items) and page.items[index + 1].id is not None
        ]
        if overlapping:
            self.cursor = page.cursors[overlapping[-1]]
            self._overlap = len(page.items) - overlapping[-1] - 1
            self._expected_first = self._canonical_id(page.items[overlapping[-1] + 1])
        else:
            self.cursor, self._expected_first, self._overlap = page.following, None, 0
        if self.cursor is None:
            self._stop("it names no next page")

    def _canonical_id(self, item: ListItem) -> str | None:
        return None if item.id is None else self._unwrap_id(item.id)

    def _stop(self, fault: str) -> None:
        self.fault = fault
        self.is_open = False


def _is_same(item: ListItem, seen: ListItem) -> bool:
    """Return whether two items of one id are one generation: a server that lost its memory gives an id out again."""
    if item.created_at != seen.created_at:
        return False
    if isinstance(item, Generation) and isinstance(seen, Generation):
        return item.prompt == seen.prompt
    return True
