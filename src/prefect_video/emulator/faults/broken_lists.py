"""Faults of list pages, in any dialect: pages that are empty, incomplete or malformed."""

from __future__ import annotations

from typing import Any, Final

from prefect_video.emulator.faults.rules import FaultRule

_ENDS: Final = ("has_more", "total_count", "next", "previous", "first_id", "last_id")
NEXT_PAGE: Final = "/v1/predictions?cursor=gone"
ODD_ITEM: Final = {"object": "unlike any other", "status": ["?"]}


def distort_page(page: dict[str, Any], rule: FaultRule | None, *, items: str = "data") -> dict[str, Any]:
    """Return a page as distorted by a fault; unchanged if the fault is of another kind, or None.

    Args:
        page: Page as the dialect renders it.
        rule: Fault due for the request.
        items: Name of the field that holds the items.
    """
    match rule.kind if rule is not None else None:
        case "empty_page":
            # Replicate announces more by the address of a next page, the others by a flag.
            more = {"next": page["next"] or NEXT_PAGE} if "next" in page else {"has_more": True}
            return {**page, items: [], **more}
        case "silent_list":
            return {name: value for name, value in page.items() if name not in _ENDS}
        case "odd_item":
            return {**page, items: [ODD_ITEM, *page[items]]}
        case _:
            return page
