"""Replicate (`/v1/predictions`): models of many owners, official ones by name and all others by version.

How its JSON is read is in `replicate_wire`, what its models want in `model_inputs.yaml`.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import httpx

from prefect_video.downloads import VideoSource
from prefect_video.errors import InvalidInput, LinkRefused, NeedsAttention, NotFound, RequestRefused, UnreadableAnswer
from prefect_video.generations import Generation, Status, WebhookEvent
from prefect_video.http import ApiClient, HttpSettings, check_endpoint, check_key
from prefect_video.links import origin
from prefect_video.providers import replicate_wire, standard_webhooks
from prefect_video.providers.answers import accepted_unread
from prefect_video.providers.base import SEARCH_BACK, Account, Capabilities, link_source
from prefect_video.providers.fitting import check_fit
from prefect_video.providers.likeness import holds_all, may_tell_of
from prefect_video.providers.model_inputs import ASPECT_RATIOS, LONGEST_SECONDS, RESOLUTIONS, HostedModels
from prefect_video.providers.prices import listed_usd
from prefect_video.providers.references import reference_urls
from prefect_video.shots import Shot

BASE_URL: Final = "https://api.replicate.com/v1"
CLOCK_MARGIN: Final = timedelta(minutes=2)
"""How far the times of its generations may be from its clock when an unanswered submit is looked for."""
SHORTEST_DEADLINE_SECONDS: Final = 5

_VERSION: Final = re.compile(r"[0-9a-f]{40,64}")
_HASH: Final = re.compile(r"[0-9a-f]{8,64}")
_MODEL: Final = re.compile(r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(?::(?P<version>[\w.-]+))?", re.ASCII)


class ReplicateProvider:
    """Replicate's predictions.

    An unanswered submit is looked for among the account's predictions by its whole input. Inputs and videos are gone an
    hour after the end. What a prediction costs is not told.

    Args:
        api_key: Sent as a bearer token to `base_url` and nowhere else.
        base_url: Address of the API, with its version.
        webhook_secrets: Secrets that deliveries may be signed with; several while one is being rotated.
        models: Names in project files and the models they mean here.
        usd_per_second: What a second of video costs this account; None for the price table.
        cancel_after_seconds: Has Replicate cancel what is not done by then, and abort (free) what has not started.
        name: What this provider is called.
        settings: Timeouts and repeats.
        transport: For tests at the transport boundary.

    Raises:
        InvalidInput: The key, the address or the deadline is not usable.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str = BASE_URL,
        webhook_secrets: Sequence[str] = (),
        models: Mapping[str, str] | None = None,
        usd_per_second: Decimal | None = None,
        cancel_after_seconds: int | None = None,
        name: str = "replicate",
        settings: HttpSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if cancel_after_seconds is not None and cancel_after_seconds < SHORTEST_DEADLINE_SECONDS:
            raise InvalidInput(f"{name}: cancel_after_seconds is at least {SHORTEST_DEADLINE_SECONDS}")
        self._base_url = check_endpoint(base_url, named=f"{name} address")
        key = check_key(api_key, named=f"{name} API token")
        self.name = name
        self.account = Account.of(name, self._base_url, key)
        self._models = HostedModels("replicate", models)
        self.capabilities = Capabilities(
            sizes=dict.fromkeys(RESOLUTIONS, LONGEST_SECONDS),
            aspect_ratios=ASPECT_RATIOS,
            can_list=True,
            can_cancel=True,
            reconciling="likeness",
            video_kept=replicate_wire.FILES_KEPT,
            aliases=self._models.own_aliases,
        )
        self._authorization = {"Authorization": f"Bearer {key}"}
        self._webhook_secrets = tuple(webhook_secrets)
        self._usd_per_second = usd_per_second
        self._deadline = {"Cancel-After": f"{cancel_after_seconds}s"} if cancel_after_seconds else {}
        self._api = ApiClient(
            provider=name,
            base_url=self._base_url,
            headers={**self._authorization, "Accept": "application/json"},
            refuse=lambda response: replicate_wire.read_error(response, provider=name),
            settings=settings,
            transport=transport,
        )

    async def prepare(self) -> None:
        """Nothing to read; see `Provider.prepare`."""

    async def check_access(self) -> None:
        """Reads the account; see `Provider.check_access`."""
        response = await self._api.send("GET", "/account")
        replicate_wire.read_account(response, provider=self.name)

    def offered(self, shot: Shot) -> Capabilities:
        """What the shot's model can make."""
        return self._models.input(shot).narrow(self.capabilities)

    def check(self, shot: Shot) -> None:
        """Refuses a shot that its model cannot make; see `Provider.check`."""
        name = self._models.name(shot)
        if not (_VERSION.fullmatch(name) or _MODEL.fullmatch(name)) or ".." in name:
            raise InvalidInput(
                f"shot {shot.id!r}: model: {name!r} is none of Replicate's: owner/name, owner/name:version or a version"
            )
        check_fit(shot, self.offered(shot), by=f"{self.name} model {name!r}")

    def estimate(self, shot: Shot) -> Decimal | None:
        """By the account's price, else the price table; see `Provider.estimate`."""
        asked = shot.model_copy(update={"model": self._models.name(shot)})
        return listed_usd(self.name, asked, usd_per_second=self._usd_per_second)

    async def submit(
        self, shot: Shot, *, idempotency_key: str, project: str, webhook_url: str | None = None
    ) -> Generation:
        """Sends the shot once; see `Provider.submit`."""
        path, body = _address(self._models.name(shot))
        body["input"] = self._models.input(shot).arguments(shot, await reference_urls(shot, provider=self.name))
        if webhook_url:
            body |= {"webhook": webhook_url, "webhook_events_filter": ["completed"]}
        response = await self._api.send_once("POST", path, json=body, headers=self._deadline)
        try:
            return replicate_wire.read_prediction(response, provider=self.name).generation
        except UnreadableAnswer as error:
            raise accepted_unread(error, response, provider=self.name) from error

    def source(self, generation: Generation) -> VideoSource:
        """The link, with the key only where it leads to the API itself; see `Provider.source`."""
        source = link_source(generation)
        try:
            ours = origin(source.url) == origin(self._base_url)
        except LinkRefused:
            ours = False
        return VideoSource(url=source.url, headers=self._authorization) if ours else source

    async def retrieve(self, generation_id: str) -> Generation:
        """Reads one prediction; see `Provider.retrieve`."""
        response = await self._api.send("GET", f"/predictions/{_path_part(generation_id)}")
        return replicate_wire.read_prediction(response, provider=self.name).generation

    async def cancel(self, generation_id: str) -> Generation:
        """Cancels what still runs; see `Provider.cancel`."""
        try:
            await self._api.send("POST", f"/predictions/{_path_part(generation_id)}/cancel")
        except NotFound:
            raise
        except RequestRefused:
            # Over already: how it ended, the prediction itself tells.
            return await self.retrieve(generation_id)
        return await self.retrieve(generation_id)

    async def list(
        self, *, status: Status | None = None, created_after: datetime | None = None
    ) -> AsyncIterator[Generation]:
        """The account's predictions, newest first, those by other programs too."""
        async for prediction in self._predictions(created_after):
            if status is None or prediction.generation.status is status:
                yield prediction.generation

    async def find(
        self, shot: Shot, *, idempotency_key: str, sent_at: datetime, known_ids: Collection[str]
    ) -> Generation | None:
        """Looks for the oldest prediction with the input that was sent; see `Provider.find`."""
        model = self._models.name(shot)
        asked = self._models.input(shot).arguments(shot)
        alike: list[replicate_wire.Prediction] = []
        async for prediction in self._predictions(sent_at - SEARCH_BACK):
            generation = prediction.generation
            if generation.created_at and generation.created_at < self._api.by_their_clock(sent_at) - CLOCK_MARGIN:
                break
            if (
                generation.id not in known_ids
                and _may_be_of(prediction, model)
                and may_tell_of(shot.prompt, generation.prompt)
            ):
                alike.append(prediction)
        same = [one.generation for one in alike if holds_all(one.input, asked)]
        if alike and not same:
            doubtful = alike[0]
            told = "has removed the input of" if doubtful.removed else "tells other inputs, or none, of"
            raise NeedsAttention(
                f"{self.name} {told} prediction {doubtful.generation.id}, so nobody can tell whether it is"
                f" shot {shot.id!r}"
            )
        return min(same, key=lambda one: one.created_at or sent_at, default=None)

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verifies the Standard Webhooks signature; see `Provider.parse_webhook`."""
        delivery = standard_webhooks.verify(headers, body, self._webhook_secrets)
        try:
            return replicate_wire.read_event(json.loads(body), event_id=delivery.id, sent_at=delivery.sent_at)
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInput(f"webhook: the body is not an event of the contract ({error})") from error

    async def fetch_webhook_secret(self) -> str:
        """The secret that Replicate signs this account's deliveries with, from now on accepted here.

        Raises:
            ProviderError: There was no usable answer.
        """
        response = await self._api.send("GET", "/webhooks/default/secret")
        try:
            secret = str(response.json()["key"])
        except (ValueError, TypeError, KeyError) as error:
            raise UnreadableAnswer(f"{self.name}: the answer names no webhook secret", provider=self.name) from error
        self._webhook_secrets = (secret, *(known for known in self._webhook_secrets if known != secret))
        return secret

    async def aclose(self) -> None:
        """Closes connections."""
        await self._api.aclose()

    async def _predictions(self, created_after: datetime | None) -> AsyncIterator[replicate_wire.Prediction]:
        params: dict[str, str | int] = {}
        if created_after is not None:
            params["created_after"] = created_after.isoformat()
        seen: set[str] = set()
        while True:
            response = await self._api.send("GET", "/predictions", params=params)
            page = replicate_wire.read_page(response, provider=self.name)
            for prediction in page.predictions:
                created_at = prediction.generation.created_at
                if created_after is not None and created_at is not None and created_at < created_after:
                    return
                if prediction.generation.id not in seen:
                    seen.add(prediction.generation.id)
                    yield prediction
            if page.cursor is None or page.cursor == params.get("cursor"):
                return
            params["cursor"] = page.cursor


def _address(model: str) -> tuple[str, dict[str, Any]]:
    """Where a prediction of the model is created, and what of the body names the version."""
    named = _MODEL.fullmatch(model)
    if named is None:
        return "/predictions", {"version": model}
    if named["version"]:
        return "/predictions", {"version": named["version"]}
    return f"/models/{named['owner']}/{named['name']}/predictions", {}


def _may_be_of(prediction: replicate_wire.Prediction, model: str) -> bool:
    """Whether a prediction may be by that model: not where it tells another version, or another name."""
    named = _MODEL.fullmatch(model)
    asked, told = (named["version"] if named else model), prediction.version
    if asked and told and _HASH.fullmatch(asked) and _HASH.fullmatch(told):
        # Both name the version's id, which may be cut short.
        return told.startswith(asked) or asked.startswith(told)
    name = f"{named['owner']}/{named['name']}" if named else None
    of = prediction.generation.model
    return name is None or of is None or of.casefold() == name.casefold()


def _path_part(generation_id: str) -> str:
    if not generation_id or not all(c.isalnum() or c in "_-" for c in generation_id):
        raise InvalidInput(f"generation id {generation_id!r} is not a prediction of Replicate")
    return generation_id


def base_url_of(environ: Mapping[str, str]) -> str:
    """The address that `REPLICATE_BASE_URL` names, without the version there, else Replicate's own."""
    root = environ.get("REPLICATE_BASE_URL")
    return f"{root.rstrip('/')}/v1" if root else BASE_URL


def open_provider(environ: Mapping[str, str]) -> ReplicateProvider:
    """The provider that `REPLICATE_API_TOKEN` opens, with `REPLICATE_BASE_URL` and `REPLICATE_WEBHOOK_SECRET`.

    `REPLICATE_BASE_URL` is without the version, as Replicate's own client takes it.

    Raises:
        InvalidInput: A variable is missing or wrong.
    """
    if not environ.get("REPLICATE_API_TOKEN"):
        raise InvalidInput("provider 'replicate': set REPLICATE_API_TOKEN, or name a saved replicate-credentials block")
    return ReplicateProvider(
        api_key=environ["REPLICATE_API_TOKEN"],
        base_url=base_url_of(environ),
        webhook_secrets=tuple(filter(None, environ.get("REPLICATE_WEBHOOK_SECRET", "").split(","))),
    )
