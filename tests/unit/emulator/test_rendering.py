"""Rendered clips: as specified, deterministic, moving and readable."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import pytest
from PIL import Image, ImageChops

from prefect_video.emulator.generation import FPS, GenerationRequest
from prefect_video.emulator.rendering.clips import ClipLibrary
from prefect_video.emulator.rendering.encode import RenderStopped, render_clip
from prefect_video.emulator.rendering.image_folder import ImageFolder
from prefect_video.emulator.rendering.spec import ClipSpec
from prefect_video.emulator.rendering.text import MAX_LINES, TextOverlay, wrap
from prefect_video.emulator.settings import EmulatorSettings
from prefect_video.frame_sizes import frame_size
from tests.support.pictures import audio_seconds, decode, draw, psnr


def _build_spec(
    duration: int = 1, size: tuple[int, int] = (854, 480), seed: str = "7", prompt: str = "Dawn"
) -> ClipSpec:
    return ClipSpec(seed, "sora-2", prompt, duration, *size)


def _render(spec: ClipSpec, folder: Path, name: str = "clip") -> Path:
    video = folder / f"{name}.mp4"
    render_clip(spec, video, video.with_suffix(".jpg"))
    return video


def _read_frames(video: Path) -> list[Image.Image]:
    with av.open(str(video)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("aspect_ratio", ["16:9", "9:16", "1:1"])
@pytest.mark.parametrize("resolution", ["480p", "720p", "1080p"])
def test_clip_is_what_was_asked(tmp_path: Path, aspect_ratio: str, resolution: str) -> None:
    width, height = frame_size(aspect_ratio, resolution)
    video = _render(_build_spec(1, (width, height)), tmp_path)
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.width, stream.height) == (width, height)
        assert stream.average_rate == FPS
        assert container.duration == 1_000_000
        assert sum(1 for _ in container.decode(stream)) == stream.frames == FPS


def test_sizes_are_the_usual_ones() -> None:
    assert frame_size("16:9", "1080p") == (1920, 1080)
    assert frame_size("9:16", "1080p") == (1080, 1920)
    assert frame_size("1:1", "1080p") == (1080, 1080)
    assert frame_size("16:9", "480p") == (854, 480)


@pytest.mark.parametrize("duration", [3, 5])
def test_duration_is_exact(tmp_path: Path, duration: int) -> None:
    with av.open(str(_render(_build_spec(duration, (480, 480)), tmp_path))) as container:
        assert container.duration == duration * 1_000_000
        assert container.streams.video[0].frames == duration * FPS


def test_index_comes_before_the_pictures(tmp_path: Path) -> None:
    content = _render(_build_spec(), tmp_path).read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_same_specification_same_bytes(tmp_path: Path) -> None:
    digests = [hashlib.sha256(_render(_build_spec(), tmp_path, name).read_bytes()).digest() for name in "ab"]
    assert digests[0] == digests[1]
    other = hashlib.sha256(_render(_build_spec(seed="8"), tmp_path, "c").read_bytes()).digest()
    assert other != digests[0]
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()


def test_picture_moves_and_time_code_runs(tmp_path: Path) -> None:
    frames = _read_frames(_render(_build_spec(2), tmp_path))
    first, last = frames[0].convert("L"), frames[-1].convert("L")
    scenery = (0, 200, 854, 380)
    assert ImageChops.difference(first.crop(scenery), last.crop(scenery)).getbbox() is not None
    time_code = (0, 0, 200, 70)
    codes = {frame.convert("L").crop(time_code).tobytes() for frame in frames[:FPS]}
    assert len(codes) == FPS


@pytest.mark.parametrize("size", [(854, 480), (480, 854), (720, 720), (1920, 1080)])
def test_prompt_and_watermark_stand_out(tmp_path: Path, size: tuple[int, int]) -> None:
    with_text = _read_frames(_render(_build_spec(1, size, prompt="MMMM WWWW MMMM"), tmp_path, "with"))[0].convert("L")
    width, height = size
    panel = with_text.crop((0, int(height * 0.88), width, height - 20))
    dark, bright = panel.getextrema()
    assert isinstance(dark, int)
    assert isinstance(bright, int)
    assert bright - dark > 150
    without = Image.new("L", size, 16)
    shown = without.copy()
    chroma = Image.new("L", (width // 2, height // 2), 128)
    TextOverlay(_build_spec(1, size)).draw(shown, chroma, chroma.copy(), seconds=0, frame=0, share=0)
    watermark = ImageChops.difference(shown, without).crop((width // 2, 0, width, height // 6)).getbbox()
    assert watermark is not None
    assert watermark[2] - watermark[0] > min(size) // 5


@pytest.mark.parametrize("prompt", ["", "word " * 6000, "x" * 32_000, "日本語 🎬 عربى\x00\n\t", "a\u0301" * 50])
def test_any_prompt_can_be_drawn(tmp_path: Path, prompt: str) -> None:
    assert len(_read_frames(_render(_build_spec(prompt=prompt, size=(480, 480)), tmp_path))) == FPS


def test_wrapped_lines_fit() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(size=20)
    lines = wrap("a long prompt about nothing in particular " * 20, font, 300)
    assert len(lines) == MAX_LINES
    assert lines[-1].endswith("…")
    assert all(font.getlength(line) <= 300 for line in lines)


def test_rendering_can_be_stopped(tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    with pytest.raises(RenderStopped):
        render_clip(_build_spec(), video, video.with_suffix(".jpg"), should_stop=lambda: True)
    assert list(tmp_path.iterdir()) == []


async def test_clips_are_shared_by_what_they_show(tmp_path: Path) -> None:
    request = GenerationRequest(model="m", prompt="p", duration=1, aspect_ratio="1:1", resolution="480p")
    library = ClipLibrary(EmulatorSettings(), tmp_path)
    try:
        first, second = await library.get(request), await library.get(request.model_copy(update={"webhook_url": "u"}))
        assert first == second
        seeded = await library.get(request.model_copy(update={"metadata": {"seed": 3}}))
        assert seeded.etag != first.etag
    finally:
        await library.close()


async def test_plates_are_shared_by_shape(tmp_path: Path) -> None:
    library = ClipLibrary(EmulatorSettings(render="plate"), tmp_path)
    request = GenerationRequest(model="m", prompt="p", duration=1, aspect_ratio="1:1", resolution="480p")
    other = request.model_copy(update={"prompt": "q", "model": "n", "metadata": {"seed": 3}})
    assert library.spec(request) == library.spec(other)
    assert library.spec(request) != library.spec(request.model_copy(update={"duration": 2}))
    await library.close()


def test_it_begins_and_ends_with_the_images_and_shows_references(tmp_path: Path) -> None:
    images = ImageFolder(tmp_path / "images")
    first, last, other = (images.keep(draw(hue)) for hue in (10, 120, 240))
    spec = _build_spec(2)._replace(first_frame=first, last_frame=last)
    videos = []
    for number, references in enumerate(((), (other,))):
        videos.append(tmp_path / f"{number}.mp4")
        render_clip(spec._replace(references=references), videos[-1], tmp_path / f"{number}.jpg", images=images)
    frames = decode(videos[0])
    assert psnr(frames[0], draw(10)) > 30
    assert psnr(frames[-1], draw(120)) > 30
    assert psnr(frames[len(frames) // 2], draw(10)) < 20
    # The scene is the same but for the reference, which is there in the middle of the clip.
    middle = decode(videos[1])[len(frames) // 2]
    assert ImageChops.difference(middle, frames[len(frames) // 2]).getbbox() is not None


def test_sound_is_an_aac_track_of_the_length_of_the_pictures(tmp_path: Path) -> None:
    silent = _render(_build_spec(2), tmp_path, "silent")
    loud = _render(_build_spec(2)._replace(audio=True), tmp_path, "loud")
    assert audio_seconds(silent) is None
    assert audio_seconds(loud) == pytest.approx(2, abs=0.05)
    assert len(decode(loud)) == len(decode(silent)) == 2 * FPS
    with av.open(str(loud)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        samples = b"".join(bytes(frame.planes[0]) for frame in container.decode(audio=0))
    assert any(samples)


def test_a_mark_is_in_the_picture_unless_it_is_declined(tmp_path: Path) -> None:
    marked = decode(_render(_build_spec(), tmp_path, "marked"))[0]
    plain = decode(_render(_build_spec()._replace(watermark=False), tmp_path, "plain"))[0]
    corner = (marked.width // 2, 0, marked.width, marked.height // 5)
    difference = ImageChops.difference(marked.crop(corner), plain.crop(corner)).getextrema()
    assert max(high for _, high in difference) > 80
