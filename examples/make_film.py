"""Make a film of eight shots on the emulator, which costs nothing, and check it by decoding it: `make film`.

    python examples/make_film.py [FOLDER]

A chain of shots that continue each other, two takes, an approval that this script gives, a clip made by hand,
crossfades, music and captions, as examples/feature.yaml says. A second run finds everything and makes nothing.
"""

import asyncio
import math
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import av
from PIL import Image, ImageChops, ImageDraw

from prefect_video import Project, ProjectReport, SessionRef, load_project, open_session, run_project

HERE = Path(__file__).parent
COMMAND = Path(sys.executable).with_name("prefect-video")
RATE, FPS = 48_000, 24
CLIP_SECONDS, MUSIC_SECONDS = 2, 12


def write_music(path: Path) -> None:
    """Write a bed of three soft tones, whose chord changes every four seconds."""
    chords = ((220.0, 277.2, 329.6), (196.0, 246.9, 293.7), (174.6, 220.0, 261.6))
    with av.open(str(path), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for begin in range(0, MUSIC_SECONDS * RATE, 4_000):
            chord = chords[begin // (4 * RATE) % len(chords)]
            samples = (
                int(3_000 * sum(math.sin(2 * math.pi * hz * at / RATE) for hz in chord))
                for at in range(begin, begin + 4_000)
            )
            frame = av.AudioFrame(format="s16", layout="mono", samples=4_000)
            frame.planes[0].update(struct.pack("<4000h", *samples))
            frame.sample_rate, frame.pts = RATE, begin
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def write_clip(path: Path) -> None:
    """Write the clip that was made by hand: a disc that rises, without sound."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 854, 480, "yuv420p"
        for number in range(CLIP_SECONDS * FPS):
            picture = Image.new("RGB", (854, 480), "#2b1a12")
            top = 300 - 4 * number
            ImageDraw.Draw(picture).ellipse((367, top, 487, top + 120), fill="#e8a33d")
            output.mux(stream.encode(av.VideoFrame.from_image(picture)))
        output.mux(stream.encode(None))


def prepare(folder: Path) -> Project:
    """Put the project, its music and its clip into a folder; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in (("music.wav", write_music), ("logo.mp4", write_clip)):
        if not (folder / name).exists():
            write(folder / name)
    shutil.copyfile(HERE / "feature.yaml", folder / "feature.yaml")
    return load_project(folder / "feature.yaml")


async def make(folder: Path, project: Project) -> ProjectReport:
    """Make what can be made now."""
    ref = SessionRef.from_names("emulator", str(folder / "videos"), str(folder / "ledger.db"))
    async with await open_session(ref) as session:
        return await run_project(session, project)


def command(folder: Path, *arguments: str) -> None:
    """Run `prefect-video` on the ledger of the folder."""
    subprocess.run([COMMAND, *arguments, "--ledger", folder / "ledger.db"], check=True)


def read_frames(uri: str) -> list[Image.Image]:
    """Decode all pictures of a stored video."""
    with av.open(unquote(urlsplit(uri).path)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def psnr(first: Image.Image, second: Image.Image) -> float:
    """Return the peak signal-to-noise ratio of two pictures in decibels."""
    histogram = ImageChops.difference(first.convert("RGB"), second.convert("RGB")).histogram()
    squares = sum(count * (index % 256) ** 2 for index, count in enumerate(histogram))
    return 10 * math.log10(255**2 / max(squares / (first.width * first.height * 3), 1e-9))


def upper(picture: Image.Image) -> Image.Image:
    """Return the part of a picture that no caption covers."""
    return picture.crop((0, 0, picture.width, picture.height * 6 // 10))


def require(is_met: bool, what: str) -> None:
    """Print a check that holds; end with status 1 where it does not."""
    print(("ok     " if is_met else "FAILED ") + what)
    if not is_met:
        raise SystemExit(1)


def joins(project: Project, seconds: dict[str, float]) -> Iterator[tuple[str, str, float, float]]:
    """Yield each crossfade of two clips: the shots, the second of the film at its middle, and its length.

    At last the film's end is yielded, as a crossfade of length 0.
    """
    cut = project.cut
    assert cut is not None
    assert cut.title_card is not None
    assert cut.end_card is not None
    at, before = cut.title_card.seconds, ""
    for clip in cut.order or ():
        transition = clip.transition or cut.transition
        length = transition.length_seconds
        at -= length
        if before and length:
            yield before, clip.shot, at + length / 2, length
        at, before = at + seconds[clip.shot] - clip.trim.start, clip.shot
    yield before, "", at - cut.transition.length_seconds + cut.end_card.seconds, 0.0


def check(project: Project, report: ProjectReport) -> None:
    """Check the film by its decoded pictures."""
    assert report.film is not None
    require(report.film.uri is not None, f"the film: {report.film.summary()}")
    assert report.film.uri is not None
    chosen = {shot.shot_id: shot for shot in report.shots if shot.choice in (None, "chosen")}
    frames = {shot_id: read_frames(shot.uri or "") for shot_id, shot in chosen.items()}
    for parent, child in (("dawn", "rows"), ("rows", "hands")):
        found = psnr(frames[parent][-1], frames[child][0])
        require(found > 35, f"{child} begins with the last frame of {parent}: PSNR {found:.1f} dB")
    film = read_frames(report.film.uri)
    trims = {clip.shot: clip.trim.start for clip in (project.cut.order if project.cut else None) or ()}
    *crossfades, (_, _, end, _) = joins(project, {name: len(clip) / FPS for name, clip in frames.items()})
    length = len(film) / FPS
    require(abs(length - end) <= 0.1, f"the film lasts {length:.2f} s, {end:.2f} s were requested")
    for before, after, at, fade in crossfades:
        leaving = upper(frames[before][round(-fade / 2 * FPS)].resize(film[0].size))
        coming = upper(frames[after][round((trims[after] + fade / 2) * FPS)].resize(film[0].size))
        shown = upper(film[round(at * FPS)])
        blended = psnr(shown, Image.blend(leaving, coming, 0.5))
        alone = max(psnr(shown, leaving), psnr(shown, coming))
        require(blended > alone + 3, f"{before} fades into {after}: PSNR {blended:.1f} dB, {alone:.1f} dB of one alone")


def main() -> None:
    """Make the film, approve what waits, and check the result."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "film").absolute()
    os.environ.setdefault("PREFECT_VIDEO_EMULATOR_SPEED", "30")
    project = prepare(folder)
    report = asyncio.run(make(folder, project))
    if report.awaits_approval:
        print(report.summary())
        command(folder, "approve", project.name)
        command(folder, "approve", project.name, "--yes")
        report = asyncio.run(make(folder, project))
    print(report.summary())
    if report.has_failed:
        raise SystemExit(1)
    check(project, report)
    command(folder, "gallery", project.name, "--store", str(folder / "videos"))


if __name__ == "__main__":
    main()
