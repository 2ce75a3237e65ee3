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
from prefect_video.emulator.generation import Failure, Generation, GenerationRequest
from prefect_video.emulator.signed_urls import Links, LinkSigner

Read = Callable[[Request], Awaitable[GenerationRequest]]
Wording = Callable[[Generation, FaultRule | None], Response]


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

    def account_of(self, request: Request) -> str:
        """Whose key the request carries.

        Raises:
            Refusal: None that is known.
        """
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        account = self.engine.accounts.authenticate(f"Bearer {key}") if scheme.lower() == self._scheme.lower() else None
        if account is None:
            raise ApiError("authentication", f"Missing or unknown API key; send Authorization: {self._scheme} KEY")
        return account

    async def submit(self, request: Request, read: Read, word: Wording) -> Response:
        """Takes an order in and answers it.

        Raises:
            Refusal: It is not accepted.
        """
        books = self.engine.books
        books.count_request("submit")
        books.count("submitted")
        key: str | None = None
        try:
            account = self.account_of(request)
            key = self.engine.accounts.label(account)
            books.count_scoped("submitted", key=key)
            order = await read(request)
        except ApiError:
            books.count("refused", key=key)
            await self.engine.commit()
            raise
        books.count_scoped("submitted", prompt=order.prompt)
        accepted = False

        async def answer(rule: FaultRule | None) -> Response:
            nonlocal accepted
            broken = rule is not None and rule.kind == "generation_error"
            generation = self.engine.submit(
                account,
                self._dialect,
                order,
                fail_at_once=broken,
                queueing=self._queueing,
                moderated_later=self._moderated_later,
                id_prefix=self._id_prefix,
                verdict=verdict_of(rule),
            )
            accepted = True
            return word(generation, rule)

        try:
            return await with_faults(self.engine, "submit", answer, prompt=order.prompt)
        finally:
            if not accepted:
                books.count("refused", prompt=order.prompt, key=key)
                await self.engine.commit()

    async def retrieve(self, request: Request, word: Wording) -> Response:
        """Answers a look at one generation.

        Raises:
            Refusal: There is none of that id.
        """
        self.engine.books.count("polled")
        generation = self.get(request, "retrieve")
        label = self.engine.accounts.label(generation.account)
        self.engine.books.count_scoped("polled", prompt=generation.request.prompt, key=label)
        return await self.respond_about(generation, "retrieve", word)

    async def list_all(
        self, request: Request, word: Callable[[list[Generation], FaultRule | None], Response]
    ) -> Response:
        """Answers a look at all generations of the account, newest first.

        Raises:
            Refusal: Listing is off.
        """
        self.engine.books.count_request("list")
        self.engine.books.count("listed")
        account = self.account_of(request)

        async def answer(rule: FaultRule | None) -> Response:
            of_dialect = [one for one in self.engine.list_generations(account) if one.dialect == self._dialect]
            return word(of_dialect, rule)

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
        return CountedResponse(response, lambda number: self.engine.books.count("download_bytes", amount=number))

    async def respond_about(self, generation: Generation, operation: Operation, word: Wording) -> Response:
        """Takes a request about one generation through the fault that is due for it."""

        async def answer(rule: FaultRule | None) -> Response:
            return word(generation, rule)

        return await with_faults(
            self.engine, operation, answer, prompt=generation.request.prompt, generation_id=generation.id
        )

    def get(self, request: Request, operation: Operation) -> Generation:
        """The generation that the path names.

        Raises:
            Refusal: There is none under this key in this dialect.
        """
        self.engine.books.count_request(operation)
        generation = self.engine.retrieve(self.account_of(request), request.path_params["id"])
        if generation.dialect != self._dialect:
            raise ApiError("not_found", f"No generation with id {generation.id!r} exists under this key")
        return generation

    def links(self, generation: Generation, rule: FaultRule | None = None, *, at: float | None = None) -> Links:
        """Links to a finished video, minted now or at another Unix time; dead ones where the fault says so."""
        expired = rule is not None and rule.kind == "expired_link"
        mint = self._signer.mint_expired if expired else self._signer.mint
        return mint(generation.id, at if at is not None and not expired else time.time())


def verdict_of(rule: FaultRule | None) -> Failure | None:
    """Why a generation will fail, where a fault says so."""
    return Failure(code=rule.code, message=rule.message) if rule is not None and rule.kind == "blocked" else None


def status_with_fault(word: str, rule: FaultRule | None) -> str:
    """A status word, or the one that a fault puts in its place."""
    return rule.status if rule is not None and rule.kind == "unknown_status" else word
