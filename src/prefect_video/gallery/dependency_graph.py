"""Layout of the graph of a project's dependencies: columns from left to right, a shot right of all that it needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prefect_video.gallery.manifest import ShotRecord, TakeStatus

NODE_WIDTH: Final = 156
NODE_HEIGHT: Final = 40
_COLUMN_GAP: Final = 52
_ROW_GAP: Final = 16
_MARGIN: Final = 6
_LABEL_LENGTH: Final = 17
_ATTENTION: Final = (
    "failed",
    "held",
    "over_budget",
    "cancelled",
    "skipped",
    "in_flight",
    "waiting",
    "pending",
    "dropped",
)


@dataclass(frozen=True)
class Node:
    """Shot in the drawing; `x` and `y` are its upper left corner, in pixels."""

    shot_id: str
    label: str
    status: TakeStatus
    x: int
    y: int


@dataclass(frozen=True)
class Edge:
    """Arrow from a shot to one that depends on it; `path` is an SVG path."""

    source: str
    target: str
    path: str


@dataclass(frozen=True)
class DependencyGraph:
    """Drawing of the shots that depend on one another.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        nodes: The shots.
        edges: The arrows.
        alone: Number of shots that neither depend on others nor are depended on.
    """

    width: int
    height: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    alone: int


def lay_out(shots: Sequence[ShotRecord]) -> DependencyGraph | None:
    """Lay out the graph of shots; None where none depends on another."""
    known = {shot.id for shot in shots}
    needs = {shot.id: [needed for needed in shot.depends_on if needed in known] for shot in shots}
    linked = {shot_id for shot_id, needed in needs.items() if needed} | {
        first for some in needs.values() for first in some
    }
    if not linked:
        return None
    columns = _assign_columns([shot.id for shot in shots if shot.id in linked], needs)
    places = {shot_id: (column, row) for column, ids in columns.items() for row, shot_id in enumerate(ids)}
    tallest = max(len(ids) for ids in columns.values())
    nodes = {
        shot.id: _place(shot, *places[shot.id], offset=(tallest - len(columns[places[shot.id][0]])) / 2)
        for shot in shots
        if shot.id in linked
    }
    pairs = [(needed, shot_id) for shot_id in nodes for needed in needs[shot_id]]
    edges = [Edge(source, target, _draw_edge(nodes[source], nodes[target])) for source, target in pairs]
    return DependencyGraph(
        width=2 * _MARGIN + len(columns) * NODE_WIDTH + (len(columns) - 1) * _COLUMN_GAP,
        height=2 * _MARGIN + tallest * NODE_HEIGHT + (tallest - 1) * _ROW_GAP,
        nodes=tuple(nodes.values()),
        edges=tuple(edges),
        alone=len(shots) - len(nodes),
    )


def summarize_status(shot: ShotRecord) -> TakeStatus:
    """Return the status of a shot: `stored` where all takes are, else that of the take which most needs attention."""
    statuses = {take.status for take in shot.takes}
    return next((status for status in _ATTENTION if status in statuses), "stored")


def _assign_columns(shot_ids: Iterable[str], needs: Mapping[str, Sequence[str]]) -> dict[int, list[str]]:
    """Put each shot one column right of the last that it needs; in a column, near what its shots need."""
    depth: dict[str, int] = {}
    waiting = list(shot_ids)
    while waiting:
        ready = [shot_id for shot_id in waiting if all(needed in depth for needed in needs[shot_id])]
        # A manifest that was written by hand may hold a cycle; its shots stand in the first column.
        ready = ready or waiting
        depth |= {
            shot_id: 1 + max((depth.get(needed, -1) for needed in needs[shot_id]), default=-1) for shot_id in ready
        }
        waiting = [shot_id for shot_id in waiting if shot_id not in depth]
    # A shot that needs none stands just left of the first that needs it: its arrow then crosses no other shot.
    for shot_id in [shot_id for shot_id in depth if not needs[shot_id]]:
        followers = [depth[other] for other in depth if shot_id in needs[other]]
        depth[shot_id] = max(0, min(followers, default=1) - 1)
    columns: dict[int, list[str]] = defaultdict(list)
    for shot_id, column in sorted(depth.items(), key=lambda item: item[1]):
        columns[column].append(shot_id)
    rows: dict[str, float] = {}
    for column in sorted(columns):
        columns[column].sort(key=lambda shot_id: _mean([rows[needed] for needed in needs[shot_id] if needed in rows]))
        rows |= {shot_id: row for row, shot_id in enumerate(columns[column])}
    return dict(sorted(columns.items()))


def _mean(rows: Sequence[float]) -> float:
    return sum(rows) / len(rows) if rows else 0.0


def _place(shot: ShotRecord, column: int, row: int, *, offset: float) -> Node:
    label = shot.id if len(shot.id) <= _LABEL_LENGTH else f"{shot.id[: _LABEL_LENGTH - 1]}…"
    return Node(
        shot_id=shot.id,
        label=label,
        status=summarize_status(shot),
        x=_MARGIN + column * (NODE_WIDTH + _COLUMN_GAP),
        y=_MARGIN + round((row + offset) * (NODE_HEIGHT + _ROW_GAP)),
    )


def _draw_edge(source: Node, target: Node) -> str:
    x1, y1 = source.x + NODE_WIDTH, source.y + NODE_HEIGHT // 2
    x2, y2 = target.x, target.y + NODE_HEIGHT // 2
    bend = max(24, (x2 - x1) // 2)
    return f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2 - 7} {y2}"
