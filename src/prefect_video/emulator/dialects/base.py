"""Request handling shared by all dialects: authentication, usage, faults and the calls of the engine."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from prefect_video.emulator.download_host import CountedResponse, serve_video
from prefect_video.emulator.engine import Engine
from prefect_video.emulator.errors import ApiError
from prefect_video.emulator.faults import FaultRule, Operation, is_due
from prefect_video.emulator.faults.injection import with_faults
from prefect_video.emulator.generation import EmulatedGeneration, Failure, GenerationRequest
from prefect_video.emulator.signed_urls import Links, LinkSigner

RequestReader = Callable[[Request], Awaitable[GenerationRequest]]
Renderer = Callable[[EmulatedGeneration, FaultRule | None], Response]
ListRenderer = Callable[[list[EmulatedGeneration], FaultRule | None], Response]


class DialectHandler:
    """Handler of one dialect's requests; the dialect only reads bodies and renders answers.

    Args:
        engine: Engine that does the work.
        signer: Signer of the links to finished videos.
        dialect: Name of the dialect.
        scheme: Scheme before the key in the `Authorization` header.
        queueing: True to accept every request, as job queues do (see `Engine.submit`).
        moderated_later: True to accept prompts against policy, and fail them (likewise).
        id_prefix: Beginning of generation ids.
    """

    def __init__(
        self,
        engine: Engine,
        signer: LinkSigner,
        dialect: str,
        *,
        scheme: str = "Bearer",
        queueing: bool = False,
        moderated_later: bool = False,
        id_prefix: str = "gen_",
    ) -> None:
        self.engine = engine
        self._signer = signer
        self._dialect = dialect
        self._scheme = scheme
        self._queueing = queueing
        self._moderated_later = moderated_later
        self._id_prefix = id_prefix

    def authenticate(self, request: Request) -> str:
        """Return the account of the request's API key.

        Raises:
            ApiError: The key is missing or unknown.
        """
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        account = self.engine.api_keys.authenticate(f"Bearer {key}") if scheme.lower() == self._scheme.lower() else None
        if account is None:
            raise ApiError("authentication", f"Missing or unknown API key; send Authorization: {self._scheme} KEY")
        return account

    async def submit(self, request: Request, read: RequestReader, render: Renderer) -> Response:
        """Accept a submit and render its generation.

        Args:
            request: HTTP request.
            read: Reads the requested video from it.
            render: Renders the accepted generation.

        Raises:
            ApiError: The submit is rejected.
        """
        account, generation_request = await self._read_submit(request, read)
        accepted = False

        async def answer(rule: FaultRule | None) -> Response:
            nonlocal accepted
            for _ in range(2 if rule is not None and rule.kind == "repeated" else 1):
                generation = self.engine.submit(
                    account,
                    self._dialect,
                    generation_request,
                    fail_at_once=rule is not None and rule.kind == "generation_error",
                    queueing=self._queueing,
                    moderated_later=self._moderated_later,
                    id_prefix=self._id_prefix,
                    billed_failure=build_billed_failure(rule),
                )
                accepted = True
            return render(generation, rule)

        try:
            return await with_faults(self.engine, "submit", answer, prompt=generation_request.prompt)
        finally:
            # By what the engine did, not by what the client sees: a fault may answer 500 to an accepted submit.
            if not accepted:
                key = self.engine.api_keys.label(account)
                self.engine.usage.count("refused", prompt=generation_request.prompt, key=key)
                await self.engine.commit()

    async def retrieve(self, request: Request, render: Renderer) -> Response:
        """Answer a poll of one generation.

        Raises:
            ApiError: There is no generation of this id.
        """
        self.engine.usage.count("polled")
        generation = self.get(request, "retrieve")
        label = self.engine.api_keys.label(generation.account)
        self.engine.usage.count_scoped("polled", prompt=generation.request.prompt, key=label)
        return await self.respond_about(generation, "retrieve", render)

    async def list_all(self, request: Request, render: ListRenderer) -> Response:
        """Answer a list request with the account's generations in this dialect, newest first.

        Raises:
            ApiError: Listing is off.
        """
        self.engine.usage.count_request("list")
        self.engine.usage.count("listed")
        account = self.authenticate(request)

        async def answer(rule: FaultRule | None) -> Response:
            generations = self.engine.list_generations(account)
            own = [generation for generation in generations if generation.dialect == self._dialect]
            return render(own, rule if is_due(rule, request.query_params) else None)

        return await with_faults(self.engine, "list", answer)

    async def content(self, request: Request) -> Response:
        """Answer with the MP4 itself, authenticated by the API key.

        Raises:
            ApiError: There is no video yet.
        """
        generation = self.get(request, "content")
        if generation.status != "completed":
            raise ApiError("not_found", f"Generation {generation.id} has no video; it is {generation.status}")

        async def answer(rule: FaultRule | None) -> Response:
            if rule is not None and rule.kind == "expired_link":
                raise ApiError("not_found", "The video is no longer available", status=410)
            return await serve_video(self.engine, generation, rule)

        response = await with_faults(
            self.engine, "content", answer, prompt=generation.request.prompt, generation_id=generation.id
        )
        return CountedResponse(response, lambda number: self.engine.usage.count("download_bytes", amount=number))

    async def respond_about(self, generation: EmulatedGeneration, operation: Operation, render: Renderer) -> Response:
        """Answer a request about one generation, with the fault that is due for it."""

        async def answer(rule: FaultRule | None) -> Response:
            return render(generation, rule)

        return await with_faults(
            self.engine, operation, answer, prompt=generation.request.prompt, generation_id=generation.id
        )

    def get(self, request: Request, operation: Operation) -> EmulatedGeneration:
        """Return the generation that the path names.

        Raises:
            ApiError: There is none of this id under the key and in this dialect.
        """
        self.engine.usage.count_request(operation)
        return self._find(request)

    def find_original(self, request: Request) -> EmulatedGeneration:
        """Return the finished generation that the path of a remix names.

        Raises:
            ApiError: There is none of this id under the key and in this dialect, or it has no video.
        """
        original = self._find(request)
        if original.status != "completed":
            raise ApiError("invalid", f"Generation {original.id} is {original.status}; only a finished one is remixed")
        return original

    def _find(self, request: Request) -> EmulatedGeneration:
        generation = self.engine.retrieve(self.authenticate(request), request.path_params["id"])
        if generation.dialect != self._dialect:
            raise ApiError("not_found", f"No generation with id {generation.id!r} exists under this key")
        return generation

    def links(self, generation: EmulatedGeneration, rule: FaultRule | None = None, *, at: float | None = None) -> Links:
        """Mint links to a finished video, as of now or of another Unix time; expired ones under such a fault."""
        expired = rule is not None and rule.kind == "expired_link"
        mint = self._signer.mint_expired if expired else self._signer.mint
        return mint(generation.id, at if at is not None and not expired else time.time())

    async def _read_submit(self, request: Request, read: RequestReader) -> tuple[str, GenerationRequest]:
        """Return account and requested video, and count the submit; a rejected one is durable before it is answered."""
        usage = self.engine.usage
        usage.count_request("submit")
        usage.count("submitted")
        key: str | None = None
        try:
            account = self.authenticate(request)
            key = self.engine.api_keys.label(account)
            usage.count_scoped("submitted", key=key)
            generation_request = await read(request)
        except ApiError:
            usage.count("refused", key=key)
            await self.engine.commit()
            raise
        usage.count_scoped("submitted", prompt=generation_request.prompt)
        return account, generation_request


def build_billed_failure(rule: FaultRule | None) -> Failure | None:
    """Return the failure that a `blocked` fault plans for a generation; None under any other rule."""
    return Failure(code=rule.code, message=rule.message) if rule is not None and rule.kind == "blocked" else None


def status_with_fault(status: str, rule: FaultRule | None) -> str:
    """Return a status string, or the one that an `unknown_status` fault puts in its place."""
    return rule.status if rule is not None and rule.kind == "unknown_status" else status


def file_size_with_fault(generation: EmulatedGeneration, rule: FaultRule | None) -> int | None:
    """Return the size of a video in bytes, or another one under a `wrong_size` fault."""
    if rule is None or rule.kind != "wrong_size" or generation.file_size is None:
        return generation.file_size
    return generation.file_size + rule.off_by


def base_url(request: Request) -> str:
    """Return scheme and host under which the client reached the emulator."""
    return f"{request.url.scheme}://{request.url.netloc}"


def retry_after_headers(error: ApiError) -> dict[str, str]:
    """Return the `Retry-After` header of an error in whole seconds; no header where waiting does not help."""
    return {"Retry-After": str(math.ceil(error.retry_after))} if error.retry_after is not None else {}
