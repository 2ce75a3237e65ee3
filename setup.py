"""Adds to the metadata of pyproject.toml the addresses of the repository that is built, which a fork changes."""

import re
import subprocess
from email import message_from_string
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent.resolve()
ORIGIN = re.compile(r"(?:https?://|ssh://|git://)?(?:[^@/]*@)?([\w.-]+\.\w+)(?::\d+)?[:/](.+?)(?:\.git)?/?")
"""Host and path of a remote, with or without protocol, user and port."""


def find_project_urls() -> dict[str, str]:
    """Find the addresses in the checkout's origin, or in the metadata of a source distribution; else there are none."""
    metadata = HERE / "PKG-INFO"
    if metadata.exists():
        entries = message_from_string(metadata.read_text()).get_all("Project-URL", [])
        return dict(entry.split(", ", 1) for entry in entries)
    repository = find_repository()
    if repository is None:
        return {}
    return {
        "Repository": repository,
        "Documentation": f"{repository}/blob/HEAD/docs/index.md",
        "Changelog": f"{repository}/blob/HEAD/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


def find_repository() -> str | None:
    """Return the web address of the checkout's `origin`, without credentials; None if it is no such checkout."""
    if not (HERE / ".git").exists():  # a folder in a checkout of something else
        return None
    try:
        command = ["git", "-C", str(HERE), "remote", "get-url", "origin"]
        origin = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git here, or a checkout without an origin
        return None
    found = ORIGIN.fullmatch(origin)
    return f"https://{found[1]}/{found[2]}" if found else None


setup(project_urls=find_project_urls())
