"""Parts of a project: its shots, split over several runs that share one report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from prefect_video.projects import Project
from prefect_video.shots import Shot


def split_project(project: Project, number: int) -> list[Project]:
    """Split a project into at most so many parts of about the same number of videos.

    Shots that need one another stay together. A part has the project's name, and with it its budget; the final cut
    belongs to the whole.

    Args:
        project: The shots.
        number: The most parts.

    Returns:
        The parts, the largest first; each has its shots in the project's order.
    """
    groups = sorted(_group_shots(project.shots), key=_count_videos, reverse=True)
    parts: list[list[Shot]] = [[] for _ in range(min(number, len(groups)))]
    for group in groups:
        min(parts, key=_count_videos).extend(group)
    order = {shot.id: position for position, shot in enumerate(project.shots)}
    return [
        project.model_copy(
            update={
                "shots": tuple(sorted(shots, key=lambda shot: order[shot.id])),
                "cut": None,
                "fan_out": None,
            }
        )
        for shots in parts
    ]


def _group_shots(shots: Sequence[Shot]) -> list[list[Shot]]:
    """Group the shots that need one another, directly or through others."""
    root = {shot.id: shot.id for shot in shots}

    def find(shot_id: str) -> str:
        while root[shot_id] != shot_id:
            root[shot_id] = shot_id = root[root[shot_id]]
        return shot_id

    for shot in shots:
        for needed in shot.needs:
            root[find(shot.id)] = find(needed)
    groups: dict[str, list[Shot]] = defaultdict(list)
    for shot in shots:
        groups[find(shot.id)].append(shot)
    return list(groups.values())


def _count_videos(shots: Sequence[Shot]) -> int:
    return sum(shot.takes for shot in shots)
