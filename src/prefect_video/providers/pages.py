"""Lists of generations, page by page: read leniently to show them, or strictly to prove what is not there.

A list proves absence only when it is whole. It is whole when the list itself says so: `has_more: false`, a total that
is reached, or a page that begins where the last one ended and brings nothing new. An empty page, a missing field and
a page that repeats another prove nothing.
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
"""How often a list that does not hold together is read from its beginning."""

Cursor = str | int


@dataclass(frozen=True)
class UnreadableItem:
    """An item of a list that does not keep to the contract; it may be any generation.

    Attributes:
        id: Its id, where that much can be read.
        created_at: When it was made, where that much can be read.
    """

    id: str | None = None
    created_at: datetime | None = None


ListItem = Generation | UnreadableItem


@dataclass(frozen=True)
class ListPage:
    """One page of a list.

    Attributes:
        items: In the server's order.
        has_more: Whether more follow; None where the server does not say.
        cursors: For each item, what asks for the items after it (None: it cannot be a cursor); empty where only the
            server names cursors, or where there is one page only.
        next_cursor: What asks for the next page, where the server names it.
        total: How many there are on all pages, where the server says.
        limit: How many items were requested.
        paged: Whether the list comes in pages at all.
        positional: Whether cursors count items, so that they mean other items once the list has changed.
    """

    items: tuple[ListItem, ...]
    has_more: bool | None = None
    cursors: tuple[Cursor | None, ...] = ()
    next_cursor: Cursor | None = None
    total: int | None = None
    limit: int | None = None
    paged: bool = True
    positional: bool = False

    @property
    def following(self) -> Cursor | None:
        """What asks for the page after this one."""
        return self.next_cursor or next((one for one in reversed(self.cursors) if one is not None), None)


ReadPage = Callable[[Cursor | None], Awaitable[ListPage]]
EnoughRead = Callable[[Sequence[ListItem], Sequence[ListItem]], bool]
"""Whether the rest of a list cannot matter, given everything read so far and the last page of it."""


async def iterate_generations(read_page: ReadPage, *, page_size: int) -> AsyncIterator[Generation]:
    """Yield each generation of a list once; what cannot be read is left out.

    Args:
        read_page: Reads the page of a cursor, or the first one.
        page_size: How many items were requested, for lists that do not say whether more follow.
    """
    seen: set[str] = set()
    cursor: Cursor | None = None
    while True:
        page = await read_page(cursor)
        fresh = [item for item in page.items if isinstance(item, Generation) and item.id not in seen]
        for generation in fresh:
            seen.add(generation.id)
            yield generation
        goes_on = page.has_more if page.has_more is not None else len(page.items) >= page_size
        cursor = page.following
        if not page.paged or not goes_on or not fresh or cursor is None:
            return


async def read_whole(
    read_page: ReadPage, *, provider: str, unwrap_id: Callable[[str], str], is_enough: EnoughRead
) -> list[ListItem]:
    """Read all items of a list, or as many as can matter.

    Args:
        read_page: Reads the page of a cursor, or the first one.
        provider: Name of the provider.
        unwrap_id: The one spelling of an id that may have several.
        is_enough: Whether the rest of the list cannot matter.

    Raises:
        InvalidResponse: The list does not hold together, however often it is begun anew.
        ProviderError: A page could not be read.
    """
    reason = ""
    for _ in range(STARTS):
        reading = _Reading(unwrap_id, is_enough)
        while reading.is_open:
            reading.add(await read_page(reading.cursor))
        if reading.fault is None:
            return reading.items
        reason = reading.fault
        logger.info("%s: its list is read from the beginning again: %s", provider, reason)
    raise InvalidResponse(f"{provider}: its list does not hold together ({reason})", provider=provider)


class _Reading:
    """One pass over a list, from its beginning.

    Attributes:
        items: What was read so far, each once.
        cursor: What asks for the next page.
        is_open: Whether there is a next page to be read.
        fault: Why this pass proves nothing; None while it holds together.
    """

    def __init__(self, unwrap_id: Callable[[str], str], is_enough: EnoughRead) -> None:
        self.items: list[ListItem] = []
        self.cursor: Cursor | None = None
        self.is_open = True
        self.fault: str | None = None
        self._native_id = unwrap_id
        self._is_enough = is_enough
        self._seen: set[str] = set()
        self._expected: str | None = None
        self._longest_page = 0
        self._is_promised = False
        self._first_page: list[str | None] = []
        self._total: int | None = None

    def add(self, page: ListPage) -> None:
        """Take a page in, and decide whether and from where to go on."""
        if self._is_only_page(page):
            self.is_open = False
            return
        if (fault := self._discontinuity(page)) is not None:
            self._break_off(fault)
            return
        fresh = self._take(page)
        over = self._is_over(page, fresh)
        if over:
            self.is_open = False
        elif over is None:
            self._break_off("it neither ends nor goes on")
        elif self._is_enough(self.items, page.items):
            self.is_open = False
        else:
            self._go_on(page)
        self._is_promised = page.has_more is True
        self._longest_page = max(self._longest_page, len(page.items))

    def _is_only_page(self, page: ListPage) -> bool:
        """Return whether a server gives the same page whatever is asked for, and could have put more on it."""
        names = [self._name(item) for item in page.items]
        if self.cursor is None:
            self._first_page = names
            return False
        is_short = page.limit is not None and len(names) < page.limit
        return is_short and page.has_more is None and names == self._first_page

    def _discontinuity(self, page: ListPage) -> str | None:
        """Why a page does not continue the one before it; None when it does."""
        if self._is_promised and not page.items:
            return "a page is empty although more was to follow"
        if self._expected is None:
            return None
        first = self._name(page.items[0]) if page.items else None
        if first == self._expected or (page.positional and first in self._seen):
            return None
        return "a page is empty that should not be" if not page.items else "its pages have shifted"

    def _take(self, page: ListPage) -> int:
        """Add what was not seen before; return how many items that are."""
        before = len(self.items)
        # Before the first new item, a page repeats what was read, items without an id to be known by among them.
        repeats = bool(self.items)
        for item in page.items:
            name = self._name(item)
            if name in self._seen or (name is None and repeats):
                continue
            repeats = False
            self.items.append(item)
            if name is not None:
                self._seen.add(name)
        # What was added while the list was read came too late to matter.
        totals = [total for total in (self._total, page.total) if total is not None]
        self._total = min(totals, default=None)
        return len(self.items) - before

    def _is_over(self, page: ListPage, fresh: int) -> bool | None:
        """Whether the list ends with this page; None when it contradicts itself."""
        if page.has_more is False or not page.paged:
            complete = self._total is None or len(self.items) >= self._total
            return True if complete and page.has_more is not True else None
        if page.has_more:
            return False if fresh else None
        if self._total is not None:
            return len(self.items) >= self._total or (False if fresh else None)
        if self.cursor is None:
            return not page.items
        if fresh:
            return False
        return True if len(page.items) < self._longest_page else None

    def _go_on(self, page: ListPage) -> None:
        # One item of this page is asked for again: the next page then shows that it continues this one.
        usable = [at for at, cursor in enumerate(page.cursors) if cursor is not None]
        overlapping = [at for at in usable if at + 1 < len(page.items) and page.items[at + 1].id is not None]
        if overlapping:
            self.cursor = page.cursors[overlapping[-1]]
            self._expected = self._name(page.items[overlapping[-1] + 1])
        else:
            self.cursor, self._expected = page.following, None
        if self.cursor is None:
            self._break_off("it names no next page")

    def _name(self, item: ListItem) -> str | None:
        return None if item.id is None else self._native_id(item.id)

    def _break_off(self, fault: str) -> None:
        self.fault = fault
        self.is_open = False
