"""Films that are signed with a certificate made for the test: their manifest, its reports, and what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from prefect_video.errors import InvalidInput
from prefect_video.gallery import load_manifest
from prefect_video.pipeline import cut_project, publish_run, run_project, verify_store
from prefect_video.pipeline.steps.film_place import find_current_film
from tests.support.content_credentials import make_certificate, sign_video
from tests.support.films import write_clip
from tests.support.recovery import RecoveryHarness, a_shot, as_project
from tests.unit.pipeline.test_deferred_runs import a_project

c2pa = pytest.importorskip("c2pa", reason="c2pa-python is not installed")


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, Path]:
    """Settings that name a certificate chain and its key."""
    chain, key = make_certificate("Studio South")
    paths = {"c2pa_certificate": tmp_path / "chain.pem", "c2pa_private_key": tmp_path / "key.pem"}
    for path, content in zip(paths.values(), (chain, key), strict=True):
        path.write_bytes(content)
    return paths


async def test_a_film_is_signed_with_its_clips_as_ingredients(
    harness: RecoveryHarness, certificate: dict[str, Path]
) -> None:
    project = a_project()
    async with harness.session(**certificate) as session:
        report = await run_project(session, project)
        assert report.film is not None
        assert report.film.uri is not None, report.film.error
        path = Path(urlsplit(report.film.uri).path)
        await publish_run(session, project, report)
        manifest = await load_manifest(session.store, "film")
        assert manifest is not None
        assert manifest.film is not None
        assert manifest.film.content_credentials is not None
        found = manifest.film.content_credentials
        assert (found.state, found.signed_by) == ("valid", "Studio South")
        assert found.source_types == ("trainedAlgorithmicMedia",)
        page = (path.parent / "index.html").read_text()
        assert "signed by Studio South" in page
        assert "drops it" in page
        lines = (await verify_store(session.ledger, session.store)).content_credentials
        assert [(line.shot, line.found, line.flaw) for line in lines][-1:] == [("final cut", found, None)]
        assert (await cut_project(session, project)).status == "cached"
    with path.open("rb") as file, c2pa.Reader("video/mp4", file) as reader:
        described = json.loads(reader.json())
    active = described["manifests"][described["active_manifest"]]
    assert [item["title"] for item in active["ingredients"]] == ["one", "two"]
    assert {item["relationship"] for item in active["ingredients"]} == {"componentOf"}

    async with harness.session() as session:
        unsigned = await cut_project(session, project)
        assert unsigned.status == "made", "a film without a signature is another one"
        film = await find_current_film(session.store, "film")
        assert film is not None
        assert film.content_credentials is None


async def test_a_clip_by_hand_counts_by_its_own_manifest_and_a_stripped_film_is_reported(
    harness: RecoveryHarness, certificate: dict[str, Path], tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "filmed.mp4", "red", size=(854, 480))
    made = tmp_path / "made.mp4"
    made.write_bytes(sign_video(clip.read_bytes(), signer="Model Maker", generator="web-model"))
    expected = {"filmed": "compositeWithTrainedAlgorithmicMedia", "made": "trainedAlgorithmicMedia"}
    for file in (clip, made):
        second = {"id": file.stem, "prompt": "a clip", "clip": str(file)}
        project = a_project({"id": "one", "prompt": "dawn"}, second)
        async with harness.session(**certificate) as session:
            await run_project(session, project)
            film = await find_current_film(session.store, "film")
            assert film is not None
            assert film.content_credentials is not None
            assert film.content_credentials.source_types == (expected[file.stem],)
    path = Path(urlsplit(film.uri).path)
    path.write_bytes(clip.read_bytes())
    async with harness.session() as session:
        lines = (await verify_store(session.ledger, session.store, read_credentials=True)).content_credentials
    assert [line.flaw for line in lines if line.shot == "final cut"] == [
        "it has no C2PA manifest, although it was signed"
    ]


async def test_a_providers_manifest_is_stored_untouched_and_reported(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[bytes] = []

    def sign(video: Path, _alteration: str) -> Path:
        served.append(sign_video(video.read_bytes(), signer="Model Maker", generator="video-model"))
        signed = video.with_name(f"{video.stem}.signed.mp4")
        signed.write_bytes(served[-1])
        return signed

    monkeypatch.setattr("prefect_video.emulator.download_host.write_altered", sign)
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="trailing")
    project = as_project(a_shot())
    async with harness.session() as session:
        report = await run_project(session, project)
        await publish_run(session, project, report)
        manifest = await load_manifest(session.store, "film")
    (shot,) = report.shots
    path = Path(urlsplit(str(shot.uri)).path)
    assert path.read_bytes() == served[-1], "the provider's bytes, with all that is in them"
    assert manifest is not None
    (video,) = manifest.videos
    found = video.content_credentials
    assert found is not None
    assert (found.state, found.signed_by, found.source_types) == ("valid", "Model Maker", ("trainedAlgorithmicMedia",))
    sidecar = json.loads(next(path.parent.glob("shot-1.*.json")).read_bytes())
    assert sidecar["content_credentials"]["signed_by"] == "Model Maker"
    page = (path.parent / "index.html").read_text()
    assert "signed by Model Maker" in page


async def test_a_certificate_that_cannot_be_used_is_refused_before_anything_is_paid(
    harness: RecoveryHarness, certificate: dict[str, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(make_certificate("Other")[1])
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for changes, message in (
        ({"c2pa_private_key": other}, "is not the key of the first one"),
        ({"c2pa_certificate": empty}, "holds no certificate"),
        ({"c2pa_private_key": tmp_path / "absent.pem"}, "No such file"),
        ({"c2pa_private_key": None}, "or neither"),
    ):
        with pytest.raises(InvalidInput, match=message):
            await harness.run(a_project(), **{**certificate, **changes})
    assert harness.emulator.usage()["submitted"] == 0


@contextmanager
def refusing_authority() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Run a time-stamping authority that answers 503; yield its address and the media type and body of each request."""
    received: list[tuple[str, bytes]] = []

    class Authority(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.headers["Content-Type"], body))
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    with HTTPServer(("127.0.0.1", 0), Authority) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/tsa", received
        finally:
            server.shutdown()
            thread.join()


async def test_a_time_stamping_authority_that_refuses_fails_the_film_alone(
    harness: RecoveryHarness, certificate: dict[str, Path]
) -> None:
    project = a_project()
    with refusing_authority() as (address, received):
        async with harness.session(**certificate, c2pa_timestamp_url=address) as session:
            report = await run_project(session, project)
    assert [shot.status for shot in report.shots] == ["stored", "stored"]
    assert report.film is not None
    assert report.film.status == "failed"
    assert f"see that {address} answers" in (report.film.error or "")
    assert received
    assert received[0][0] == "application/timestamp-query"
    assert received[0][1].startswith(b"\x30"), "a request of RFC 3161 is a DER sequence"
    async with harness.session(**certificate) as session:
        assert (await cut_project(session, project)).status == "made"
    assert harness.paid == (2, 2)
