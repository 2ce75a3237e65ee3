"""What makes two requests the same video."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_video import Shot, fingerprint
from prefect_video.fingerprints import canonical_json


def of(take: int = 1, provider: str = "sora", digests: tuple[str, ...] = (), **given: object) -> str:
    shot = Shot.model_validate({"id": "a", "prompt": "a red balloon", **given})
    return fingerprint(shot, provider=provider, take=take, reference_digests=digests)


def test_it_is_stable_across_versions_of_this_package() -> None:
    # A change here makes every stored video be bought again: then the version prefix must change too.
    assert of() == "v1:fca7cdf1fa4b1b726de9c1126f2df61e8e128f02b0dde3c8aa1184aa2d3c70aa"


@pytest.mark.parametrize(
    ("fields", "digest"),
    [
        (
            {
                **{"prompt": "Dawn over a plantation", "duration": 8, "resolution": "720p", "aspect_ratio": "9:16"},
                **{"seed": 7, "negative_prompt": "rain", "metadata": {"a": "b"}, "takes": 3},
            },
            "976e632e39654b794bc57d50a2057dc761876a720b5a067931b6cb427b9cde78",
        ),
        (
            {
                **{"prompt": "É\tcafé", "model": "veo-3", "size": "1792x1024", "fps": 24, "num_frames": 97},
                **{"num_inference_steps": 30, "guidance_scale": 5.0},
            },
            "8db12820e8b8e51d7956c9c3ac145dd873e833f006992e6a7dde3f791e1f0f03",
        ),
        (
            {"prompt": "x", "guidance_scale": 2.5, "num_frames": None, "duration": 5.0},
            "3ba5fbcddd43b35ea27a49808c86203d26037bf4263a777398905036755a5dc8",
        ),
        (
            {"prompt": "x", "references": ["a.png"]},
            "42b3cfbacdbf3c1cac114f90ff3c12e02ad3c98466fb5668bbf805e9f8239a3b",
        ),
    ],
)
def test_every_field_counts_as_it_always_has(fields: dict[str, object], digest: str) -> None:
    digests = ("ab" * 32,) if "references" in fields else ()
    assert of(digests=digests, **fields) == f"v1:{digest}"


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "a blue balloon"},
        {"model": "sora-2-pro"},
        {"duration": 5},
        {"aspect_ratio": "1:1"},
        {"resolution": "720p"},
        {"seed": 0},
        {"negative_prompt": "cars"},
        {"fps": 24},
        {"num_frames": 81},
        {"num_inference_steps": 30},
        {"guidance_scale": 5},
        {"take": 2},
        {"provider": "openrouter"},
        {"references": ["a.png"], "digests": ("00",)},
    ],
)
def test_everything_that_changes_the_output_changes_it(other: dict[str, object]) -> None:
    assert of(**other) != of()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "same",
    [
        {"id": "another"},
        {"metadata": {"client": "x"}},
        {"takes": 3},
        {"duration": 10},
        {"duration": 10.0},
        {"seed": None},
        {"model": "sora-2"},
    ],
)
def test_names_labels_and_spelled_out_defaults_do_not(same: dict[str, object]) -> None:
    assert of(**same) == of()  # type: ignore[arg-type]


def test_references_count_by_content_and_order_not_by_path() -> None:
    assert of(references=["a.png"], digests=("00",)) == of(references=["b/c.png"], digests=("00",))
    assert of(references=["a", "b"], digests=("00", "01")) != of(references=["a", "b"], digests=("01", "00"))


@pytest.mark.parametrize(
    "other",
    [
        {"options": {"camera": "fixed"}},
        {"options": {"camera": None}},
        {"audio": True},
        {"audio": False},
        {"watermark": False},
        {"aspect_ratio": "adaptive"},
        {"resolution": "2160p"},
        {"duration": 60},
    ],
)
def test_each_later_field_counts_where_it_is_set(other: dict[str, object]) -> None:
    assert of(**other) != of()  # type: ignore[arg-type]


def test_later_fields_do_not_count_where_they_are_unset() -> None:
    unset = {"first_frame": None, "last_frame": None, "audio": None, "watermark": None, "options": {}}
    assert of(**unset) == of()  # type: ignore[arg-type]
    assert of(options={"a": 1.0, "b": 2}) == of(options={"b": 2, "a": 1})
    assert of(resolution="4k") == of(resolution="2160p")


def test_frames_count_by_content_and_place_not_by_path() -> None:
    def framed(path: str, **digests: str) -> str:
        shot = Shot.model_validate({"id": "a", "prompt": "x", **dict.fromkeys(digests, path)})
        return fingerprint(shot, provider="sora", frame_digests=digests)

    assert framed("a.png", first_frame="00") == framed("https://example.com/b.png", first_frame="00")
    assert len({framed("a", first_frame="00"), framed("a", last_frame="00"), framed("a", first_frame="01")}) == 3
    with pytest.raises(ValueError, match="digest"):
        fingerprint(Shot(id="a", prompt="x", last_frame="a.png"), provider="sora", frame_digests={"first_frame": "00"})


def test_references_without_digests_are_refused() -> None:
    with pytest.raises(ValueError, match="digest"):
        of(references=["a.png"])


@given(st.text(min_size=1, max_size=50).filter(str.strip))
def test_unicode_spellings_of_one_prompt_are_one(text: str) -> None:
    assert of(prompt=unicodedata.normalize("NFD", text)) == of(prompt=unicodedata.normalize("NFC", text))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_canonical_json_is_one_spelling(value: object) -> None:
    import json

    once = canonical_json(value)
    assert canonical_json(json.loads(once)) == once


def test_whole_floats_and_integers_are_one_number() -> None:
    assert (
        canonical_json({"b": 5.0, "a": [1, 2.5]}) == canonical_json({"a": (1.0, 2.5), "b": 5}) == '{"a":[1,2.5],"b":5}'
    )
