"""What fits a provider, what is said when it does not, and the nearest that does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_video import Shot
from prefect_video.errors import Unsupported
from prefect_video.providers.base import Capabilities
from prefect_video.providers.fitting import adapt, check_fit

OFFERED = Capabilities(
    sizes={"480p": 10, "720p": 8}, aspect_ratios=("16:9", "9:16"), durations=(4, 6, 8, 10), takes=("seed",)
)


@pytest.mark.parametrize(
    ("given", "said"),
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
def test_what_does_not_fit_is_named_with_the_nearest_that_does(given: dict[str, object], said: str) -> None:
    with pytest.raises(Unsupported) as caught:
        check_fit(Shot.model_validate({"id": "a", "prompt": "x", **given}), OFFERED, by="wan")
    assert str(caught.value).startswith(f"shot 'a': {said}")


def test_what_fits_passes_and_is_not_changed() -> None:
    shot = Shot(id="a", prompt="x", duration=4, resolution="480p", seed=0)
    check_fit(shot, OFFERED, by="wan")
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
    asked = {"id": "a", "prompt": "x", "duration": duration, "resolution": resolution, "fps": fps, "seed": seed}
    shot = Shot.model_validate(asked)
    adapted, said = adapt(shot, OFFERED)
    check_fit(adapted, OFFERED, by="wan")
    changed = [field for field in asked if getattr(shot, field) != getattr(adapted, field)]
    assert sorted(line.split(":")[0] for line in said) == sorted(changed)
    assert adapted.seed == seed
