"""What a shot and a project may say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_video import Project, Shot
from prefect_video.frame_sizes import ALL_RESOLUTIONS, COMMON_RATIOS, Resolution, frame_size, nearest_ratio
from prefect_video.projects import Fallback
from prefect_video.shots import ShotDefaults, as_shot, slug


def shot(**given: object) -> Shot:
    return Shot.model_validate({"id": "a", "prompt": "a red balloon", **given})


@pytest.mark.parametrize("name", ["opening", "shot-1", "a.b", "A_1", "9"])
def test_plain_names_are_taken(name: str) -> None:
    assert shot(id=name).id == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "a..b", "a b", "é", "a.", "-a", "x" * 101]
)
def test_names_that_could_leave_their_folder_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        shot(id=name)


@pytest.mark.parametrize("duration", [0, -1, 61, 75, "10s", "10", 5.5, True])
def test_durations_that_no_provider_makes_are_refused(duration: object) -> None:
    with pytest.raises(ValidationError):
        shot(duration=duration)


def test_a_whole_float_is_a_duration() -> None:
    assert shot(duration=5.0).duration == 5


@pytest.mark.parametrize("prompt", ["", "   ", "x" * 32_001, 7, None])
def test_prompts_must_say_something_and_not_too_much(prompt: object) -> None:
    with pytest.raises(ValidationError):
        shot(prompt=prompt)


def test_shots_are_frozen_and_take_no_unknown_field() -> None:
    with pytest.raises(ValidationError):
        shot().duration = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        shot(length=3)


@pytest.mark.parametrize(
    ("ratio", "resolution", "size"),
    [
        ("16:9", "480p", (854, 480)),
        ("16:9", "720p", (1280, 720)),
        ("16:9", "1080p", (1920, 1080)),
        ("9:16", "720p", (720, 1280)),
        ("1:1", "1080p", (1080, 1080)),
        ("16:9", "2160p", (3840, 2160)),
        ("4:3", "540p", (720, 540)),
        ("3:4", "768p", (768, 1024)),
        ("21:9", "360p", (840, 360)),
        ("adaptive", "720p", (1280, 720)),
    ],
)
def test_frame_sizes(ratio: str, resolution: str, size: tuple[int, int]) -> None:
    assert frame_size(ratio, resolution) == size  # type: ignore[arg-type]


def test_defaults_fill_what_a_shot_leaves_out_and_nothing_else() -> None:
    project = Project.model_validate(
        {
            "project": "ad",
            "defaults": {"duration": 8, "resolution": "720p"},
            "shots": [{"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y", "duration": 5}],
        }
    )
    assert [(s.duration, s.resolution) for s in project.shots] == [(8, "720p"), (5, "720p")]


def test_null_means_unset_wherever_a_field_may_be_left_out() -> None:
    nulls = dict.fromkeys(set(Shot.model_fields) - {"id", "prompt"})
    assert shot(**nulls) == shot()
    project = {
        **dict.fromkeys(set(Project.model_fields) - {"name", "shots"}),
        "project": "ad",
        "shots": [{"id": "a", "prompt": "x", **nulls}],
    }
    assert Project.model_validate(project) == Project(name="ad", shots=(Shot(id="a", prompt="x"),))
    given = {**project, "defaults": {"duration": 8, "metadata": {"team": "film"}, "seed": None, "takes": 2}}
    (made,) = Project.model_validate(given).shots
    assert (made.duration, made.metadata, made.seed, made.takes) == (8, {"team": "film"}, None, 2)
    with pytest.raises(ValidationError, match="names what to give up"):
        Project.model_validate({**project, "fallbacks": [dict.fromkeys(Fallback.model_fields)]})


@pytest.mark.parametrize("field", ["id", "prompt"])
def test_null_is_no_value_for_what_must_be_given(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        shot(**{field: None})
    with pytest.raises(ValidationError, match="Extra inputs"):
        shot(length=None)


def test_defaults_fill_what_a_shot_object_leaves_out_too() -> None:
    shots = (Shot(id="a", prompt="x"), Shot(id="b", prompt="y", duration=10))
    project = Project(name="ad", defaults=ShotDefaults(duration=8), shots=shots)
    assert [shot.duration for shot in project.shots] == [8, 10]
    assert Project.model_validate(project.model_dump()) == project


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("field", ["budget_usd", "budget_videos", "max_attempts"])
def test_a_boolean_is_no_number_of_a_project(field: str, value: bool) -> None:
    with pytest.raises(ValidationError, match=field):
        Project.model_validate({"project": "ad", "shots": [{"id": "a", "prompt": "x"}], field: value})


_NUMBERS = ("duration", "seed", "fps", "num_frames", "num_inference_steps", "guidance_scale", "takes")


@pytest.mark.parametrize("field", _NUMBERS)
@pytest.mark.parametrize("place", ["shot", "defaults"])
def test_a_boolean_is_no_number_of_a_shot(field: str, place: str) -> None:
    values = {field: True}
    own, defaults = (values, {}) if place == "shot" else ({}, values)
    with pytest.raises(ValidationError, match=field):
        Project.model_validate({"project": "ad", "defaults": defaults, "shots": [{"id": "a", "prompt": "x", **own}]})


def test_a_project_survives_a_round_trip_through_json() -> None:
    project = Project.model_validate(
        {"project": "ad", "defaults": {"duration": 8}, "shots": [{"id": "a", "prompt": "x"}], "budget_usd": "2.50"}
    )
    assert Project.model_validate_json(project.model_dump_json(by_alias=True)) == project
    assert Project.model_validate_json(project.model_dump_json()) == project


@pytest.mark.parametrize(
    ("shots", "message"),
    [
        ([], "at least one"),
        ([{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}], "'a': this id is used twice"),
        ([{"id": "a", "prompt": "x"}, {"id": "A", "prompt": "y"}], "'A': this id is used twice"),
        ([{"id": "a", "prompt": "x", "depends_on": ["b"]}], "'b', which is not a shot"),
        ([{"id": "a", "prompt": "x", "depends_on": ["a"]}], "a → a"),
        (
            [
                {"id": "a", "prompt": "x", "depends_on": ["b"]},
                {"id": "b", "prompt": "x", "depends_on": ["c"]},
                {"id": "c", "prompt": "x", "depends_on": ["a"]},
            ],
            "circle: a → b → c → a",
        ),
    ],
)
def test_projects_that_do_not_hold_together_are_refused(shots: list[object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Project.model_validate({"project": "ad", "shots": shots})
    assert message in str(caught.value)


def test_a_long_chain_is_no_circle_and_does_not_exhaust_the_stack() -> None:
    shots = [{"id": f"s{n}", "prompt": "x", "depends_on": [f"s{n + 1}"] if n < 2999 else []} for n in range(3000)]
    assert len(Project.model_validate({"project": "long", "shots": shots}).shots) == 3000


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_a_circle_is_found_exactly_when_there_is_one(edges: list[tuple[int, int]]) -> None:
    needs = {n: sorted({b for a, b in edges if a == n}) for n in range(8)}
    left = dict(needs)
    while free := [n for n, needed in left.items() if not set(needed) & set(left)]:
        for n in free:
            del left[n]
    shots = [{"id": f"s{n}", "prompt": "x", "depends_on": [f"s{m}" for m in needed]} for n, needed in needs.items()]
    if left:
        with pytest.raises(ValidationError, match="circle"):
            Project.model_validate({"project": "p", "shots": shots})
    else:
        assert len(Project.model_validate({"project": "p", "shots": shots}).shots) == 8


@given(st.text(max_size=200))
def test_a_prompt_always_gives_a_usable_name(text: str) -> None:
    assert shot(id=slug(text)).id


def test_a_prompt_alone_is_a_shot() -> None:
    assert as_shot("A red balloon, over the sea!").id == "a-red-balloon-over-the-sea"
    assert as_shot(shot()) == shot()


def test_4k_is_another_spelling_of_2160p() -> None:
    assert [shot(resolution=text).resolution for text in ("4k", "4K", "2160p")] == ["2160p"] * 3


@pytest.mark.parametrize("ratio", ["16/9", "0:1", "16:0", "Adaptive", "1.85:1", "1000:1", ""])
def test_an_aspect_ratio_is_two_whole_numbers_or_adaptive(ratio: str) -> None:
    with pytest.raises(ValidationError):
        shot(aspect_ratio=ratio)


def test_options_are_json_of_a_bounded_size() -> None:
    options = {"camera": {"pan": [1, 2.5, None]}, "loop": True}
    assert shot(options=options).options == options
    for bad in ({"x": float("nan")}, {"x": {1, 2}}, {"x": "y" * 70_000}, {1: 2}):
        with pytest.raises(ValidationError):
            shot(options=bad)


@given(st.integers(1, 99), st.integers(1, 99), st.sampled_from(ALL_RESOLUTIONS))
def test_a_frame_is_even_and_has_the_shape_and_the_shorter_side_that_were_requested(
    width: int, height: int, resolution: Resolution
) -> None:
    across, down = frame_size(f"{width}:{height}", resolution)
    assert across % 2 == down % 2 == 0
    assert min(across, down) == int(resolution[:-1])
    # At most one pixel by rounding up, one by making it even.
    assert abs(max(across, down) - min(across, down) * max(width, height) / min(width, height)) <= 2
    assert (across >= down) == (width >= height) or across == down


@given(st.integers(1, 99), st.integers(1, 99))
def test_the_nearest_aspect_ratio_is_the_same_one_where_it_is_offered(width: int, height: int) -> None:
    ratio = f"{width}:{height}"
    nearest = nearest_ratio(ratio, [*COMMON_RATIOS, ratio])
    assert nearest is not None
    across, down = map(int, nearest.split(":"))
    assert across * height == down * width
    assert nearest_ratio(ratio, ["adaptive"]) == "adaptive"
