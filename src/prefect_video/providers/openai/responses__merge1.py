"""A job of the OpenAI Videos dialect, in the spelling of any server that speaks it, and the ids of jobs."""

from __future__ import annotations

import base64
import re
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import AfterValidator

from prefect_video.errors import InvalidInput
from prefect_video.generations import ProviderFault, VideoResult
from prefect_video.http_bodies import usable_number
from prefect_video.providers.answers import Loose, moment


class _Fault(Loose):
    code: str | int | None = None
    type: str | None = None
    message: str | None = None


def _usable(generation_id: str) -> str:
    try:
        path_part(generation_id)
    except InvalidInput as error:
        raise ValueError("not an id that can be asked for") from error
    return generation_id


class Job(Loose):
    """A job as servers tell it; only id and status are certain."""

    id: Annotated[str, AfterValidator(_usable)]
    status: str
    model: str | None = None
    prompt: str | None = None
    created_at: float | str | None = None
    expires_at: float | str | None = None
    progress: float | None = None
    seconds: str | float | None = None
    duration: float | None = None
    duration_s: float | None = None
    num_frames: int | None = None
    fps: float | None = None
    size: str | None = None
    url: str | None = None
    file_path: str | None = None
    error: _Fault | str | None = None

    @property
    def length(self) -> float | None:
        """Seconds; what an engine has measured counts before what was asked for."""
        told = (self.duration_s, self.seconds, self.duration)
        return next((seconds for one in told if (seconds := number_of(one)) is not None), None)

    def parameters(self) -> dict[str, Any]:
        """What was asked for, as far as it is told."""
        asked = {"seconds": self.length, "size": self.size or None, "num_frames": self.num_frames, "fps": self.fps}
        return {name: value for name, value in asked.items() if value is not None}

    def key_in(self, output_folder: str | None) -> str | None:
        """The name of the folder below the output folder in which the file lies; None where it lies elsewhere."""
        folders = PurePosixPath((self.file_path or "").replace("\\", "/")).parts[:-1]
        if output_folder is None or output_folder not in folders[:-1]:
            return None
        return folders[folders.index(output_folder) + 1]

    def result(self, url: str) -> VideoResult:
        size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", self.size or "")
        return VideoResult(
            video_url=url,
            duration_seconds=self.length,
            width=int(size[1]) if size else None,
            height=int(size[2]) if size else None,
            expires_at=moment(self.expires_at),
        )

    @property
    def has_error(self) -> bool:
        """Whether an error is told, whatever the status."""
        return self.error not in (None, "", _Fault())

    def fault(self) -> ProviderFault:
        if isinstance(self.error, _Fault):
            code = "error" if self.error.code is None else str(self.error.code)
            return ProviderFault(code=code, type=self.error.type, message=self.error.message or "no reason given")
        return ProviderFault(code="error", message=self.error or "no reason given")


def path_part(generation_id: str) -> str:
    """An id as a part of a path; proxies put slashes and plus signs into theirs.

    Raises:
        InvalidInput: No server gives such an id.
    """
    if not generation_id.isascii() or not generation_id.isprintable() or set(generation_id) <= {"."}:
        raise InvalidInput(f"generation id {generation_id!r} is not one of this dialect")
    return quote(generation_id, safe="")


def native_id(generation_id: str) -> str:
    """The id that the model's own server gave: LiteLLM wraps it, and for one video differently from call to call."""
    wrapped = generation_id.removeprefix("video_")
    try:
        text = base64.b64decode(wrapped + "=" * (-len(wrapped) % 4), validate=True).decode()
    except ValueError:
        return generation_id
    return text.rpartition(";video_id:")[2] if text.startswith("litellm:") else generation_id


def number_of(value: str | float | None) -> float | None:
    """A number, also where it is told as text; None for anything that is no length, count or share."""
    return usable_number(value)
