"""A provider by a third party: the example of `docs/new-provider.md`, installed as a package of its own."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from prefect_video.downloads.media import check_media, probe
from prefect_video.errors import InvalidInput
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.projects import Project
from prefect_video.providers.registry import open_provider, provider_names
from prefect_video.session import SessionRef, open_session
from prefect_video.shots import Shot
from tests.support.clips import write_clip

PAGE: Final = Path(__file__).parents[3] / "docs" / "new-provider.md"
SHOT: Final = Shot(id="roof", prompt="a cat on a roof", duration=1, resolution="480p")


class Acme(ThreadingHTTPServer):
    """Acme's API: a job is done at the second request.

    Attributes:
        jobs: What was accepted, oldest first.
        answers: Whether a submit is answered; else the connection breaks after it was accepted.
    """

    def __init__(self, video: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.video = video
        self.jobs: list[dict[str, Any]] = []
        self.answers = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Acme

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        job = {"id": f"job-{len(self.server.jobs)}", "state": "waiting", **request}
        self.server.jobs.append(job)
        if self.server.answers:
            self._send(json.dumps(job).encode())
        else:
            self.close_connection = True

    def do_GET(self) -> None:
        if self.path.endswith(".mp4"):
            assert "authorization" not in self.headers
            self._send(self.server.video, "video/mp4")
            return
        assert self.headers["authorization"] == "Bearer key"
        if self.path == "/jobs":
            self._send(json.dumps({"jobs": self.server.jobs[::-1]}).encode())
            return
        (job,) = [job for job in self.server.jobs if self.path == f"/jobs/{job['id']}"]
        self._send(json.dumps(job).encode())
        job |= {"state": "done", "video": f"{self.server.url}/{job['id']}.mp4"}

    def _send(self, content: bytes, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Acme]:
    """A running Acme, with the variables that name it."""
    video = write_clip(tmp_path / "clip.mp4", size=SHOT.frame_size).read_bytes()
    with Acme(video) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("ACME_API_KEY", "key")
        monkeypatch.setenv("ACME_BASE_URL", server.url)
        monkeypatch.setenv("PREFECT_VIDEO_SPOOL", str(tmp_path / "spool"))
        monkeypatch.setenv("PREFECT_VIDEO_SETTLE_SECONDS", "0.3")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's example as an installed distribution, as pip would lay it out."""
    text = PAGE.read_text()
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    entry_point = re.search(r'```toml\n\[project\.entry-points\."(.+)"\]\n(\w+) = "(.+)"\n```', text)
    assert example is not None
    assert entry_point is not None
    site = tmp_path / "site"
    about = site / "acme_video-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "acme_video.py").write_text(example[1])
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-video\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[{}]\n{} = {}\n".format(*entry_point.groups()))
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("acme_video", None)


async def run_acme(folder: Path) -> ProjectReport:
    ref = SessionRef.from_names("acme", str(folder / "videos"), str(folder / "ledger.db"))
    async with await open_session(ref) as session:
        return await run_project(session, Project(name="film", shots=(SHOT,)))


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("answers", [True, False], ids=["answered", "not answered"])
async def test_it_makes_a_shot_and_pays_once(acme: Acme, tmp_path: Path, answers: bool) -> None:
    acme.answers = answers
    for again in (False, True):
        (report,) = (await run_acme(tmp_path)).shots
        assert (report.status, report.cached) == ("stored", again), report.error
        check_media(probe(Path(urlsplit(str(report.uri)).path)), SHOT)
    assert len(acme.jobs) == 1


@pytest.mark.usefixtures("package")
def test_its_name_is_known_and_says_what_it_needs() -> None:
    assert "acme" in provider_names()
    with pytest.raises(InvalidInput, match="provider 'acme': set ACME_API_KEY and ACME_BASE_URL"):
        open_provider("acme", {})


def test_without_the_package_there_is_no_such_provider() -> None:
    with pytest.raises(InvalidInput, match="there is no provider 'acme'; choose one of emulator, fal"):
        open_provider("acme", {})
