"""Manifest and page: what they say of a project at its various stages, from ledger and store alone."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from prefect_video.emulator.threaded import Emulator
from prefect_video.gallery import (
    MANIFEST_NAME,
    Manifest,
    compile_manifest,
    load_manifest,
    manifest_schema,
    publish_gallery,
    publish_index,
    render_page,
)
from prefect_video.pipeline import publish_run, run_project
from prefect_video.projects import Project
from prefect_video.session import Session, SessionRef, open_session
from tests.support.manifests import build_manifest, build_shot, build_take

SHOTS: list[dict[str, Any]] = [
    {"id": "zenith", "prompt": "noon over the sea", "takes": 2},
    {"id": "closing", "prompt": "dusk over the sea", "depends_on": ["zenith"], "references": []},
    {"id": "refused", "prompt": "the [policy] sea"},
    {"id": "after", "prompt": "after the sea", "depends_on": ["refused"]},
]


def project(*shots: dict[str, Any], name: str = "film", **fields: Any) -> Project:
    defaults = {"duration": 1, "resolution": "480p"}
    return Project.model_validate({"name": name, "defaults": defaults, "shots": shots or SHOTS, **fields})


@pytest.fixture
async def session(quick_emulator: Emulator, environment: None) -> AsyncIterator[Session]:
    async with await open_session(SessionRef.from_names("emulator", "videos")) as opened:
        yield opened


async def run(session: Session, wanted: Project) -> Manifest:
    report = await publish_run(session, wanted, await run_project(session, wanted))
    manifest = await load_manifest(session.store, wanted.name)
    assert manifest is not None
    assert report.page_uri == session.store.uri(Path("film/index.html")) if wanted.name == "film" else report.page_uri
    return manifest


async def test_a_run_leaves_a_manifest_that_fits_its_schema_and_holds_no_secret(
    session: Session, quick_emulator: Emulator
) -> None:
    before = float(quick_emulator.usage()["billed_usd"])
    manifest = await run(session, project(budget_usd=20))
    content = Path("videos/film", MANIFEST_NAME).read_text()
    jsonschema.validate(json.loads(content), manifest_schema())
    assert [(shot.id, [take.status for take in shot.takes]) for shot in manifest.shots] == [
        ("zenith", ["stored", "stored"]),
        ("closing", ["stored"]),
        ("refused", ["failed"]),
        ("after", ["skipped"]),
    ]
    assert manifest.shots[1].depends_on == ("zenith",)
    assert float(manifest.spend.spent_usd) == float(quick_emulator.usage()["billed_usd"]) - before
    assert manifest.spend.budget_usd == 20
    for video in manifest.videos:
        assert video.path is not None
        assert Path("videos/film", video.path).stat().st_size == video.bytes
    refused = manifest.shots[2].takes[0]
    assert "prefect-video review" in str(refused.error)
    assert (manifest.ledger, manifest.store) == (session.ledger.identity, await session.store.read_identity())
    assert str(Path.cwd()) not in content.replace(str(refused.error), "")


async def test_what_was_changed_is_an_earlier_version_and_what_was_removed_is_kept(session: Session) -> None:
    first = {"id": "opening", "prompt": "dawn"}
    await run(session, project(first, {"id": "closing", "prompt": "dusk"}))
    changed = await run(session, project({**first, "prompt": "dawn, slower"}))
    opening, closing = changed.shots
    assert (opening.takes[0].prompt, [take.prompt for take in opening.earlier]) == ("dawn, slower", ["dawn"])
    assert (closing.id, closing.in_project, closing.takes[0].status) == ("closing", False, "stored")
    # The first prompt again: its video is stored already, and is the current one although it is older.
    again = await run(session, project(first))
    assert again.shots[0].takes[0].prompt == "dawn"
    assert again.shots[0].takes[0].cost_usd == opening.earlier[0].cost_usd
    assert len({video.path for video in again.videos}) == 3


async def test_a_page_is_made_again_from_ledger_and_store_and_remembers_the_projects_order(session: Session) -> None:
    made = await run(session, project(budget_usd=20))
    again = (await publish_gallery(session.ledger, session.store, "film")).manifest
    assert again.model_dump(exclude={"made_at", "shots"}) == made.model_dump(exclude={"made_at", "shots"})
    assert [shot.id for shot in again.shots] == ["zenith", "closing", "refused", "after"]
    assert again.videos == made.videos
    Path("videos/film", MANIFEST_NAME).write_text('{"project": "film"')
    rebuilt = await compile_manifest(session.ledger, session.store, "film")
    statuses = {shot.id: shot.takes[0].status for shot in rebuilt.shots}
    assert statuses == {"zenith": "stored", "closing": "stored", "refused": "failed", "after": "skipped"}


async def test_a_copy_of_another_projects_video_costs_nothing_and_says_where_it_was_paid(session: Session) -> None:
    shot = {"id": "opening", "prompt": "dawn"}
    await run(session, project(shot))
    manifest = await run(session, project({**shot, "id": "start"}, name="trailer"))
    (take,) = manifest.shots[0].takes
    assert (take.status, take.cost_usd, manifest.spend.spent_usd) == ("stored", 0, 0)
    assert take.video is not None
    assert take.video.notes == ("a copy of film/opening: paid once, there",)
    assert Path("videos/trailer", str(take.video.path)).is_file()


async def test_the_index_lists_projects_and_leaves_out_what_is_no_manifest(session: Session) -> None:
    await run(session, project({"id": "opening", "prompt": "dawn"}))
    for name, content in (("other", b"no manifest"), ("copied", Path("videos/film", MANIFEST_NAME).read_bytes())):
        Path("videos", name).mkdir()
        Path("videos", name, MANIFEST_NAME).write_bytes(content)
    uri, manifests = await publish_index(session.store)
    page = Path("videos/index.html").read_text()
    assert uri == Path("videos/index.html").absolute().as_uri()
    assert [manifest.project for manifest in manifests] == ["film"]
    assert re.findall(r'href="(\./[^"]*)"', page) == ["./film/index.html"]


def test_a_page_links_only_below_itself_whatever_a_manifest_says() -> None:
    video = build_take("opening").video
    assert video is not None
    hostile = video.model_copy(update={"path": 'javascript:alert(1)"x', "thumbnail": "//evil.example/a.jpg"})
    page = render_page(build_manifest(build_shot("opening", build_take("opening", video=hostile)))).decode()
    assert 'href="./javascript%3Aalert%281%29%22x"' in page
    assert 'src=".///evil.example/a.jpg"' in page


def test_the_graph_puts_a_shot_right_of_what_it_needs_and_survives_a_cycle() -> None:
    names = {"a": (), "b": ("a",), "c": ("a", "b"), "late": ("e",), "e": ("late",), "alone": ()}
    page = render_page(build_manifest(*(build_shot(name, depends_on=needs) for name, needs in names.items()))).decode()
    places = dict(re.findall(r'aria-label="(\w+): Ready"><rect x="(\d+)"', page))
    assert int(places["a"]) < int(places["b"]) < int(places["c"])
    assert "alone" not in places
    assert len(re.findall(r"marker-end", page)) == 5


async def test_a_choice_is_shown_also_where_the_page_is_made_without_a_run(session: Session) -> None:
    manifest = await run(session, project({"id": "opening", "prompt": "dawn", "takes": 2, "choose": "first"}))
    chosen = [take.chosen for take in manifest.shots[0].takes]
    assert sorted(chosen, key=str) == [False, True]
    Path("videos/film", MANIFEST_NAME).unlink()
    again = (await publish_gallery(session.ledger, session.store, "film")).manifest
    assert [take.chosen for take in again.shots[0].takes] == chosen
    page = Path("videos/film/index.html").read_text()
    assert page.count('<span class="mark">Chosen</span>') == 1


async def test_the_final_cut_of_the_store_is_shown_as_long_as_the_project_has_one(session: Session) -> None:
    shot = {"id": "opening", "prompt": "dawn"}
    manifest = await run(session, project(shot, {"id": "closing", "prompt": "dusk"}, cut={}))
    film = manifest.film
    assert film is not None
    assert Path("videos/film", film.path).stat().st_size == film.bytes
    assert Path("videos/film", str(film.thumbnail)).is_file()
    assert film.duration_seconds == pytest.approx(2.0, abs=0.1)
    assert f'href="./{film.path}" aria-label="Play the final cut"' in Path("videos/film/index.html").read_text()
    assert (await run(session, project(shot))).film is None


async def test_only_names_of_files_leave_the_machine(session: Session) -> None:
    wanted = project({"id": "opening", "prompt": "dawn"})
    secret = {"first_frame": "/home/ann/frame.png", "references": ("https://cdn.example/a/b.png?signature=s3cret",)}
    shot = wanted.shots[0].model_copy(update=secret)
    manifest = await compile_manifest(
        session.ledger, session.store, "film", project=wanted.model_copy(update={"shots": (shot,)})
    )
    request = manifest.shots[0].request
    assert (request["first_frame"], request["references"]) == ("frame.png", ["b.png"])
    assert [take.status for take in manifest.takes] == ["pending"]


def test_a_sum_that_leaves_out_an_unknown_price_says_so() -> None:
    take = build_take("opening", cost_usd=None)
    page = render_page(build_manifest(build_shot("opening", take), spent_usd=2.4, unpriced=1)).decode()
    assert "<dd>at least $2.40</dd>" in page
    assert "<li>price unknown</li>" in page
