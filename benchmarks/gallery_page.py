"""The gallery page of a large project in Chromium: time to open it, and to filter it.

    python -m benchmarks.gallery_page [--shots 300] [--rounds 5]

Opened from `file://`, with a poster for each shot. Filtering is timed from the keystroke to the next painted frame.
Prints the median and the worst of the rounds. Exits with 1 unless the page opens within a second, and a filter is
painted within a tenth of one, by the medians.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final

from PIL import Image
from playwright.sync_api import sync_playwright

from prefect_video.gallery import PAGE_NAME, render_page
from tests.support.manifests import build_large_manifest

_FILTER: Final = """([text]) => new Promise(done => {
  const search = document.querySelector('#search');
  const began = performance.now();
  search.value = text;
  search.dispatchEvent(new Event('input'));
  const handled = performance.now();
  requestAnimationFrame(() => setTimeout(() => done([handled - began, performance.now() - began])));
})"""
MAX_MILLISECONDS: Final = {"open": 1000.0, "filter, handled": 100.0, "filter, painted": 100.0}
_OPENED: Final = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def write_project(folder: Path, shots: int) -> Path:
    """Write the page of a project that was never made, with its posters; return the page."""
    for index in range(shots):
        Image.effect_noise((480, 270), 20 + index % 60).convert("RGB").save(
            folder / f"shot-{index:03d}.jpg", quality=60
        )
    page = folder / PAGE_NAME
    page.write_bytes(render_page(build_large_manifest(shots)))
    return page


def measure(file: Path, rounds: int) -> dict[str, list[float]]:
    """Return what each round took in milliseconds, by what was done."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    times: dict[str, list[float]] = {"open": [], "filter, handled": [], "filter, painted": []}
    with sync_playwright() as browsers:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = browsers.chromium.launch(executable_path=chromium, args=options)
        for _ in range(rounds):
            page: Any = browser.new_context(viewport={"width": 1366, "height": 900}).new_page()
            page.goto(file.as_uri(), wait_until="load")
            page.wait_for_timeout(100)
            times["open"].append(page.evaluate(_OPENED))
            for text in ("shot-01", "seen from far", "fal", ""):
                handled, painted = page.evaluate(_FILTER, [text])
                times["filter, handled"].append(handled)
                times["filter, painted"].append(painted)
            page.context.close()
        browser.close()
    return times


def main() -> int:
    """Measure, and print a line for each thing that was timed; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = write_project(Path(folder), options.shots)
        print(f"{options.shots} shots, {page.stat().st_size / 1e3:,.0f} kB of page")
        times = measure(page, options.rounds)
    medians = {name: statistics.median(milliseconds) for name, milliseconds in times.items()}
    for name, median in medians.items():
        print(f"{name:16} median {median:7.1f} ms, worst {max(times[name]):7.1f} ms")
    return int(any(median > MAX_MILLISECONDS[name] for name, median in medians.items()))


if __name__ == "__main__":
    raise SystemExit(main())
