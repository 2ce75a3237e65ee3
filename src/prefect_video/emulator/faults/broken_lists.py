"""Faults of list pages, in any dialect: pages that are empty, incomplete, malformed or out of date."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from prefect_video.emulator.faults.rules import FaultRule

_ENDS: Final = ("has_more", "total_count", "next", "previous", "first_id", "last_id")
NEXT_PAGE: Final = "/v1/predictions?cursor=gone"
ODD_ITEM: Final = {"object": "unlike any other", "status": ["?"]}
TWIN_AGE_SECONDS: Final = 7200
_RUNNING: Final = frozenset({"queued", "processing", "in_progress", "starting"})
CREATED: Final = ("created", "created_at")
"""Fields with the time of creation."""
_FIRST: Final = ("", "0")


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
        case "lost_tail":
            end = {"next": None} if "next" in page else {"has_more": False}
            left = {name: value for name, value in page.items() if name != "total_count"}
            return {**left, items: page[items][:1], **end}
        case _ if rule is not None:
            return _with_items(page, items, _distort_items(page[items], rule))
        case _:
            return page


def is_due(rule: FaultRule | None, query: Mapping[str, str]) -> bool:
    """Return whether a fault is due on a page; False where it is one of later pages and this is the first."""
    is_first = all(query.get(name, "") in _FIRST for name in ("offset", "after", "cursor"))
    return rule is not None and not (rule.kind == "lost_tail" and is_first)


def _with_items(page: dict[str, Any], items: str, distorted: list[Any]) -> dict[str, Any]:
    """Return a page with other items, and with their number where it has the number of all."""
    total = {"total_count": page["total_count"] + len(distorted) - len(page[items])} if "total_count" in page else {}
    return {**page, items: distorted, **total}


def _distort_items(found: list[dict[str, Any]], rule: FaultRule) -> list[Any]:
    """Return the items of a page as distorted by a fault; unchanged if the fault is of another kind."""
    match rule.kind:
        case "odd_item":
            return [ODD_ITEM, *found]
        case "nameless_item":
            return [*found[:-1], *({**item, "id": None} for item in found[-1:])]
        case "foreign_item":
            return [{"id": rule.item_id, "object": "video", "status": "completed", "prompt": "a zebra"}, *found]
        case "twin_id":
            newest = max(found, key=_created, default=None)
            twin = [] if newest is None else [{**_dated(newest, -TWIN_AGE_SECONDS), "prompt": "a dog", "input": {}}]
            return [*twin, *found]
        case "unfinished_hidden":
            return [item for item in found if item["status"] not in _RUNNING]
        case "cached":
            return [item for item in found if _created(item) <= time.time() - rule.age]
        case "skewed":
            dated = [_dated(item, rule.skew_seconds) if rule.about in _prompt(item) else item for item in found]
            return sorted(dated, key=_created, reverse=True)
        case "renamed_model":
            return [{**item, "model": "renamed/" + item["model"].rpartition("/")[2]} for item in found]
    return found


def _created(item: Mapping[str, Any]) -> float:
    value = next(item[name] for name in CREATED if name in item)
    return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else float(value)


def _dated(item: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return an item that was created so many seconds later."""
    name = next(name for name in CREATED if name in item)
    created = _created(item) + seconds
    return {**item, name: datetime.fromtimestamp(created, UTC).isoformat() if isinstance(item[name], str) else created}


def _prompt(item: Mapping[str, Any]) -> str:
    return str(item.get("prompt") or item.get("input", {}).get("prompt") or "")
