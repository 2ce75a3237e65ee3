"""The documentation site: it is built strictly, loads nothing from elsewhere, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import pytest

# One worker builds the sites, one after the other: each build makes the tree anew that the reference is read from.
pytestmark = pytest.mark.xdist_group("site")

ROOT: Final = Path(__file__).parents[3]
CONFIG: Final = ROOT / "docs" / "site" / "mkdocs.yml"

_LOADING_ATTRIBUTES: Final = ("src", "href", "xlink:href", "data", "poster")
_LOADED_BY_CSS: Final = re.compile(r"""(?:@import\s*(?:url\()?|url\()\s*["']?\s*([^"')\s;]+)""", re.IGNORECASE)


class PageParser(HTMLParser):
    """Collects what a page loads, what it links to, and the anchors that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self._in_style = tag == "style"
        if tag == "a":
            self.linked += [values["href"]] if "href" in values else []
        else:
            self.loaded += [values[name] for name in _LOADING_ATTRIBUTES if name in values]
        for name in ("srcset", "imagesrcset"):
            self.loaded += [candidate.split()[0] for candidate in values.get(name, "").split(",") if candidate.strip()]
        self.loaded += find_loaded_by_css(values.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.loaded += find_loaded_by_css(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False


def find_loaded_by_css(text: str) -> list[str]:
    """Return the addresses that a style sheet loads."""
    return _LOADED_BY_CSS.findall(text)


def is_elsewhere(address: str) -> bool:
    """Tell whether an address leads out of the site, also one without a protocol."""
    return bool(urlsplit(address).netloc)


def build_site(config: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build a site strictly, and say what MkDocs says: `-q` would hide its warnings from `strict` too."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-f", str(config), "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site."""
    folder = tmp_path_factory.mktemp("site")
    build = build_site(CONFIG, folder)
    assert build.returncode == 0, build.stdout
    assert "WARNING" not in build.stdout, build.stdout
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
        assert [address for address in page.loaded if is_elsewhere(address)] == [], path
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        loaded = find_loaded_by_css(sheet.read_text(encoding="utf-8"))
        assert [address for address in loaded if is_elsewhere(address)] == [], sheet


@pytest.mark.parametrize(
    "text",
    [
        '<img src="//cdn.example/a.png">',
        '<img srcset="a.png 1x, https://cdn.example/b.png 2x">',
        '<source srcset="//cdn.example/a.webp">',
        '<p style="background: url( //cdn.example/a.png )">',
        "<style>@import '//cdn.example/a.css';</style>",
        '<style>@import url("https://cdn.example/a.css");</style>',
        "<svg><image xlink:href='https://cdn.example/a.png'/></svg>",
    ],
)
def test_what_comes_from_elsewhere_is_noticed(text: str) -> None:
    page = PageParser()
    page.feed(text)
    assert [address for address in page.loaded if is_elsewhere(address)]


def test_a_page_that_the_navigation_leaves_out_ends_the_build(tmp_path: Path) -> None:
    text = CONFIG.read_text(encoding="utf-8")
    for relative, absolute in {
        "docs_dir: ..": f"docs_dir: {ROOT / 'docs'}",
        "hooks: [hooks.py]": f"hooks: [{CONFIG.with_name('hooks.py')}]",
        "../../build/reference": str(ROOT / "build" / "reference"),
        "      - Errors: reference/errors.md\n": "",
    }.items():
        assert relative in text
        text = text.replace(relative, absolute)
    copy = tmp_path / "mkdocs.yml"
    copy.write_text(text, encoding="utf-8")
    build = build_site(copy, tmp_path / "site")
    assert build.returncode != 0
    warned = [line for line in build.stdout.splitlines() if "WARNING" in line or "errors.md" in line]
    assert len(warned) == 2, build.stdout
    assert 'not included in the "nav"' in warned[0]
    assert "reference/errors.md" in warned[1]


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


def test_the_reference_has_every_command_block_flow_and_task(pages: dict[Path, PageParser]) -> None:
    from prefect import Task

    from prefect_video import blocks, flows, tasks
    from prefect_video.cli.app import build_app

    anchors = {anchor for page in pages.values() for anchor in page.anchors}
    commands = [name for name in build_app() if not name.startswith("-")]
    assert len(commands) > 20
    assert {f"prefect-video-{name}" for name in commands} <= anchors
    assert {f"prefect_video.blocks.{name}" for name in blocks.__all__} <= anchors
    assert {f"prefect_video.flows.{name}" for name in flows.__all__} <= anchors
    assert {
        f"prefect_video.tasks.{name}" for name in tasks.__all__ if isinstance(getattr(tasks, name), Task)
    } <= anchors


def _within(path: Path, address: str) -> Iterator[tuple[Path, str]]:
    """Yield the file and the anchor of an address within the site, nothing for one that leads out of it."""
    parts = urlsplit(address)
    if not parts.scheme and not parts.netloc:
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        yield (target / "index.html" if target.is_dir() else target), unquote(parts.fragment)
