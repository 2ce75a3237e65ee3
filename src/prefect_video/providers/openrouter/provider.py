"""OpenRouter's provider (`/api/v1/videos`): many models behind one key, each with its limits and prices in a list."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final
from urllib.parse import urljoin

import httpx

from prefect_video.downloads import VideoSource
from prefect_video.errors import InvalidInput, InvalidResponse, Unsupported
from prefect_video.frame_sizes import ALL_RESOLUTIONS, COMMON_RATIOS
from prefect_video.generations import Generation, Status, VideoResult, WebhookEvent
from prefect_video.providers.base import Capabilities
from prefect_video.providers.capabilities import check_options, check_supported
from prefect_video.providers.hosted_models import own_aliases
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.http_provider import HttpProvider
from prefect_video.providers.openrouter import responses
from prefect_video.providers.pricing import listed_usd
from prefect_video.providers.reference_images import image_urls
from prefect_video.providers.responses import path_part, unreadable_submit
from prefect_video.providers.webhook_signatures import raise_if_replayed, split_secrets
from prefect_video.shots import DURATION_LIMIT, Shot

logger = logging.getLogger(__name__)

BASE_URL: Final = "https://openrouter.ai/api/v1"
MODELS_FRESH_SECONDS: Final = 3600.0

_ALIASES: Final[Mapping[str, str]] = {"sora-2": "openai/sora-2", "sora-2-pro": "openai/sora-2-pro"}
_SIGNATURE: Final = re.compile(r"t=(\d{1,11}),v1=([0-9a-fA-F]{64})", re.ASCII)


class OpenRouterProvider(HttpProvider):
    """Provider of OpenRouter's video API.

    There is no list of jobs and no echo of a key, so that an unanswered submit is held for a human; a job cannot be
    cancelled.

    Args:
        api_key: Sent as a bearer token to `base_url` and nowhere else.
        base_url: Address of the API.
        webhook_secrets: Secrets that sign callbacks; several during a rotation.
        models: Models of this account by their names in project files.
        usd_per_second: Price of a second for this account; None for the prices in the list of models.
        name: Name of this provider.
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
            sizes=dict.fromkeys(ALL_RESOLUTIONS, DURATION_LIMIT),
            aspect_ratios=COMMON_RATIOS,
            can_list=False,
            can_cancel=False,
            lookup="none",
            optional_fields=("seed", "first_frame", "last_frame", "references", "audio", "options"),
            max_references=None,
            # Beside frames it would leave references out.
            mixes_images=False,
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
        """Read the list of models with their limits and prices, at most once an hour.

        Raises:
            ProviderError: There was no usable response; what was known before still holds.
        """
        async with self._reading_models:
            now = asyncio.get_running_loop().time()
            if self._models_read_at is not None and now - self._models_read_at < MODELS_FRESH_SECONDS:
                return
            response = await self._api.send("GET", "/videos/models")
            self._models = responses.read_models(response, provider=self.name, host=self.capabilities)
            self._models_read_at = now

    async def check_access(self) -> None:
        """Read the key's own record."""
        responses.read_key(await self._api.send("GET", "/key"), provider=self.name)

    def capabilities_for(self, shot: Shot) -> Capabilities:
        """Return the capabilities of the shot's model, or the provider's while the models are not known.

        Raises:
            Unsupported: The models are known and this is none of them.
        """
        name = self._model(shot)
        if not self._models:
            return self.capabilities
        if name not in self._models:
            # The same model of another owner first.
            nearest = sorted(self._models, key=lambda known: (known.split("/")[-1] != name.split("/")[-1], known))
            raise Unsupported(f"shot {shot.id!r}: model: {self.name} has no {name!r}; it has {', '.join(nearest[:10])}")
        return self._models[name].capabilities

    def check(self, shot: Shot) -> None:
        """Reject a shot that its model cannot make, once the models are known."""
        by = f"{self.name} model {self._model(shot)!r}"
        check_supported(shot, self.capabilities_for(shot), by=by)
        own = {*self._fields(shot.model_copy(update={"options": {}})), "frame_images", "input_references"}
        check_options(shot, {*own, "callback_url"}, by=by)

    def estimate(self, shot: Shot) -> Decimal | None:
        """Estimate by the account's own price, else the model's, else the price table."""
        price = self._usd_per_second
        model = self._models.get(self._model(shot))
        if price is None and model is not None:
            price = model.usd_per_second.get(shot.resolution)
        return listed_usd(self.name, shot.model_copy(update={"model": self._model(shot)}), usd_per_second=price)

    async def submit(
        self, shot: Shot, *, idempotency_key: str, project: str, webhook_url: str | None = None
    ) -> Generation:
        """Send the shot once."""
        body = self._fields(shot)
        images = await image_urls(shot, provider=self.name)
        references = images.pop("references", [])
        if references:
            body["input_references"] = [_image(url) for url in references]
        if images:
            body["frame_images"] = [_image(url) | {"frame_type": frame} for frame, (url,) in images.items()]
        if webhook_url:
            body["callback_url"] = webhook_url
        response = await self._api.send_once("POST", "/videos", json=body)
        try:
            job = responses.read_job(response, provider=self.name)
        except InvalidResponse as error:
            raise unreadable_submit(error, response, provider=self.name) from error
        self._warn_of_foreign_url(job)
        return self._observe_clock(job.generation)

    async def retrieve(self, generation_id: str) -> Generation:
        """Read one job."""
        path = f"/videos/{path_part(generation_id)}"
        job = responses.read_job(await self._api.send("GET", path), provider=self.name)
        generation = job.generation
        if generation.status is Status.COMPLETED and generation.result is None:
            # A completed job may come without links; its content address is documented.
            result = VideoResult(video_url=self._content_url(generation_id))
            return generation.model_copy(update={"result": result})
        return generation

    def download_source(self, generation: Generation) -> VideoSource:
        """Return the link, and the content address below the base URL for where the link wants another key.

        Behind a gateway the link leads to OpenRouter itself, which does not know the gateway's key.
        """
        source = super().download_source(generation)
        content_url = self._content_url(generation.id)
        if source.url == content_url:
            return source
        return replace(source, fallback=VideoSource(content_url, self._authorization))

    async def cancel(self, generation_id: str) -> Generation:
        """Read the job, as OpenRouter cancels none."""
        return await self.retrieve(generation_id)

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verify `X-OpenRouter-Signature`, an HMAC over time, comma and raw body, and read the event."""
        lowered = {name.lower(): value for name, value in headers.items()}
        signature = _SIGNATURE.fullmatch(lowered.get("x-openrouter-signature", "").strip())
        if signature is None:
            raise InvalidInput("webhook: it carries no signature of OpenRouter's form (t=…,v1=…)")
        timestamp, digest = signature.groups()
        expected = [_sign(secret, timestamp, body) for secret in self._webhook_secrets]
        if not any(hmac.compare_digest(own, digest.lower()) for own in expected):
            raise InvalidInput("webhook: the signature does not match any of the account's secrets")
        raise_if_replayed(int(timestamp))
        try:
            return responses.read_event(json.loads(body), sent_at=datetime.fromtimestamp(int(timestamp), UTC))
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInput(f"webhook: the body is not an event of the contract ({error})") from error

    def _fields(self, shot: Shot) -> dict[str, object]:
        """Return the body that requests a shot, without its images."""
        optional = {"seed": shot.seed, "generate_audio": shot.audio}
        return {
            **shot.options,
            "model": self._model(shot),
            "prompt": shot.prompt,
            "duration": shot.duration,
            "resolution": responses.RESOLUTION_NAMES.get(shot.resolution, shot.resolution),
            "aspect_ratio": shot.aspect_ratio,
            **{name: value for name, value in optional.items() if value is not None},
        }

    def _model(self, shot: Shot) -> str:
        return self._aliases.get(shot.model, shot.model)

    def _content_url(self, generation_id: str) -> str:
        return f"{self._base_url}/videos/{path_part(generation_id)}/content?index=0"

    def _warn_of_foreign_url(self, job: responses.VideoJob) -> None:
        """Log a polling address on another host: it is not used, as the key goes to the provider's own address only."""
        if job.polling_url and not self._is_own_url(urljoin(f"{self._base_url}/", job.polling_url)):
            logger.warning(
                "%s generation %s: its polling address is on another host and is not used",
                self.name,
                job.generation.id,
            )


def _image(url: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url}}


def _sign(secret: str, timestamp: str, body: bytes) -> str:
    return hmac.new(secret.encode(), f"{timestamp},".encode() + body, hashlib.sha256).hexdigest()


def open_provider(environ: Mapping[str, str]) -> OpenRouterProvider:
    """Open OpenRouter with `OPENROUTER_API_KEY`, and with `OPENROUTER_BASE_URL` and `OPENROUTER_WEBHOOK_SECRET` if set.

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
        webhook_secrets=split_secrets(environ.get("OPENROUTER_WEBHOOK_SECRET"), named="OPENROUTER_WEBHOOK_SECRET"),
    )
