"""Videos made of other videos, characters and pictures: what the OpenAI Videos dialect has besides shots.

All of it is beside the ledger: nothing is reserved, remembered or found again, no budget counts it, and whoever calls
keeps the id that comes back. Paid requests are sent once, as everywhere.
"""

from __future__ import annotations

import asyncio
import mimetypes
from abc import abstractmethod
from pathlib import Path
from typing import Literal

from prefect_video.errors import InvalidInput, UnreadableAnswer, Unsupported
from prefect_video.generations import Generation
from prefect_video.http import ApiClient, Part
from prefect_video.providers.answers import Wire, accepted_unread, read
from prefect_video.providers.openai_jobs import path_part
from prefect_video.providers.openai_profiles import Profile
from prefect_video.providers.openai_requests import Body

Variant = Literal["thumbnail", "spritesheet"]
"""A picture of a finished video."""


class Character(Wire):
    """Somebody whom later videos can show.

    Attributes:
        id: The server's id.
        name: As it was given.
    """

    id: str
    name: str = ""


class DerivedVideos:
    """The calls, for a provider that has the rest."""

    profile: Profile
    name: str
    _api: ApiClient

    @abstractmethod
    async def _buy(self, path: str, body: Body) -> Generation:
        """Sends a paid request once and reads the generation that it began."""

    async def remix(self, generation_id: str, prompt: str) -> Generation:
        """Asks once for a finished video to be made anew with changes; a paid request, beside any ledger.

        Raises:
            Unsupported: This server has no such call.
            RequestRefused: Nothing was accepted.
            SubmitUnknown: Nobody knows.
        """
        self._demand("remix")
        return await self._buy(f"/videos/{path_part(generation_id)}/remix", Body(json={"prompt": prompt}))

    async def edit(self, video: str | Path, prompt: str) -> Generation:
        """Asks once for a change to a video; a paid request, beside any ledger.

        Args:
            video: A finished generation's id, or a file.
            prompt: What is to be different.

        Raises:
            InvalidInput: The file cannot be read; nothing was sent.
            ProviderError: As for `remix`.
        """
        self._demand("edit")
        if isinstance(video, Path):
            return await self._buy("/videos/edits", Body(form=(("prompt", (None, prompt)), await _file(video))))
        return await self._buy("/videos/edits", Body(json={"prompt": prompt, "video": {"id": video}}))

    async def extend(self, generation_id: str, prompt: str, *, seconds: int) -> Generation:
        """Asks once for a finished video to go on for some seconds; a paid request, beside any ledger.

        Raises:
            ProviderError: As for `remix`.
        """
        self._demand("extend")
        asked = {"prompt": prompt, "seconds": str(seconds), "video": {"id": generation_id}}
        return await self._buy("/videos/extensions", Body(json=asked))

    async def create_character(self, name: str, video: Path) -> Character:
        """Makes a character of a video in which it can be seen; sent once, beside any ledger.

        Raises:
            InvalidInput: The file cannot be read; nothing was sent.
            ProviderError: As for `remix`.
        """
        self._demand("make characters")
        form = (("name", (None, name)), await _file(video))
        response = await self._api.send_once("POST", "/videos/characters", form=form)
        try:
            return read(Character, response, provider=self.name)
        except UnreadableAnswer as error:
            raise accepted_unread(error, response, provider=self.name) from error

    async def character(self, character_id: str) -> Character:
        """Reads a character.

        Raises:
            NotFound: The server does not know the id.
        """
        self._demand("make characters")
        response = await self._api.send("GET", f"/videos/characters/{path_part(character_id)}")
        return read(Character, response, provider=self.name)

    async def picture(self, generation_id: str, variant: Variant = "thumbnail") -> bytes:
        """A picture of a finished video, as the server makes it; the video itself goes through `source`.

        Raises:
            NotFound: There is no such video, or it is not finished.
            UnreadableAnswer: What came is no picture.
        """
        response = await self._api.send(
            "GET", f"/videos/{path_part(generation_id)}/content", params={"variant": variant}
        )
        if not response.headers.get("content-type", "").startswith("image/"):
            raise UnreadableAnswer(
                f"{self.name}: the {variant} of {generation_id} is no picture; this server may have none",
                provider=self.name,
                generation_id=generation_id,
            )
        return response.content

    def _demand(self, what: str) -> None:
        if not self.profile.remixes:
            raise Unsupported(f"{self.profile.title} cannot {what}; submit a new shot")


async def _file(path: Path) -> tuple[str, Part]:
    try:
        content = await asyncio.to_thread(path.read_bytes)
    except OSError as error:
        raise InvalidInput(f"video: cannot read {path}: {error.strerror}; nothing was sent") from error
    return "video", (path.name, content, mimetypes.guess_type(path.name)[0] or "video/mp4")
