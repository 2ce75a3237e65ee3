"""Provider of the Sora dialect (`/generations`), which is the reference contract."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Final

import httpx

from prefect_video.errors import (
    InvalidInput,
    InvalidResponse,
)
from prefect_video.generations import Generation, Status, WebhookEvent
from prefect_video.providers.base import Account, Capabilities
from prefect_video.providers.capabilities import check_supported
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.http_provider import HttpProvider
from prefect_video.providers.matching import Match
from prefect_video.providers.pages import Cursor, ListPage
from prefect_video.providers.pricing import usd_for
from prefect_video.providers.reference_images import image_urls
from prefect_video.providers.responses import path_part, unreadable_submit
from prefect_video.providers.sora import responses
from prefect_video.providers.sora.plans import SORA_PLANS
from prefect_video.providers.webhook_signatures import raise_if_replayed, split_secrets
from prefect_video.shots import Shot

PAGE_SIZE: Final = 100


class SoraProvider(HttpProvider):
    """Provider of the Sora dialect.

    Args:
        api_key: Sent as a bearer token to `endpoint` and nowhere else.
        endpoint: Base URL, such as `https://api.openai.com/v1/sora`.
        plan: A key of `SORA_PLANS`.
        webhook_secrets: Secrets that sign deliveries; several during a rotation.
        usd_per_second: Price of a second for this account; None for the guide's prices.
        name: Name of this provider: `sora`, or `emulator` for the embedded one.
        account: Account of the jobs, where provider, address and key do not identify it.
        settings: Timeouts and repeats.
        transport: For tests at the transport boundary.

    Raises:
        InvalidInput: The key, the endpoint or the plan is not usable.
    """

    def __init__(
        self,
        *,
        api_key: str,
        endpoint: str,
        plan: str = "api-tier-1",
        webhook_secrets: Sequence[str] = (),
        usd_per_second: Decimal | None = None,
        name: str = "sora",
        account: Account | None = None,
        settings: HttpSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if plan not in SORA_PLANS:
            raise InvalidInput(f"plan {plan!r} is not known; choose one of {', '.join(SORA_PLANS)}")
        capabilities: Capabilities = SORA_PLANS[plan]
        if usd_per_second is not None:
            capabilities = replace(capabilities, usd_per_second={1: usd_per_second})
        super().__init__(
            name=name,
            api_key=api_key,
            base_url=endpoint,
            capabilities=capabilities,
            error_from=lambda response: responses.read_error(response, provider=name),
            address_label="endpoint",
            account=account,
            settings=settings,
            transport=transport,
        )
        self.plan = plan
        self._webhook_secrets = tuple(webhook_secrets)

    async def check_access(self) -> None:
        """Read a list of one generation."""
        response = await self._api.send("GET", "/generations", params={"limit": 1})
        responses.read_page(response, provider=self.name)

    def check(self, shot: Shot) -> None:
        """Reject a shot that this plan cannot make."""
        check_supported(shot, self.capabilities, by=f"{self.name} plan {self.plan!r}")

    def estimate(self, shot: Shot) -> Decimal | None:
        """Estimate by the guide's table, or by the account's own price."""
        return usd_for(shot.duration, self.capabilities.usd_per_second)

    async def submit(
        self, shot: Shot, *, idempotency_key: str, project: str, webhook_url: str | None = None
    ) -> Generation:
        """Send the shot once, with the labels that the dialect has for it."""
        labels = {
            "metadata": {
                **shot.metadata,
                "project_id": project,
                "shot_number": shot.id,
                "idempotency_key": idempotency_key,
            },
            **({"webhook_url": webhook_url} if webhook_url else {}),
        }
        path, body = await self._build_request(shot, labels)
        response = await self._api.send_once("POST", path, json=body)
        try:
            return self._observe_clock(responses.read_generation(response, provider=self.name))
        except InvalidResponse as error:
            raise unreadable_submit(error, response, provider=self.name) from error

    async def _build_request(self, shot: Shot, labels: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        """Return the path and the body of a shot's submit; those of a remix have its prompt and nothing else."""
        if shot.remixed_from is not None:
            path = f"/generations/{path_part(shot.remixed_from)}/remix"
            return path, {"prompt": shot.prompt, **labels}
        body: dict[str, object] = {
            "model": shot.model,
            "prompt": shot.prompt,
            "duration": shot.duration,
            "aspect_ratio": shot.aspect_ratio,
            "resolution": shot.resolution,
            **labels,
        }
        body |= responses.optional_parameters(shot)
        images = await image_urls(shot, provider=self.name)
        body |= {field: urls if field == "references" else urls[0] for field, urls in images.items()}
        return "/generations", body

    async def retrieve(self, generation_id: str) -> Generation:
        """Read one generation, with a fresh link when it is completed."""
        response = await self._api.send("GET", f"/generations/{path_part(generation_id)}")
        return responses.read_generation(response, provider=self.name)

    async def cancel(self, generation_id: str) -> Generation:
        """Cancel where still possible (up to half of the work), and read the generation."""
        # Where the request is rejected, the generation itself shows whether it is too far on, or over.
        await self._request_cancel("POST", f"/generations/{path_part(generation_id)}/cancel")
        return await self.retrieve(generation_id)

    async def confirm(self, listed: Generation) -> Generation:
        """Read a generation by itself, as lists leave out the metadata with the idempotency key."""
        generation = await self.retrieve(listed.id)
        return generation.model_copy(
            update={
                "prompt": generation.prompt or listed.prompt,
                "created_at": generation.created_at or listed.created_at,
            }
        )

    def compare(self, generation: Generation, shot: Shot) -> Match:
        """Compare prompt, model and parameters."""
        return responses.compare(generation, shot)

    async def _page(
        self, cursor: Cursor | None, *, status: Status | None = None, created_after: datetime | None = None
    ) -> ListPage:
        offset = int(cursor or 0)
        params: dict[str, str | int] = {"limit": PAGE_SIZE, "offset": offset}
        if status is not None:
            params["status"] = status.value
        if created_after is not None:
            params["created_after"] = int(created_after.timestamp())
        response = await self._api.send("GET", "/generations", params=params)
        return responses.read_page(response, provider=self.name, offset=offset, limit=PAGE_SIZE)

    @property
    def _page_size(self) -> int:
        return PAGE_SIZE

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verify `X-Sora-Signature` over the raw body, and read the event."""
        lowered = {name.lower(): value for name, value in headers.items()}
        signature = lowered.get("x-sora-signature", "").strip().lower()
        expected = [_sign(secret, body) for secret in self._webhook_secrets]
        if not any(hmac.compare_digest(own, signature.encode()) for own in expected):
            raise InvalidInput("webhook: the signature does not match any of the account's secrets")
        try:
            event = responses.read_event(json.loads(body))
        except (ValueError, TypeError, KeyError, OverflowError, OSError) as error:
            raise InvalidInput(f"webhook: the body is not an event of the contract ({error})") from error
        # The time is in the signed body, so that it can be believed only now.
        raise_if_replayed(event.sent_at.timestamp())
        return event


def _sign(secret: str, body: bytes) -> bytes:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest().encode()


def open_provider(environ: Mapping[str, str]) -> SoraProvider:
    """Open the server that `SORA_API_KEY`, `SORA_API_ENDPOINT`, `SORA_PLAN` and `SORA_WEBHOOK_SECRET` describe.

    Raises:
        InvalidInput: A variable is missing or wrong.
    """
    missing = [name for name in ("SORA_API_KEY", "SORA_API_ENDPOINT") if not environ.get(name)]
    if missing:
        raise InvalidInput(f"provider 'sora': set {' and '.join(missing)}, or name a saved sora-credentials block")
    return SoraProvider(
        api_key=environ["SORA_API_KEY"],
        endpoint=environ["SORA_API_ENDPOINT"],
        plan=environ.get("SORA_PLAN") or "api-tier-1",
        webhook_secrets=split_secrets(environ.get("SORA_WEBHOOK_SECRET"), named="SORA_WEBHOOK_SECRET"),
    )
