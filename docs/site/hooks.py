"""Hooks of the documentation site: the command line's reference, and the files outside `docs/` that pages link to.

MkDocs loads this file by `hooks` in `mkdocs.yml`.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[2]
LINK_TREE: Final = ROOT / "build" / "reference" / "prefect_video"
COPIES: Final = "repository/"
"""The site's folder of pages that show files of the repository."""

_LINK: Final = re.compile(r"\]\(([^)#:\s]+)(#[\w-]+)?\)")
_LANGUAGES: Final = {".py": "python", ".yaml": "yaml"}


def on_startup(*, command: Literal["build", "gh-deploy", "serve"], dirty: bool) -> None:
    """Show the package as one tree: the reference's parser cannot read setuptools' package-dir."""
    shutil.rmtree(LINK_TREE, ignore_errors=True)
    LINK_TREE.mkdir(parents=True)
    folders = (ROOT / name for name in ("blocks", "tasks", "flows"))
    for path in (*(ROOT / "src" / "prefect_video").iterdir(), *folders):
        (LINK_TREE / path.name).symlink_to(os.path.relpath(path, LINK_TREE))


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page for each file outside `docs/` that a page links to, also through another such file."""
    unread = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    while unread:
        path = unread.pop()
        for target in _find_targets(path):
            if not target.startswith("docs/") and files.get_file_from_path(_uri_of(target)) is None:
                files.append(File.generated(config, _uri_of(target), content=_copy_of(target)))
                unread.append(target)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in the command line's help, and point links at the site's pages instead of the repository's files."""
    for mark, describe in _GENERATED.items():
        if mark in markdown:
            markdown = markdown.replace(mark, describe())
    uri = page.file.src_uri
    path = uri.removeprefix(COPIES) if uri.startswith(COPIES) else f"docs/{uri}"

    def point(link: re.Match[str]) -> str:
        target = os.path.relpath(_uri_of(_resolve(path, link[1])), posixpath.dirname(uri) or ".")
        return f"]({target}{link[2] or ''})"

    return _LINK.sub(point, markdown)


def _find_targets(path: str) -> set[str]:
    """Return the files that a Markdown file of the repository links to, as paths from its root."""
    if not path.endswith(".md"):
        return set()
    return {_resolve(path, link[1]) for link in _LINK.finditer((ROOT / path).read_text(encoding="utf-8"))}


def _resolve(path: str, link: str) -> str:
    """Return the path from the repository's root that a link in a file leads to; a folder's is its README."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return f"{target}/README.md" if (ROOT / target).is_dir() else target


def _uri_of(target: str) -> str:
    """Return the path within the site's sources of a file of the repository."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"{COPIES}{target}" if target.endswith(".md") else f"{COPIES}{target}.md"


def _copy_of(target: str) -> str:
    """Return a file of the repository as a page."""
    text = (ROOT / target).read_text(encoding="utf-8")
    if target.endswith(".md"):
        return text
    return f"# `{target}`\n\n~~~~{_LANGUAGES.get(Path(target).suffix, 'text')}\n{text}\n~~~~\n"


def _describe_commands() -> str:
    """Return the help of every command, from the application itself."""
    from prefect_video.cli.app import build_app

    text = build_app(summaries=False).generate_docs(heading_level=1)
    # The page has a title, and the site a table of contents beside it.
    return text.partition("\n")[2].partition("## Table of Contents")[0] + re.sub(
        r"^.*?(?=^\*\*Make\*\*)", "", text, flags=re.DOTALL | re.MULTILINE
    )


def _draw_errors() -> str:
    """Return the hierarchy of errors, as their file draws it."""
    from prefect_video import errors

    tree = (errors.__doc__ or "").partition("\n")[2].strip()
    return f"```text\n{tree}\n```"


_GENERATED: Final[dict[str, Callable[[], str]]] = {
    "<!-- the help of every command -->": _describe_commands,
    "<!-- the hierarchy of errors -->": _draw_errors,
}
"""What is written into a page in place of a mark."""
