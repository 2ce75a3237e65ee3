"""fal's provider (`queue.fal.run`): hundreds of models behind one job queue.

A generation's id is the path of its job on the queue, such as `fal-ai/veo3/requests/<request id>`: the addresses that
fal returns are used, as they cannot be built from the request id alone. The inputs of its models are in
`model_inputs.yaml`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx

from prefect_video.errors import InvalidInput, InvalidResponse, NotFound
from prefect_video.generations import Generation, ProviderFault, Status, WebhookEvent
from prefect_video.providers.base import Capabilities
from prefect_video.providers.capabilities import check_supported
from prefect_video.providers.fal import responses
from prefect_video.providers.fal.webhooks import KEYS_URL, SigningKeys, read_webhook
from prefect_video.providers.hosted_models import ASPECT_RATIOS, LONGEST_SECONDS, RESOLUTIONS, HostedModels
from prefect_video.providers.http import HttpSettings, check_endpoint
from prefect_video.providers.http_provider import HttpProvider
from prefect_video.providers.reference_images import image_urls
from prefect_video.providers.responses import path_part, unreadable_submit
from prefect_video.shots import Shot

logger = logging.getLogger(__name__)

QUEUE_URL: Final = "https://queue.fal.run"

_NAMESPACES: Final = ("workflows", "comfy")
_MODEL: Final = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)+")
_JOB: Final = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)+/requests/[A-Za-z0-9._~%-]+")


class FalProvider(HttpProvider):
    """Provider of fal's queue.

    There is no list of jobs, so that an unanswered submit is held for a human; only a job that has not started can be
    cancelled.

    Args:
        api_key: Sent as `Authorization: Key …` to `queue_url` and nowhere else.
        queue_url: Address of the queue.
        keys_url: Address of the keys with which fal signs webhooks.
        models: Models of this account by their names in project files.
        usd_per_second: Price of a second for this account; None for the price table.
        name: Name of this provider.
        settings: Timeouts and repeats.
        transport: For tests at the transport boundary.

    Raises:
        InvalidInput: The key or an address is not usable.
    """

    def __init__(
        self,
        *,
        api_key: str,
        queue_url: str = QUEUE_URL,
        keys_url: str = KEYS_URL,
        models: Mapping[str, str] | None = None,
        usd_per_second: Decimal | None = None,
        name: str = "fal",
        settings: HttpSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._models = HostedModels("fal", models)
        capabilities = Capabilities(
            sizes=dict.fromkeys(RESOLUTIONS, LONGEST_SECONDS),
            aspect_ratios=ASPECT_RATIOS,
            can_list=False,
            can_cancel=True,
            lookup="none",
            # Only a job that has not started can be cancelled, and a failure is charged only where the request is
            # the cause.
            free_outcomes=(Status.FAILED, Status.CANCELLED),
            fetches_webhook_keys=True,
            aliases=self._models.own_aliases,
        )
        super().__init__(
            name=name,
            api_key=api_key,
            base_url=queue_url,
            capabilities=capabilities,
            error_from=lambda response: responses.read_error(response, provider=name),
            address_label="queue",
            scheme="Key",
            usd_per_second=usd_per_second,
            settings=settings,
            transport=transport,
        )
        self._keys = SigningKeys(provider=name, url=check_endpoint(keys_url, named=f"{name} keys"))
        # The same queue, with another table of errors: in place of a result, an error may be the job's own end.
        self._results = self._open_client(lambda response: responses.read_result_error(response, provider=name))

    async def check_access(self) -> None:
        """Read nothing: without a job the queue offers no free request."""

    def capabilities_for(self, shot: Shot) -> Capabilities:
        """Return the capabilities of the shot's model."""
        return self._models.input(shot).narrow(self.capabilities)

    def check(self, shot: Shot) -> None:
        """Reject a shot that its model cannot make, or whose model has no name of fal's form."""
        name = self._models.name(shot)
        if not _MODEL.fullmatch(name) or ".." in name:
            raise InvalidInput(f"shot {shot.id!r}: model: {name!r} is not a model of fal, such as fal-ai/veo3/fast")
        check_supported(shot, self.capabilities_for(shot), by=f"{self.name} model {name!r}")
        self._models.input(shot).check_options(shot, by=f"{self.name} model {name!r}")

    async def submit(
        self, shot: Shot, *, idempotency_key: str, project: str, webhook_url: str | None = None
    ) -> Generation:
        """Queue the shot once.

        A header forbids fal to repeat it either, as each run is paid.
        """
        model = self._models.name(shot)
        response = await self._api.send_once(
            "POST",
            f"/{model}",
            params={"fal_webhook": webhook_url} if webhook_url else None,
            json=self._models.input(shot).arguments(shot, await image_urls(shot, provider=self.name)),
            headers={"x-fal-no-retry": "1"},
        )
        try:
            queued = responses.read_queued_request(response, provider=self.name)
        except InvalidResponse as error:
            raise unreadable_submit(error, response, provider=self.name) from error
        return Generation(
            id=self._find_job_path(queued, model),
            provider=self.name,
            status=Status.QUEUED,
            model=model,
            prompt=shot.prompt,
        )

    async def retrieve(self, generation_id: str) -> Generation:
        """Read the status, and the result once there is one."""
        response = await self._api.send("GET", f"/{_check_job_path(generation_id)}/status")
        status, reported = responses.read_status(response, provider=self.name, generation_id=generation_id)
        if status is not Status.COMPLETED:
            return self._build_generation(generation_id, status, reported.fault)
        path = self._path_below_queue(reported.response_url) or generation_id
        try:
            result_response = await self._results.send("GET", f"/{path}")
        except responses.ResultError as error:
            return self._build_generation(generation_id, responses.final_status(error.fault), error.fault)
        if result_response.status_code == 202:
            # The status is ahead of the result.
            return self._build_generation(generation_id, Status.PROCESSING)
        result = responses.read_result(result_response, provider=self.name)
        completed = {"result": result, "seconds_taken": reported.run_seconds}
        return self._build_generation(generation_id, status).model_copy(update=completed)

    async def cancel(self, generation_id: str) -> Generation:
        """Take the job from the queue if it has not started, and read it."""
        was_cancelled = await self._request_cancel("PUT", f"/{_check_job_path(generation_id)}/cancel")
        try:
            # Where the request was rejected, the status shows how the job has ended.
            return await self.retrieve(generation_id)
        except NotFound:
            if not was_cancelled:
                raise
            # The queue may forget a job that was taken from it.
            return self._build_generation(generation_id, Status.CANCELLED)

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verify fal's signature and read the event.

        The event has the request id alone, with which the generation's id ends. The first delivery of a day fetches
        fal's keys and blocks until then: call it in a thread.

        Raises:
            InvalidInput: The signature, the time or the body is not right.
            ProviderUnavailable: fal's keys cannot be fetched.
        """
        return read_webhook(headers, body, self._keys)

    async def aclose(self) -> None:
        """Close all connections."""
        await super().aclose()
        await self._results.aclose()

    def _model(self, shot: Shot) -> str:
        return self._models.name(shot)

    def _build_generation(self, generation_id: str, status: Status, fault: ProviderFault | None = None) -> Generation:
        return Generation(id=generation_id, provider=self.name, status=status, fault=fault)

    def _find_job_path(self, queued: responses.QueuedRequest, model: str) -> str:
        """Return the path of a job on the queue, from the address that fal returned."""
        path = self._path_below_queue((queued.status_url or "").removesuffix("/status"))
        if path is not None and _JOB.fullmatch(path):
            return path
        # The key goes to the queue only, whatever address the response has.
        logger.warning("%s request %s: its address is not on the queue and is not used", self.name, queued.request_id)
        return f"{_app_path(model)}/requests/{path_part(queued.request_id)}"

    def _path_below_queue(self, url: str | None) -> str | None:
        """Return the path of a URL below the queue's address; None for an address elsewhere."""
        prefix = f"{urlsplit(self._base_url).path}/"
        path = urlsplit(url).path if url and self._is_own_url(url) else ""
        below = path.removeprefix(prefix)
        return below if path.startswith(prefix) and below and ".." not in below else None


def _app_path(model: str) -> str:
    """Return owner and app of a model: its jobs are there, whatever follows in the model's name."""
    parts = model.split("/")
    return "/".join(parts[: 3 if parts[0] in _NAMESPACES else 2])


def _check_job_path(generation_id: str) -> str:
    if not _JOB.fullmatch(generation_id) or ".." in unquote(generation_id):
        raise InvalidInput(f"generation id {generation_id!r} is not a job of fal, such as fal-ai/veo3/requests/<id>")
    return generation_id


def open_provider(environ: Mapping[str, str]) -> FalProvider:
    """Open fal with `FAL_KEY`, at `FAL_QUEUE_URL` and with the signing keys at `FAL_KEYS_URL` where set.

    Raises:
        InvalidInput: A variable is missing or wrong.
    """
    if not environ.get("FAL_KEY"):
        raise InvalidInput("provider 'fal': set FAL_KEY, or name a saved fal-credentials block")
    return FalProvider(
        api_key=environ["FAL_KEY"],
        queue_url=environ.get("FAL_QUEUE_URL") or QUEUE_URL,
        keys_url=environ.get("FAL_KEYS_URL") or KEYS_URL,
    )
