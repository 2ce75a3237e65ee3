"""The documentation site: it is built strictly, loads nothing from elsewhere, and its links lead somewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import pytest

ROOT: Final = Path(__file__).parents[3]


class PageParser(HTMLParser):
    """Collects what a page loads, what it links to, and the anchors that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a":
            self.linked += [values["href"]] if "href" in values else []
        else:
            self.loaded += [values[name] for name in ("src", "href", "data", "poster") if name in values]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site."""
    folder = tmp_path_factory.mktemp("site")
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "-f", "docs/site/mkdocs.yml", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, PageParser]:
    """Parse every page of the site."""
    parsed = {}
    for path in site.rglob("*.html"):
        parsed[path] = PageParser()
        parsed[path].feed(path.read_text(encoding="utf-8"))
    return parsed


def test_no_page_loads_anything_from_elsewhere(site: Path, pages: dict[Path, PageParser]) -> None:
    assert len(pages) > 30
    for path, page in pages.items():
        assert [address for address in page.loaded if urlsplit(address).netloc] == [], path
    for sheet in site.rglob("*.css"):
        assert "url(http" not in sheet.read_text(encoding="utf-8").replace('"', "").replace("'", ""), sheet


def test_every_link_within_the_site_leads_somewhere(site: Path, pages: dict[Path, PageParser]) -> None:
    broken = [
        f"{path.relative_to(site)}: {address}"
        # The page for missing addresses is served at any depth, so its links are absolute.
        for path, page in pages.items() - {(site / "404.html", pages[site / "404.html"])}
        for address in (*page.linked, *page.loaded)
        for target, anchor in _within(path, address)
        if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors)
    ]
    assert broken == []


def test_the_reference_has_every_command_and_every_block(pages: dict[Path, PageParser]) -> None:
    from prefect_video import blocks
    from prefect_video.cli.app import build_app

    anchors = {anchor for page in pages.values() for anchor in page.anchors}
    commands = [name for name in build_app() if not name.startswith("-")]
    assert len(commands) > 20
    assert {f"prefect-video-{name}" for name in commands} <= anchors
    assert {f"prefect_video.blocks.{name}" for name in blocks.__all__} <= anchors


def _within(path: Path, address: str) -> Iterator[tuple[Path, str]]:
    """Yield the file and the anchor of an address within the site, nothing for one that leads out of it."""
    parts = urlsplit(address)
    if not parts.scheme and not parts.netloc:
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        yield (target / "index.html" if target.is_dir() else target), unquote(parts.fragment)
