"""`shot`: one video from a prompt."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from pydantic import ValidationError

from prefect_video.cli.commands.run import RunOptions, run_and_report
from prefect_video.cli.options import JsonFlag, QuietFlag, RebuyMissingFlag, RefreshFlag, SessionOptions
from prefect_video.errors import InvalidInput
from prefect_video.field_errors import describe_errors
from prefect_video.projects import Project
from prefect_video.session import DEFAULT_PROJECT
from prefect_video.shots import slug


def shot(
    prompt: Annotated[str, Parameter(help="What the video shows.")],
    /,
    *,
    id: Annotated[str | None, Parameter(help="The shot's name. Default: the prompt's first words.")] = None,
    project: Annotated[str, Parameter(help="The folder in the store and the name in the ledger.")] = DEFAULT_PROJECT,
    model: Annotated[str | None, Parameter(help="The provider's name of the model. Default: sora-2.")] = None,
    duration: Annotated[str | None, Parameter(help="Whole seconds, 1 to 60. Default: 10.")] = None,
    aspect_ratio: Annotated[str | None, Parameter(help="Such as `16:9`, `9:16`, `4:3`. Default: 16:9.")] = None,
    resolution: Annotated[str | None, Parameter(help="`360p` to `4k`, such as `720p`. Default: 1080p.")] = None,
    first_frame: Annotated[str | None, Parameter(help="Image with which it begins: a path or an https URL.")] = None,
    last_frame: Annotated[str | None, Parameter(help="Image with which it ends: a path or an https URL.")] = None,
    audio: Annotated[bool | None, Parameter(help="With sound, or without. Default: as the model does.")] = None,
    session: SessionOptions = SessionOptions(),  # noqa: B008 -- frozen
    refresh: RefreshFlag = False,
    rebuy_missing: RebuyMissingFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Make one video from a prompt; the same prompt again is found, not paid for.

    Try:

        prefect-video shot "A lighthouse in fog, slow push-in" --duration 5 --resolution 720p
    """
    fields = {
        "id": id or slug(prompt),
        "prompt": prompt,
        "model": model,
        "duration": _parse_number(duration),
        "aspect_ratio": aspect_ratio,
        "resolution": resolution,
        "first_frame": first_frame,
        "last_frame": last_frame,
        "audio": audio,
    }
    # An option that is not given must not override the shot's default.
    data = {name: value for name, value in fields.items() if value is not None}
    return run_and_report(
        lambda: _parse_project({"project": project, "shots": [data]}),
        RunOptions(session=session, refresh=refresh, rebuy_missing=rebuy_missing, json=json, quiet=quiet),
    )


def _parse_number(text: str | None) -> int | str | None:
    """Return a whole number, or the text itself, about which the model's own message is the better one."""
    return int(text) if text is not None and text.strip().lstrip("-").isdecimal() else text


def _parse_project(data: dict[str, object]) -> Project:
    """Validate a project; raise `InvalidInput` with a line per mistake."""
    try:
        return Project.model_validate(data)
    except ValidationError as error:
        raise InvalidInput("\n".join(describe_errors(error, data))) from error
