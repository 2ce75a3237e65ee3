"""The deployable folder: files that a user of the installed package begins with."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Final

from prefect_video import __version__
from prefect_video.errors import InvalidInput

TEMPLATES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "prefect.yaml": "prefect.yaml",
        "film.yaml": "film.yaml",
        ".env.example": "env.example",
        "Dockerfile": "Dockerfile",
        "README.md": "README.md",
    }
)
"""By name in the folder, the template it is made from."""


def write_folder(folder: Path, *, force: bool = False) -> list[Path]:
    """Write the files of a deployable folder, which is created where it is missing.

    Args:
        folder: The folder.
        force: Replace files that are there already.

    Returns:
        The files, in the order in which they were written.

    Raises:
        InvalidInput: Some file is there already, or the folder cannot be written; no file was replaced.
    """
    paths = [folder / name for name in TEMPLATES]
    if not force and (present := [path.name for path in paths if path.exists() or path.is_symlink()]):
        raise InvalidInput(
            f"{folder} already has {', '.join(present)}: name another folder, or replace them with --force. Nothing was"
            " written."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            path.write_text(read_template(path.name), encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written: {error.strerror or error}") from error
    return paths


def read_template(name: str) -> str:
    """Return the content of a file of the folder, with this version of the package in place."""
    template = files("prefect_video.deployments") / "templates" / TEMPLATES[name]
    return template.read_text(encoding="utf-8").replace("{version}", __version__)
