"""Replicate's provider (`/v1/predictions`): models of many owners, official ones by name and all others by version.

The inputs of its models are in `model_inputs.yaml`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import httpx

from prefect_video.errors import InvalidInput, InvalidResponse
from prefect_video.generations import Generation, Status, WebhookEvent
from prefect_video.providers import webhook_signatures
from prefect_video.providers.base import Capabilities
from prefect_video.providers.capabilities import check_supported
from prefect_video.providers.hosted_models import ASPECT_RATIOS, LONGEST_SECONDS, RESOLUTIONS, HostedModels
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.http_provider import HttpProvider
from prefect_video.providers.matching import Match, match_prompt, match_values
from prefect_video.providers.pages import Cursor, ListPage
from prefect_video.providers.reference_images import image_urls, match_images
from prefect_video.providers.replicate import responses
from prefect_video.providers.replicate.responses import Prediction
from prefect_video.providers.responses import path_part, unreadable_submit
from prefect_video.providers.webhook_signatures import split_secrets
from prefect_video.shots import Shot

BASE_URL: Final = "https://api.replicate.com/v1"
SHORTEST_DEADLINE_SECONDS: Final = 5

_VERSION: Final = re.compile(r"[0-9a-f]{40,64}")
_HASH: Final = re.compile(r"[0-9a-f]{8,64}")
_MODEL: Final = re.compile(r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(?::(?P<version>[\w.-]+))?", re.ASCII)


class ReplicateProvider(HttpProvider):
    """Provider of Replicate's predictions.

    An unanswered submit is searched for among the account's predictions by its whole input. Replicate deletes inputs
    and videos an hour after the end, and does not report costs.

    Args:
        api_key: Sent as a bearer token to `base_url` and nowhere else.
        base_url: Address of the API, with its version.
        webhook_secrets: Secrets that sign deliveries; several during a rotation.
        models: Models of this account by their names in project files.
        usd_per_second: Price of a second of video for this account; None for the price table.
        cancel_after_seconds: Deadline after which Replicate cancels a prediction, or aborts it (free) before its start.
        name: Name of this provider.
        settings: Timeouts and repeats.
        transport: For tests at the transport boundary.

    Raises:
        InvalidInput: The key, the address or the deadline is not usable.
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
        cancel_after_seconds: int | None = None,
        name: str = "replicate",
        settings: HttpSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if cancel_after_seconds is not None and cancel_after_seconds < SHORTEST_DEADLINE_SECONDS:
            raise InvalidInput(f"{name}: cancel_after_seconds is at least {SHORTEST_DEADLINE_SECONDS}")
        self._models = HostedModels("replicate", models)
        capabilities = Capabilities(
            sizes=dict.fromkeys(RESOLUTIONS, LONGEST_SECONDS),
            aspect_ratios=ASPECT_RATIOS,
            can_list=True,
            can_cancel=True,
            lookup="similarity",
            retention=responses.FILES_KEPT,
            aliases=self._models.own_aliases,
        )
        super().__init__(
            name=name,
            api_key=api_key,
            base_url=base_url,
            capabilities=capabilities,
            error_from=lambda response: responses.read_error(response, provider=name),
            key_label="API token",
            usd_per_second=usd_per_second,
            settings=settings,
            transport=transport,
        )
        self._webhook_secrets = tuple(webhook_secrets)
        self._deadline = {"Cancel-After": f"{cancel_after_seconds}s"} if cancel_after_seconds else {}

    async def check_access(self) -> None:
        """Read the account."""
        response = await self._api.send("GET", "/account")
        responses.read_account(response, provider=self.name)

    def capabilities_for(self, shot: Shot) -> Capabilities:
        """Return the capabilities of the shot's model."""
        return self._models.input(shot).narrow(self.capabilities)

    def check(self, shot: Shot) -> None:
        """Reject a shot that its model cannot make, or whose model has no name of Replicate's form."""
        name = self._models.name(shot)
        if not (_VERSION.fullmatch(name) or _MODEL.fullmatch(name)) or ".." in name:
            raise InvalidInput(
                f"shot {shot.id!r}: model: {name!r} is none of Replicate's: owner/name, owner/name:version or a version"
            )
        check_supported(shot, self.capabilities_for(shot), by=f"{self.name} model {name!r}")
        self._models.input(shot).check_options(shot, by=f"{self.name} model {name!r}")

    async def submit(
        self, shot: Shot, *, idempotency_key: str, project: str, webhook_url: str | None = None
    ) -> Generation:
        """Send the shot once."""
        path, body = _create_request(self._models.name(shot))
        body["input"] = self._models.input(shot).arguments(shot, await image_urls(shot, provider=self.name))
        if webhook_url:
            body |= {"webhook": webhook_url, "webhook_events_filter": ["completed"]}
        response = await self._api.send_once("POST", path, json=body, headers=self._deadline)
        try:
            return self._observe_clock(responses.read_prediction(response, provider=self.name))
        except InvalidResponse as error:
            raise unreadable_submit(error, response, provider=self.name) from error

    async def retrieve(self, generation_id: str) -> Generation:
        """Read one prediction."""
        response = await self._api.send("GET", f"/predictions/{path_part(generation_id)}")
        return responses.read_prediction(response, provider=self.name)

    async def cancel(self, generation_id: str) -> Generation:
        """Cancel a prediction that still runs, and read it."""
        # Where the request is rejected, the prediction itself shows how it has ended.
        await self._request_cancel("POST", f"/predictions/{path_part(generation_id)}/cancel")
        return await self.retrieve(generation_id)

    def compare(self, generation: Generation, shot: Shot) -> Match:
        """Compare model, prompt and the whole input."""
        prompt = match_prompt(shot.prompt, generation.prompt)
        model_input = self._models.input(shot)
        requested = model_input.arguments(shot)
        requested.pop("prompt", None)
        images = match_images(shot, generation.parameters, model_input.image_names())
        model = _match_model(generation, self._model(shot)) if isinstance(generation, Prediction) else Match.SAME
        return min(prompt, model, images, match_values(requested, generation.parameters, required=True))

    def describe_doubt(self, generation: Generation, shot: Shot) -> str:
        """Return a message that says whether the input was deleted or differs."""
        is_removed = isinstance(generation, Prediction) and generation.removed
        reason = "has removed the input of" if is_removed else "tells other inputs, or none, of"
        return f"{self.name} {reason} prediction {generation.id}, so it is unknown whether it is shot {shot.id!r}"

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verify the Standard Webhooks signature and read the event."""
        delivery = webhook_signatures.verify(headers, body, self._webhook_secrets)
        try:
            return responses.read_event(json.loads(body), event_id=delivery.id, sent_at=delivery.sent_at)
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInput(f"webhook: the body is not an event of the contract ({error})") from error

    async def fetch_webhook_secret(self) -> str:
        """Fetch the secret with which Replicate signs this account's deliveries, and accept it from now on.

        Raises:
            ProviderError: There was no usable response.
        """
        response = await self._api.send("GET", "/webhooks/default/secret")
        try:
            secret = str(response.json()["key"])
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidResponse(f"{self.name}: the answer names no webhook secret", provider=self.name) from error
        self._webhook_secrets = (secret, *(known for known in self._webhook_secrets if known != secret))
        return secret

    async def _page(
        self, cursor: Cursor | None, *, status: Status | None = None, created_after: datetime | None = None
    ) -> ListPage:
        params: dict[str, str | int] = {"cursor": cursor} if cursor is not None else {}
        if created_after is not None:
            params["created_after"] = created_after.isoformat()
        response = await self._api.send("GET", "/predictions", params=params)
        return responses.read_page(response, provider=self.name)

    def _model(self, shot: Shot) -> str:
        return self._models.name(shot)


def _create_request(model: str) -> tuple[str, dict[str, Any]]:
    """Return the path that creates a prediction of the model, and the part of the body that names its version."""
    named = _MODEL.fullmatch(model)
    if named is None:
        return "/predictions", {"version": model}
    if named["version"]:
        return "/predictions", {"version": named["version"]}
    return f"/models/{named['owner']}/{named['name']}/predictions", {}


def _match_model(prediction: Prediction, model: str) -> Match:
    """Compare the model of a prediction: one of another version or name may be the same, renamed or replaced since."""
    named = _MODEL.fullmatch(model)
    requested, reported = (named["version"] if named else model), prediction.version
    if requested and reported and _HASH.fullmatch(requested) and _HASH.fullmatch(reported):
        # Both are the version's id, which may be cut short.
        is_same = reported.startswith(requested) or requested.startswith(reported)
    else:
        name = f"{named['owner']}/{named['name']}" if named else None
        is_same = name is None or prediction.model is None or prediction.model.casefold() == name.casefold()
    return Match.SAME if is_same else Match.POSSIBLE


def base_url_from(environ: Mapping[str, str]) -> str:
    """Return the API's address with its version: below `REPLICATE_BASE_URL` where set, else Replicate's own."""
    root = environ.get("REPLICATE_BASE_URL")
    return f"{root.rstrip('/')}/v1" if root else BASE_URL


def open_provider(environ: Mapping[str, str]) -> ReplicateProvider:
    """Open Replicate with `REPLICATE_API_TOKEN`, and with `REPLICATE_BASE_URL` and `REPLICATE_WEBHOOK_SECRET` if set.

    `REPLICATE_BASE_URL` is without the version, as Replicate's own client takes it.

    Raises:
        InvalidInput: A variable is missing or wrong.
    """
    if not environ.get("REPLICATE_API_TOKEN"):
        raise InvalidInput("provider 'replicate': set REPLICATE_API_TOKEN, or name a saved replicate-credentials block")
    return ReplicateProvider(
        api_key=environ["REPLICATE_API_TOKEN"],
        base_url=base_url_from(environ),
        webhook_secrets=split_secrets(
            environ.get("REPLICATE_WEBHOOK_SECRET"), named="REPLICATE_WEBHOOK_SECRET", standard=True
        ),
    )
