"""Capabilities: rejection of a shot that they do not cover, and adaptation to the nearest that they do."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_video import Shot
from prefect_video.errors import Unsupported
from prefect_video.providers.base import Capabilities
from prefect_video.providers.capabilities import adapt, check_supported

OFFERED = Capabilities(
    sizes={"480p": 10, "720p": 8}, aspect_ratios=("16:9", "9:16"), durations=(4, 6, 8, 10), optional_fields=("seed",)
)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"resolution": "1080p"}, "resolution: wan has no 1080p; it has 480p, 720p"),
        ({"resolution": "720p", "duration": 10}, "duration: wan makes at most 8 s at 720p, not 10 s"),
        ({"resolution": "480p", "duration": 5}, "duration: wan makes no 5 s; the nearest is 6 s"),
        (
            {"resolution": "480p", "duration": 4, "aspect_ratio": "1:1"},
            "aspect_ratio: wan has no 1:1; it has 16:9, 9:16",
        ),
        ({"resolution": "480p", "duration": 4, "fps": 24}, "fps: wan takes none"),
    ],
)
def test_what_does_not_fit_is_named_with_the_nearest_that_does(given: dict[str, object], message: str) -> None:
    with pytest.raises(Unsupported) as caught:
        check_supported(Shot.model_validate({"id": "a", "prompt": "x", **given}), OFFERED, by="wan")
    assert str(caught.value).startswith(f"shot 'a': {message}")


def test_what_fits_passes_and_is_not_changed() -> None:
    shot = Shot(id="a", prompt="x", duration=4, resolution="480p", seed=0)
    check_supported(shot, OFFERED, by="wan")
    assert adapt(shot, OFFERED) == (shot, [])


@given(
    st.integers(1, 20),
    st.sampled_from(["480p", "720p", "1080p"]),
    st.none() | st.integers(1, 60),
    st.none() | st.integers(0, 9),
)
def test_what_is_adapted_fits_and_says_what_was_changed(
    duration: int, resolution: str, fps: int | None, seed: int | None
) -> None:
    fields = {"id": "a", "prompt": "x", "duration": duration, "resolution": resolution, "fps": fps, "seed": seed}
    shot = Shot.model_validate(fields)
    adapted, changes = adapt(shot, OFFERED)
    check_supported(adapted, OFFERED, by="wan")
    changed = [field for field in fields if getattr(shot, field) != getattr(adapted, field)]
    assert sorted(line.split(":")[0] for line in changes) == sorted(changed)
    assert adapted.seed == seed


def frames(number: int, **changes: object) -> Shot:
    return Shot.model_validate({"id": "a", "prompt": "x", "resolution": "480p", "num_frames": number, **changes})


FRAMES = Capabilities(
    sizes={"480p": 6}, aspect_ratios=("16:9",), durations=(5, 6), optional_fields=("num_frames", "fps")
)


def test_a_number_of_frames_is_a_length() -> None:
    check_supported(frames(81, fps=16), FRAMES, by="wan")
    assert adapt(frames(81, fps=16), FRAMES) == (frames(81, fps=16), [])
    for number, message in ((2400, "makes at most 6 s at 480p, not 150 s"), (48, "makes no 3 s; the nearest is 5 s")):
        with pytest.raises(Unsupported, match=f"num_frames: wan {message}"):
            check_supported(frames(number, fps=16), FRAMES, by="wan")


def test_frames_that_are_not_taken_become_the_nearest_duration() -> None:
    adapted, changes = adapt(frames(33, fps=16), OFFERED)
    assert (adapted.num_frames, adapted.fps, adapted.duration) == (None, None, 4)
    assert changes == ["num_frames: 33 became None", "duration: 10 became 4", "fps: 16 became None"]
    adapted, changes = adapt(frames(2400, fps=16, duration=5), FRAMES)
    assert (adapted.num_frames, adapted.fps, adapted.duration) == (None, 16, 6)
    assert changes == ["num_frames: 2400 became None", "duration: 5 became 6"]


@pytest.mark.parametrize(("most", "kept"), [(0, 0), (1, 1), (2, 2), (None, 3)])
def test_references_beyond_those_that_are_taken_are_not_dropped_in_silence(most: int | None, kept: int) -> None:
    offered = replace(OFFERED, optional_fields=("references",), max_references=most)
    shot = Shot(id="a", prompt="x", duration=4, resolution="480p", references=("a.png", "b.png", "c.png"))
    if kept < 3:
        with pytest.raises(Unsupported, match=f"references: wan takes {kept}, not 3"):
            check_supported(shot, offered, by="wan")
    adapted, changes = adapt(shot, offered)
    assert adapted.references == shot.references[:kept]
    assert bool(changes) == (kept < 3)
    check_supported(adapted, offered, by="wan")


def test_a_model_without_a_size_that_shots_know_is_unsupported() -> None:
    nothing = replace(OFFERED, sizes={})
    with pytest.raises(Unsupported, match="resolution: wan has no 480p; it has none that a shot can ask for"):
        check_supported(frames(81), nothing, by="wan")
    with pytest.raises(Unsupported, match="shot 'a': resolution: none is offered"):
        adapt(frames(81), nothing)


SIZED = replace(OFFERED, optional_fields=("size",))


def test_an_exact_size_wins_where_it_is_taken() -> None:
    shot = Shot(id="a", prompt="x", duration=4, size="1792x1024")
    assert shot.frame_size == (1792, 1024)
    check_supported(shot, SIZED, by="wan")
    assert adapt(shot, SIZED) == (shot, [])
    with pytest.raises(Unsupported, match="duration: wan makes at most 10 s at 1792x1024, not 20 s"):
        check_supported(shot.model_copy(update={"duration": 20}), SIZED, by="wan")


@pytest.mark.parametrize(("size", "ratio", "resolution"), [("1792x1024", "16:9", "720p"), ("480x832", "9:16", "480p")])
def test_a_size_that_is_not_taken_becomes_the_usual_one_of_its_shape(size: str, ratio: str, resolution: str) -> None:
    shot = Shot(id="a", prompt="x", duration=4, size=size)
    adapted, _ = adapt(shot, OFFERED)
    assert (adapted.size, adapted.aspect_ratio, adapted.resolution) == (None, ratio, resolution)
    check_supported(adapted, OFFERED, by="wan")


def test_a_size_of_another_shape_is_another_picture() -> None:
    shot = Shot(id="a", prompt="x", duration=4, size="1024x320")
    adapted, changes = adapt(shot, OFFERED)
    assert (adapted, changes) == (shot, [])
    with pytest.raises(Unsupported, match="size: wan takes none"):
        check_supported(adapted, OFFERED, by="wan")


@pytest.mark.parametrize("size", ["1792", "1792X1024", "0x480", "1792x", "99x100", "10000x500", "1792 x 1024"])
def test_what_is_no_size(size: str) -> None:
    with pytest.raises(ValidationError, match="size"):
        Shot(id="a", prompt="x", size=size)


def test_an_address_that_is_given_up_is_shown_without_its_signature() -> None:
    shot = Shot(id="a", prompt="x", first_frame="https://example.com/a.png?sig=secret", references=("b.png",))
    offered = Capabilities(sizes={"1080p": 20}, aspect_ratios=("16:9",))
    adapted, changes = adapt(shot, offered)
    assert (adapted.first_frame, adapted.references) == (None, ())
    assert changes == [
        "first_frame: 'https://example.com/a.png?…' became None",
        "references: ('b.png',) became ()",
    ]
