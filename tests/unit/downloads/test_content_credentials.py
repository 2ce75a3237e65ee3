"""C2PA manifests in videos: present and valid, altered, absent; and what is said without the reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_video.downloads import content_credentials as module
from prefect_video.downloads import no_content_credentials, probe, read_content_credentials, require_reader
from prefect_video.errors import InvalidInput
from tests.support.clips import write_clip
from tests.support.content_credentials import sign_video

pytest.importorskip("c2pa", reason="c2pa-python is not installed")


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="module")
def signed(unsigned: Path) -> Path:
    path = unsigned.with_name("signed.mp4")
    path.write_bytes(sign_video(unsigned.read_bytes(), signer="Studio North", generator="video-model"))
    return path


def test_a_manifest_says_who_signed_and_that_a_model_made_it(signed: Path) -> None:
    before = signed.read_bytes()
    found = read_content_credentials(signed, promised=True)
    assert found is not None
    assert (found.state, found.signed_by, found.generator) == ("valid", "Studio North", "video-model 1")
    assert found.source_types == ("trainedAlgorithmicMedia",)
    assert (found.problems, found.flaw) == ((), None)
    assert signed.read_bytes() == before


def test_an_altered_video_does_not_fit_its_manifest(signed: Path, tmp_path: Path) -> None:
    content = bytearray(signed.read_bytes())
    content[content.rfind(b"mdat") + 100] ^= 0xFF
    (tmp_path / "altered.mp4").write_bytes(content)
    found = read_content_credentials(tmp_path / "altered.mp4")
    assert found is not None
    assert found.state == "invalid"
    assert "assertion.bmffHash.mismatch" in str(found.flaw)


def test_absence_is_a_flaw_only_where_a_manifest_is_promised(unsigned: Path) -> None:
    flaws = {
        promised: getattr(read_content_credentials(unsigned, promised=promised), "flaw", "")
        for promised in (True, False)
    }
    assert flaws == {True: "it has no C2PA manifest, although the provider promises one", False: None}


def test_the_boxes_of_a_video_show_where_there_can_be_no_manifest(signed: Path, unsigned: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.mp4"
    foreign.write_bytes(unsigned.read_bytes() + (24).to_bytes(4) + b"uuid" + bytes(16))
    assert [probe(path).may_be_signed for path in (signed, foreign, unsigned)] == [True, True, False]
    assert no_content_credentials(promised=True) == read_content_credentials(unsigned, promised=True)


def test_without_the_reader_nothing_is_read_and_asking_for_it_names_the_extra(
    signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert read_content_credentials(signed) is None
    assert no_content_credentials() is None
    with pytest.raises(InvalidInput, match=r"pip install 'prefect-video\[c2pa\]'"):
        require_reader()
