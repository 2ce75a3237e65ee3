"""The gallery page in a real browser: opened from `file://`, with videos that the emulator has made."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefect_video.emulator.settings import EmulatorSettings
from prefect_video.emulator.threaded import Emulator
from prefect_video.gallery import PAGE_NAME, FilmRecord, read_manifest, render_page
from prefect_video.pipeline import publish_run, run_project
from prefect_video.projects import Project
from prefect_video.session import SessionRef, open_session
from tests.support.manifests import build_large_manifest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

HOSTILE = (
    "</script><script>window.attacked = 1</script>",
    '"><img src=x onerror="window.attacked = 2"><svg onload="window.attacked = 3">',
    "{{ 7 * 7 }} {% for x in y %} ${7 * 7} javascript:window.attacked=4",
    "a film \u202egnp.exe\u202c that turns \u2066around\u2069",
    "<style>*{display:none}</style><!-- <base href='https://evil.example/'>",
)


def find_chromium(browsers: Any) -> str:
    """Return the path of a Chromium: the machine's, else the one that playwright has installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), browsers.chromium.executable_path)
    if not Path(found).is_file():
        pytest.skip("there is no Chromium on this machine: install `chromium`, or run `playwright install chromium`")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a film with the emulator: five hostile prompts, two takes, a dependency and a failure."""
    root = tmp_path_factory.mktemp("gallery")
    shots: list[dict[str, Any]] = [
        {"id": "opening", "prompt": "dawn over the sea", "takes": 2},
        {"id": "closing", "prompt": "dusk over the sea", "depends_on": ["opening"]},
        {"id": "refused", "prompt": "the [policy] sea"},
        *({"id": f"hostile-{number}", "prompt": prompt} for number, prompt in enumerate(HOSTILE)),
    ]
    defaults = {"duration": 1, "resolution": "480p"}
    project = Project.model_validate({"name": "film", "defaults": defaults, "shots": shots, "budget_usd": 20})
    settings = EmulatorSettings(port=0, speed=500.0, render="plate")
    with Emulator(settings) as emulator, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_VIDEO_EMULATOR_ENDPOINT", emulator.endpoint)
        patch.setenv("PREFECT_VIDEO_SPOOL", str(root / "spool"))
        patch.setenv("PREFECT_VIDEO_LEDGER_URL", f"sqlite:///{root / 'ledger.db'}")
        asyncio.run(_make(project, str(root / "videos")))
    return root / "videos" / "film"


async def _make(project: Project, store: str) -> None:
    async with await open_session(SessionRef.from_names("emulator", store)) as session:
        report = await publish_run(session, project, await run_project(session, project))
    assert [shot.id for shot in report.failures] == ["refused"]
    assert report.page_uri is not None


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[Any]:
    """Start a browser, after everything that needs an event loop of its own."""
    with playwright.sync_playwright() as browsers:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        running = browsers.chromium.launch(executable_path=find_chromium(browsers), args=options)
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """Open the film's page; at the end of each test, nothing was asked of the network and no error was printed."""
    yield from open_page(browser, folder / PAGE_NAME)


def open_page(browser: Any, file: Path, **context: Any) -> Iterator[Any]:
    """Open a page, and check afterwards what it printed and requested."""
    opened = browser.new_context(viewport={"width": 1280, "height": 900}, **context)
    page = opened.new_page()
    printed: list[str] = []
    requested: list[str] = []
    page.on("console", lambda message: printed.append(message.text))
    page.on("pageerror", lambda error: printed.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(file.as_uri())
    yield page
    opened.close()
    assert printed == []
    assert [url for url in requested if not url.startswith(("file:", "data:"))] == []


def wait_until(page: Any, condition: str) -> None:
    """Wait for a condition; playwright's own wait evaluates text, which the page's policy forbids."""
    page.evaluate(
        f"new Promise(done => {{ const look = () => {condition} ? done() : requestAnimationFrame(look); look() }})"
    )


def has_h264(page: Any) -> bool:
    return bool(page.evaluate("""document.createElement('video').canPlayType('video/mp4; codecs="avc1.42E01E"')"""))


def shown(page: Any) -> list[str]:
    ids: list[str] = page.evaluate(
        "[...document.querySelectorAll('.card:not([hidden])')].map(card => card.id.slice(5))"
    )
    return ids


def test_a_clip_plays_when_its_poster_is_pressed_and_the_next_stops_it(page: Any) -> None:
    if not has_h264(page):
        pytest.skip("this Chromium plays no H.264")
    assert page.locator(".board video").count() == 0
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    wait_until(page, "document.querySelector('.board video').currentTime > 0.2")
    first = page.locator("#shot-opening video")
    assert first.get_attribute("poster")
    assert first.get_attribute("preload") == "none"
    assert page.evaluate("document.activeElement.tagName") == "VIDEO"
    page.locator("#shot-closing .play").click()
    wait_until(page, "document.querySelector('#shot-closing video').currentTime > 0.1")
    assert first.evaluate("video => video.paused")
    page.keyboard.press("Escape")
    assert page.locator(".board video").count() == 0
    assert page.evaluate("document.activeElement.matches('a.play')")


def test_all_shots_play_in_order_from_the_first_screen(page: Any) -> None:
    if not has_h264(page):
        pytest.skip("this Chromium plays no H.264")
    page.evaluate(
        """() => { window.captions = []; const caption = document.querySelector('#reel .caption');
        new MutationObserver(() => window.captions.push(caption.textContent.trim()))
          .observe(caption, { childList: true, subtree: true, characterData: true }); }"""
    )
    page.keyboard.press("p")
    video = page.locator("#reel video[controls]")
    video.evaluate("video => { video.defaultPlaybackRate = video.playbackRate = 8 }")
    wait_until(page, "window.captions.some(text => text.startsWith('All shots'))")
    captions = [text for text in dict.fromkeys(page.evaluate("window.captions")) if text.endswith("of 7")]
    names = page.locator("#reel li").all_text_contents()
    assert names[:2] == ["opening", "closing"]
    assert captions == [f"{name}{number} of 7" for number, name in enumerate(names, start=1)]
    assert video.count() == 0


def test_the_keyboard_moves_between_shots_searches_and_explains_itself(page: Any) -> None:
    def focused() -> str:
        label: str = page.evaluate("document.activeElement.getAttribute('aria-label')")
        return label

    for key in ("j", "j", "j"):
        page.keyboard.press(key)
    assert focused() == "Play closing, 1.0 s"
    page.keyboard.press("k")
    assert focused() == "Play opening, take 2, 1.0 s"
    page.keyboard.press("ArrowLeft")
    assert focused() == "Play opening, take 1, 1.0 s"
    page.keyboard.press("ArrowDown")
    assert focused() == "Play closing, 1.0 s"
    page.keyboard.press("/")
    assert focused() == "Search shots and prompts"
    page.keyboard.type("dusk")
    assert shown(page) == ["closing"]
    page.keyboard.press("Escape")
    assert len(shown(page)) == 8
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("d")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_a_status_is_filtered_counted_and_left_by_a_link_to_another_shot(page: Any) -> None:
    page.get_by_role("button", name="Failed").click()
    assert shown(page) == ["refused"]
    assert page.get_by_role("status").text_content() == "1 of 8 shots"
    page.locator(".search input").fill("nothing like it")
    assert shown(page) == []
    assert page.locator(".none").is_visible()
    page.locator(".graph a").first.click()
    assert len(shown(page)) == 8


def test_prompts_are_shown_and_never_obeyed(page: Any) -> None:
    page.keyboard.press("j")
    assert page.evaluate("window.attacked") is None
    assert page.evaluate("document.scripts.length") == 1
    assert page.locator("style").count() == 1
    assert page.locator("base, iframe, [onerror], [onload]").count() == 0
    for number, prompt in enumerate(HOSTILE):
        text = page.locator(f"#shot-hostile-{number} > .prompt").text_content()
        assert text == "".join(f"\\u{ord(char):04x}" if ord(char) > 0x2000 else char for char in prompt)
    everything = page.evaluate("document.documentElement.outerHTML")
    assert not {"\u202e", "\u202c", "\u2066", "\u2069"} & set(everything)


def test_an_injected_script_would_not_run(browser: Any, folder: Path) -> None:
    page = browser.new_context().new_page()
    page.goto((folder / PAGE_NAME).as_uri())
    page.evaluate(
        """() => { const attack = document.createElement('div'); document.body.append(attack);
        attack.innerHTML = '<img src=x onerror="window.attacked = 1"><a id=link href="javascript:window.attacked=2">.</a>';
        const script = document.createElement('script'); script.textContent = 'window.attacked = 3'; attack.append(script); }"""
    )
    page.locator("#link").evaluate("link => link.click()")
    page.wait_for_timeout(50)
    assert page.evaluate("window.attacked") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, folder: Path, scheme: str) -> None:
    for page in open_page(browser, folder / PAGE_NAME, color_scheme=scheme):
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        found = axe.Axe().run(page).response
        assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found["violations"]] == []
        page.keyboard.press("?")
        assert axe.Axe().run(page).response["violations"] == []


def test_a_film_takes_the_first_screen(browser: Any, folder: Path) -> None:
    manifest = read_manifest((folder / "manifest.json").read_bytes())
    assert manifest is not None
    (video, *_) = manifest.videos
    assert video.path is not None
    film = FilmRecord(title="Dawn to dusk", path=video.path, thumbnail=video.thumbnail, duration_seconds=75)
    file = folder / "film.html"
    file.write_bytes(render_page(manifest.model_copy(update={"film": film})))
    for page in open_page(browser, file):
        assert page.get_by_role("heading", level=1).text_content() == "Dawn to dusk"
        assert page.get_by_label("Play the final cut").count() == 1
        assert page.locator("#film .caption").text_content() == "Final cut1 min 15 s"
        assert page.locator("#reel").count() == 0


def test_three_hundred_shots_open_without_players_and_are_filtered_by_provider(
    browser: Any, folder: Path, tmp_path: Path
) -> None:
    picture = next(folder.glob("*.jpg")).read_bytes()
    for index in range(300):
        (tmp_path / f"shot-{index:03d}.jpg").write_bytes(picture)
    (tmp_path / "shot-000.mp4").write_bytes(next(folder.glob("*.mp4")).read_bytes())
    file = tmp_path / PAGE_NAME
    file.write_bytes(render_page(build_large_manifest(300)))
    for page in open_page(browser, file):
        assert page.locator(".card").count() == 300
        assert page.locator(".board video").count() == 0
        assert page.locator(".board img:not([loading=lazy])").count() == 0
        page.locator("#provider").select_option("fal")
        assert len(shown(page)) == 100
        page.keyboard.press("/")
        page.keyboard.type("shot-003")
        assert shown(page) == ["shot-003"]
