"""OpenRouter (`/api/v1/videos`): many models behind one key, each with limits and prices that it lists itself.

How its JSON is read is in `openrouter_wire`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final
from urllib.parse import urljoin

import httpx

from prefect_video.errors import (
    InvalidInput,
    InvalidResponse,
    Unsupported,
)
from prefect_video.generations import Generation, Status, VideoResult, WebhookEvent
from prefect_video.providers.base import Capabilities
from prefect_video.providers.capabilities import check_supported
from prefect_video.providers.hosted_models import ASPECT_RATIOS, LONGEST_SECONDS, RESOLUTIONS, own_aliases
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.http_provider import HttpProvider
from prefect_video.providers.openrouter import responses
from prefect_video.providers.pricing import listed_usd
from prefect_video.providers.reference_images import reference_urls
from prefect_video.providers.responses import unreadable_submit
from prefect_video.shots import Shot

logger = logging.getLogger(__name__)

BASE_URL: Final = "https://openrouter.ai/api/v1"
WEBHOOK_WINDOW_SECONDS: Final = 300.0
MODELS_FRESH_SECONDS: Final = 3600.0

_ALIASES: Final[Mapping[str, str]] = {"sora-2": "openai/sora-2", "sora-2-pro": "openai/sora-2-pro"}
_SIGNATURE: Final = re.compile(r"t=(\d{1,11}),v1=([0-9a-fA-F]{64})", re.ASCII)


class OpenRouterProvider(HttpProvider):
    """OpenRouter's video API.

    There is no list of jobs and no echo of a key, so an unanswered submit needs a human; a job cannot be cancelled.

    Args:
        api_key: Sent as a bearer token to `base_url` and nowhere else.
        base_url: Address of the API.
        webhook_secrets: Secrets that callbacks may be signed with; several while one is being rotated.
        models: Names in project files and the models they mean here.
        usd_per_second: What a second costs this account; None for the prices that the models list.
        name: What this provider is called.
        settings: Timeouts and repeats.
        transport: For tests at the transport boundary.

    Raises:
        InvalidInput: The key or the address is not usable.
    """

    sends_key_to_own_links = True

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str = BASE_URL,
        webhook_secrets: Sequence[str] = (),
        models: Mapping[str, str] | None = None,
        usd_per_second: Decimal | None = None,
        name: str = "openrouter",
        settings: HttpSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        capabilities = Capabilities(
            sizes=dict.fromkeys(RESOLUTIONS, LONGEST_SECONDS),
            aspect_ratios=ASPECT_RATIOS,
            can_list=False,
            can_cancel=False,
            lookup="none",
            optional_fields=("seed", "references"),
            max_references=None,
            aliases=own_aliases(models, _ALIASES),
        )
        super().__init__(
            name=name,
            api_key=api_key,
            base_url=base_url,
            capabilities=capabilities,
            error_from=lambda response: responses.read_error(response, provider=name),
            usd_per_second=usd_per_second,
            settings=settings,
            transport=transport,
        )
        self._webhook_secrets = tuple(webhook_secrets)
        self._aliases = {**_ALIASES, **(models or {})}
        self._models: Mapping[str, responses.Model] = {}
        self._models_read_at: float | None = None
        self._reading_models = asyncio.Lock()

    async def load_capabilities(self) -> None:
        """Reads what the models offer and charge, at most once an hour; until then nothing is known about them.

        Raises:
            ProviderError: There was no usable answer.
        """
        async with self._reading_models:
            now = asyncio.get_running_loop().time()
            if self._models_read_at is not None and now - self._models_read_at < MODELS_FRESH_SECONDS:
                return
            response = await self._api.send("GET", "/videos/models")
            self._models = responses.read_models(response, provider=self.name, host=self.capabilities)
            self._models_read_at = now

    async def check_access(self) -> None:
        """Reads what is known of the key; see `Provider.check_access`."""
        responses.read_key(await self._api.send("GET", "/key"), provider=self.name)

    def capabilities_for(self, shot: Shot) -> Capabilities:
        """What the shot's model can make, as far as it is known.

        Raises:
            Unsupported: The models are known and this is none of them.
        """
        name = self._model(shot)
        if not self._models:
            return self.capabilities
        if name not in self._models:
            like = sorted(self._models, key=lambda known: (known.split("/")[-1] != name.split("/")[-1], known))
            raise Unsupported(f"shot {shot.id!r}: model: {self.name} has no {name!r}; it has {', '.join(like[:10])}")
        return self._models[name].capabilities

    def check(self, shot: Shot) -> None:
        """Refuses a shot that its model cannot make, once the models are known; see `Provider.check`."""
        check_supported(shot, self.capabilities_for(shot), by=f"{self.name} model {self._model(shot)!r}")

    def estimate(self, shot: Shot) -> Decimal | None:
        """By the account's price, else the model's own, else the price table; see `Provider.estimate`."""
        price = self._usd_per_second
        model = self._models.get(self._model(shot))
        if price is None and model is not None:
            price = model.usd_per_second.get(shot.resolution)
        return listed_usd(self.name, shot.model_copy(update={"model": self._model(shot)}), usd_per_second=price)

    async def submit(
        self, shot: Shot, *, idempotency_key: str, project: str, webhook_url: str | None = None
    ) -> Generation:
        """Sends the shot once; see `Provider.submit`."""
        body: dict[str, object] = {
            "model": self._model(shot),
            "prompt": shot.prompt,
            "duration": shot.duration,
            "resolution": shot.resolution,
            "aspect_ratio": shot.aspect_ratio,
        }
        if shot.seed is not None:
            body["seed"] = shot.seed
        if shot.references:
            urls = await reference_urls(shot, provider=self.name)
            body["input_references"] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        if webhook_url:
            body["callback_url"] = webhook_url
        response = await self._api.send_once("POST", "/videos", json=body)
        try:
            job = responses.read_job(response, provider=self.name)
        except InvalidResponse as error:
            raise unreadable_submit(error, response, provider=self.name) from error
        self._check_polling_url(job)
        return self._accepted(job.generation)

    async def retrieve(self, generation_id: str) -> Generation:
        """Reads one job; see `Provider.retrieve`."""
        path = f"/videos/{_path_part(generation_id)}"
        job = responses.read_job(await self._api.send("GET", path), provider=self.name)
        generation = job.generation
        if generation.status is Status.COMPLETED and generation.result is None:
            # The content address is documented; the links are a convenience.
            result = VideoResult(video_url=f"{self._base_url}{path}/content?index=0")
            return generation.model_copy(update={"result": result})
        return generation

    async def cancel(self, generation_id: str) -> Generation:
        """Nothing can be cancelled here: reads the job as it stands; see `Provider.cancel`."""
        return await self.retrieve(generation_id)

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verifies `X-OpenRouter-Signature`, an HMAC over time, comma and raw body; see `Provider.parse_webhook`."""
        lowered = {name.lower(): value for name, value in headers.items()}
        signature = _SIGNATURE.fullmatch(lowered.get("x-openrouter-signature", "").strip())
        if signature is None:
            raise InvalidInput("webhook: it carries no signature of OpenRouter's form (t=…,v1=…)")
        stamp, given = signature.groups()
        if not any(hmac.compare_digest(_code(secret, stamp, body), given.lower()) for secret in self._webhook_secrets):
            raise InvalidInput("webhook: the signature does not match any of the account's secrets")
        if abs(time.time() - int(stamp)) > WEBHOOK_WINDOW_SECONDS:
            raise InvalidInput("webhook: the timestamp is more than 5 minutes off; refused as a replay")
        try:
            return responses.read_event(json.loads(body), sent_at=datetime.fromtimestamp(int(stamp), UTC))
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInput(f"webhook: the body is not an event of the contract ({error})") from error

    def _model(self, shot: Shot) -> str:
        return self._aliases.get(shot.model, shot.model)

    def _check_polling_url(self, job: responses.VideoJob) -> None:
        """The key goes to our own address only, whatever address the answer names."""
        if job.polling_url and not self._is_ours(urljoin(f"{self._base_url}/", job.polling_url)):
            logger.warning(
                "%s generation %s: its polling address is on another host and is not used",
                self.name,
                job.generation.id,
            )


def _code(secret: str, stamp: str, body: bytes) -> str:
    return hmac.new(secret.encode(), f"{stamp},".encode() + body, hashlib.sha256).hexdigest()


def _path_part(generation_id: str) -> str:
    if not generation_id or not all(c.isalnum() or c in "_-." for c in generation_id) or ".." in generation_id:
        raise InvalidInput(f"generation id {generation_id!r} is not one of OpenRouter's")
    return generation_id


def open_provider(environ: Mapping[str, str]) -> OpenRouterProvider:
    """The provider that `OPENROUTER_API_KEY` opens, with `OPENROUTER_BASE_URL` and `OPENROUTER_WEBHOOK_SECRET`.

    Raises:
        InvalidInput: A variable is missing or wrong.
    """
    if not environ.get("OPENROUTER_API_KEY"):
        raise InvalidInput(
            "provider 'openrouter': set OPENROUTER_API_KEY, or name a saved openrouter-credentials block"
        )
    return OpenRouterProvider(
        api_key=environ["OPENROUTER_API_KEY"],
        base_url=environ.get("OPENROUTER_BASE_URL") or BASE_URL,
        webhook_secrets=tuple(filter(None, environ.get("OPENROUTER_WEBHOOK_SECRET", "").split(","))),
    )
