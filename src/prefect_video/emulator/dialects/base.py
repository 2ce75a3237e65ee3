"""What a dialect does around its own words: who asks, what goes into the books, which fault is due."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from prefect_video.emulator.download_host import CountedResponse, serve_video
from prefect_video.emulator.engine import Engine
from prefect_video.emulator.errors import ApiError
from prefect_video.emulator.faults.injection import with_faults
from prefect_video.emulator.faults.rules import FaultRule, Operation
from prefect_video.emulator.generation import EmulatedGeneration, Failure, GenerationRequest
from prefect_video.emulator.signed_urls import Links, LinkSigner

RequestReader = Callable[[Request], Awaitable[GenerationRequest]]
Renderer = Callable[[EmulatedGeneration, FaultRule | None], Response]


class DialectHandler:
    """The counter at which the requests of one dialect are taken in.

    Args:
        engine: Where the work is done.
        signer: Mints the links to finished videos.
        dialect: Name of the dialect.
        scheme: The word before the key in the `Authorization` header.
        queueing: Whether orders are let in as job queues do (see `Engine.submit`).
        moderated_later: Whether prompts against policy are let in, and fail (likewise).
        id_prefix: What ids begin with.
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
        """Whose key the request carries.

        Raises:
            Refusal: None that is known.
        """
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        account = self.engine.api_keys.authenticate(f"Bearer {key}") if scheme.lower() == self._scheme.lower() else None
        if account is None:
            raise ApiError("authentication", f"Missing or unknown API key; send Authorization: {self._scheme} KEY")
        return account

    async def submit(self, request: Request, read: RequestReader, render: Renderer) -> Response:
        """Takes an order in and answers it.

        Raises:
            Refusal: It is not accepted.
        """
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
        accepted = False

        async def answer(rule: FaultRule | None) -> Response:
            nonlocal accepted
            broken = rule is not None and rule.kind == "generation_error"
            generation = self.engine.submit(
                account,
                self._dialect,
                generation_request,
                fail_at_once=broken,
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
            if not accepted:
                usage.count("refused", prompt=generation_request.prompt, key=key)
                await self.engine.commit()

    async def retrieve(self, request: Request, render: Renderer) -> Response:
        """Answers a look at one generation.

        Raises:
            Refusal: There is none of that id.
        """
        self.engine.usage.count("polled")
        generation = self.get(request, "retrieve")
        label = self.engine.api_keys.label(generation.account)
        self.engine.usage.count_scoped("polled", prompt=generation.request.prompt, key=label)
        return await self.respond_about(generation, "retrieve", render)

    async def list_all(
        self, request: Request, render: Callable[[list[EmulatedGeneration], FaultRule | None], Response]
    ) -> Response:
        """Answers a look at all generations of the account, newest first.

        Raises:
            Refusal: Listing is off.
        """
        self.engine.usage.count_request("list")
        self.engine.usage.count("listed")
        account = self.authenticate(request)

        async def answer(rule: FaultRule | None) -> Response:
            own = [one for one in self.engine.list_generations(account) if one.dialect == self._dialect]
            return render(own, rule)

        return await with_faults(self.engine, "list", answer)

    async def content(self, request: Request) -> Response:
        """The MP4 itself, to whoever has the key.

        Raises:
            Refusal: There is none yet.
        """
        generation = self.get(request, "content")
        if generation.status != "completed":
            raise ApiError("not_found", f"Generation {generation.id} has no video; it is {generation.status}")

        async def answer(rule: FaultRule | None) -> Response:
            if rule is not None and rule.kind == "expired_link":
                raise ApiError("not_found", "The video is gone", status=410)
            return await serve_video(self.engine, generation, rule)

        response = await with_faults(
            self.engine, "content", answer, prompt=generation.request.prompt, generation_id=generation.id
        )
        return CountedResponse(response, lambda number: self.engine.usage.count("download_bytes", amount=number))

    async def respond_about(self, generation: EmulatedGeneration, operation: Operation, render: Renderer) -> Response:
        """Takes a request about one generation through the fault that is due for it."""

        async def answer(rule: FaultRule | None) -> Response:
            return render(generation, rule)

        return await with_faults(
            self.engine, operation, answer, prompt=generation.request.prompt, generation_id=generation.id
        )

    def get(self, request: Request, operation: Operation) -> EmulatedGeneration:
        """The generation that the path names.

        Raises:
            Refusal: There is none under this key in this dialect.
        """
        self.engine.usage.count_request(operation)
        generation = self.engine.retrieve(self.authenticate(request), request.path_params["id"])
        if generation.dialect != self._dialect:
            raise ApiError("not_found", f"No generation with id {generation.id!r} exists under this key")
        return generation

    def links(self, generation: EmulatedGeneration, rule: FaultRule | None = None, *, at: float | None = None) -> Links:
        """Links to a finished video, minted now or at another Unix time; dead ones where the fault says so."""
        expired = rule is not None and rule.kind == "expired_link"
        mint = self._signer.mint_expired if expired else self._signer.mint
        return mint(generation.id, at if at is not None and not expired else time.time())


def build_billed_failure(rule: FaultRule | None) -> Failure | None:
    """Why a generation will fail, where a fault says so."""
    return Failure(code=rule.code, message=rule.message) if rule is not None and rule.kind == "blocked" else None


def status_with_fault(render: str, rule: FaultRule | None) -> str:
    """A status word, or the one that a fault puts in its place."""
    return rule.status if rule is not None and rule.kind == "unknown_status" else render
