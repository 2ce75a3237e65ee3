"""The file of hosted models: it is complete, and every shot that passes its check can be requested."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_video import Shot
from prefect_video.downloads import IMAGE_LIMIT_BYTES
from prefect_video.errors import RequestRejected, Unsupported
from prefect_video.providers.base import OPTIONAL_FIELDS, Capabilities
from prefect_video.providers.capabilities import adapt, check_supported
from prefect_video.providers.hosted_models import ASPECT_RATIOS, RESOLUTIONS, HostedModels, ModelInput, _hosts
from prefect_video.providers.reference_images import image_urls

HOST = Capabilities(sizes=dict.fromkeys(RESOLUTIONS, 20), aspect_ratios=ASPECT_RATIOS)
JOBS = [job for host in _hosts().values() for job in host.models]
SHOTS = st.builds(
    Shot,
    id=st.just("a"),
    prompt=st.just("a cat"),
    duration=st.integers(1, 20),
    resolution=st.sampled_from(RESOLUTIONS),
    aspect_ratio=st.sampled_from(ASPECT_RATIOS),
    seed=st.none() | st.integers(0, 9),
    fps=st.none() | st.integers(8, 30),
    num_frames=st.none() | st.integers(8, 200),
    negative_prompt=st.none() | st.just("people"),
)


@pytest.mark.parametrize("host", sorted(_hosts()))
def test_each_host_knows_its_aliases_and_every_other_model(host: str) -> None:
    models = HostedModels(host, {"ours": "me/mine"})
    for alias, name in {**_hosts()[host].aliases, "ours": "me/mine"}.items():
        shot = Shot(id="a", prompt="a cat", model=alias)
        assert models.name(shot) == name
        assert models.input(shot).match in (name, f"{name}*", "*")
    assert _hosts()[host].models[-1].match == "*"


@pytest.mark.parametrize("job", JOBS, ids=lambda job: str(job.match))
def test_jobs_name_fields_of_a_shot(job: ModelInput) -> None:
    known = {"prompt", "duration", "aspect_ratio", "resolution", *OPTIONAL_FIELDS}
    assert set(job.fields) <= known
    assert set(job.values) <= set(job.fields)
    assert "prompt" in job.fields
    assert "duration" in job.fields or (job.frames_per_second and {"num_frames", "fps"} <= set(job.fields))
    assert "resolution" in job.fields or len(job.resolutions) == 1
    assert "aspect_ratio" in job.fields or len(job.aspect_ratios) == 1
    assert job.source or job.match == "*"


@given(shot=SHOTS, job=st.sampled_from(JOBS))
def test_a_shot_that_fits_is_asked_for_whole(shot: Shot, job: ModelInput) -> None:
    capabilities_for = job.narrow(HOST)
    fitting, _ = adapt(shot, capabilities_for)
    fitting = fitting.model_copy(update={"aspect_ratio": next(iter(capabilities_for.aspect_ratios))})
    check_supported(fitting, capabilities_for, by="it")
    arguments = job.arguments(fitting)
    assert arguments["prompt"] == "a cat"
    assert set(arguments) <= set(job.fields.values())
    for name in OPTIONAL_FIELDS:
        if getattr(fitting, name) not in (None, (), {}):
            assert arguments[job.fields[name]] == getattr(fitting, name)
    frames = arguments.get(job.fields.get("num_frames", ""))
    if isinstance(frames, int):
        rate = arguments[job.fields["fps"]]
        assert isinstance(rate, int)
        assert frames / rate == pytest.approx(fitting.length_seconds, abs=0.5)


def test_what_a_model_does_not_take_is_refused_not_dropped() -> None:
    models = HostedModels("replicate")
    shot = Shot(id="a", prompt="a cat", model="sora-2", duration=4, resolution="720p", seed=1)
    with pytest.raises(Unsupported, match="seed"):
        check_supported(shot, models.input(shot).narrow(HOST), by="it")


async def test_references_go_as_urls(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"png")
    shot = Shot(id="a", prompt="a cat", references=("https://x.example/a.png", str(picture)))
    assert await image_urls(shot, provider="fal") == {
        "references": ["https://x.example/a.png", "data:image/png;base64,cG5n"]
    }


async def test_references_that_cannot_be_sent_refuse_the_shot(tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(IMAGE_LIMIT_BYTES + 1)
    for path, message in ((tmp_path / "none.png", "cannot be read"), (large, "make it smaller")):
        with pytest.raises(RequestRejected, match=message) as refused:
            await image_urls(Shot(id="a", prompt="a cat", references=(str(path),)), provider="fal")
        assert refused.value.accepted is False
