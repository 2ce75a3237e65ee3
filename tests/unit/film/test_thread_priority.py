"""A film is encoded at the priority that its maker has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.films import write_clip

CODE = """
import json, os, sys
from pathlib import Path
from prefect_video.film import Cut, produce_film

seen = set()

def watch(share):
    seen.update((os.sched_getscheduler(int(thread)), os.nice(0)) for thread in os.listdir("/proc/self/task"))

clip, folder = Path(sys.argv[1]), Path(sys.argv[2])
cut = Cut.model_validate({"title_card": "Hello", "encoder": {"codec": "libsvtav1", "preset": "12"}})
produce_film(cut, {"red": None}, {"red": clip}, folder, watch)
watch(1)
print(json.dumps(sorted(seen)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has threads of real time")
def test_an_av1_film_leaves_the_machine_to_others(tmp_path: Path) -> None:
    """In a process of its own: a priority that was raised would be inherited by the whole suite."""
    clip = write_clip(tmp_path / "red.mp4", "#b03024", seconds=1)
    code = [sys.executable, "-c", CODE, str(clip), str(tmp_path)]
    made = subprocess.run(code, capture_output=True, text=True, check=True)
    assert made.stdout.strip() == f"[[{os.SCHED_OTHER}, {os.nice(0)}]]"
