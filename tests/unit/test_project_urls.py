"""The addresses of the repository: from the checkout that is built into its metadata, and from there to the blocks."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from email.message import Message
from pathlib import Path

import pytest

from prefect_video.blocks import project_urls

SETUP = Path(__file__).parents[2] / "setup.py"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout without an origin that holds `setup.py`."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    shutil.copy(SETUP, tmp_path)
    return tmp_path


def read_urls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the addresses that `setup.py` in this folder adds to the metadata."""
    arguments: dict[str, dict[str, str]] = {}
    monkeypatch.setattr("setuptools.setup", lambda **given: arguments.update(given))
    runpy.run_path(str(folder / "setup.py"))
    return arguments["project_urls"]


@pytest.mark.parametrize(
    ("origin", "repository"),
    [
        ("git@git.example.com:films/prefect-video.git", "https://git.example.com/films/prefect-video"),
        ("https://user:secret@git.example.com/films/a/b.git", "https://git.example.com/films/a/b"),
        ("ssh://git@git.example.com:2222/films/b/", "https://git.example.com/films/b"),
        ("../prefect-video.git", None),
        ("/srv/git/prefect-video", None),
    ],
)
def test_the_metadata_name_the_origin_of_the_checkout(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, origin: str, repository: str | None
) -> None:
    assert read_urls(checkout, monkeypatch) == {}
    subprocess.run(["git", "-C", str(checkout), "remote", "add", "origin", origin], check=True)
    urls = read_urls(checkout, monkeypatch)
    assert urls.get("Repository") == repository
    if repository:
        assert urls["Issues"] == f"{repository}/issues"
        assert set(urls) == {"Repository", "Documentation", "Changelog", "Issues"}


def test_a_source_distribution_keeps_its_addresses(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "PKG-INFO").write_text(
        "Name: prefect-video\nProject-URL: Repository, https://git.example.com/a/b\n\nText\n"
    )
    assert read_urls(checkout, monkeypatch) == {"Repository": "https://git.example.com/a/b"}


def test_a_folder_inside_another_checkout_is_not_that_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "-C", str(checkout), "remote", "add", "origin", "https://git.example.com/a/b"], check=True)
    inner = checkout / "vendored"
    inner.mkdir()
    shutil.copy(SETUP, inner)
    assert read_urls(inner, monkeypatch) == {}


def test_blocks_read_the_address_from_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = Message()
    monkeypatch.setattr(project_urls, "metadata", lambda name: metadata)
    assert project_urls.find_repository() is None
    metadata["Project-URL"] = "Issues, https://git.example.com/a/b/issues"
    metadata["Project-URL"] = "Repository, https://git.example.com/a/b"
    assert project_urls.find_repository() == "https://git.example.com/a/b"
