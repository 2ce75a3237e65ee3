"""The README's Python example, run as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

from prefect_video.storage import open_store

ROOT = Path(__file__).parent.parent


def test_the_example_runs_as_printed_and_pays_once(tmp_path: Path, prefect_api: str) -> None:
    text = (ROOT / "README.md").read_text()
    example = re.search(r"```python\n(from prefect import flow.*?)```", text, re.DOTALL)
    assert example is not None
    (tmp_path / "report.py").write_text(example[1])
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("SORA_", "PREFECT_VIDEO_"))}
    environ |= {"PREFECT_API_URL": prefect_api, "PREFECT_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    environ |= {"PREFECT_VIDEO_EMULATOR_SPEED": "200"}

    said = [
        subprocess.run(
            [sys.executable, "report.py"],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        for _ in range(2)
    ]
    uri = said[0].stdout.strip().splitlines()[-1]
    assert Path(uri.removeprefix("file://")).stat().st_size > 10_000
    assert said[1].stdout.strip().splitlines()[-1] == uri
    assert "Cached" in said[1].stderr
    assert open_store(str(tmp_path / "videos")).owns(uri)
