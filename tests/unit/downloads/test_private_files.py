"""The spool as another user of the machine would prepare it: a folder, a link, or a file made first."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from prefect_video.downloads.partial_file import PartialFile, Version
from prefect_video.downloads.private_files import prepare_private_folder
from prefect_video.errors import StoreError


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_spool_and_its_files_are_this_users_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        file = PartialFile(tmp_path / "deep" / "spool" / "job.mp4")
        file.open()
        file.truncate(Version(total=4))
        assert mode_of(tmp_path / "deep" / "spool") == 0o700
        assert {mode_of(path) for path in (tmp_path / "deep" / "spool").iterdir()} == {0o600}
        file.append([b"film"])
        file.commit()
        file.close()
        assert mode_of(tmp_path / "deep" / "spool" / "job.mp4") == 0o600
    finally:
        os.umask(before)


def use_file(path: Path) -> None:
    file = PartialFile(path)
    try:
        if not file.load_finished():
            file.open()
            file.truncate(Version(total=4))
    finally:
        file.close()


def plant_link(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "elsewhere")


def plant_open_folder(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


@pytest.mark.parametrize(
    ("plant", "reason"),
    [(plant_link, "it is a link"), (plant_open_folder, "others may write to it"), (Path.write_text, "File exists")],
)
def test_a_folder_that_others_made_is_refused(tmp_path: Path, plant: Callable[..., None], reason: str) -> None:
    folder = tmp_path / "spool"
    plant(folder, *(["text"] if plant is Path.write_text else []))
    with pytest.raises(StoreError, match=f"cannot use the spool folder .*{reason}"):
        prepare_private_folder(folder)


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_private_folder(tmp_path / "spool")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StoreError, match="belongs to another user"):
        prepare_private_folder(tmp_path / "spool")


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to], ids=["symbolic", "hard"])
@pytest.mark.parametrize("name", ["job.mp4", "job.mp4.part", "job.mp4.part.json"])
def test_a_planted_link_is_neither_read_nor_written(
    tmp_path: Path, make: Callable[[Path, Path], None], name: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    prepare_private_folder(tmp_path / "spool")
    make(tmp_path / "spool" / name, victim)
    with pytest.raises(StoreError, match=r"it is a link|no plain file of this user"):
        use_file(tmp_path / "spool" / "job.mp4")
    assert victim.read_bytes() == b"precious"
