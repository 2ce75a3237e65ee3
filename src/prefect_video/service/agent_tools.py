"""The job API as tools of an agent (MCP): the same service, tokens, scopes, budgets and idempotency keys.

A tool names what a route of `/v1` does; what an agent repeats is answered by the same job, and never paid again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast

from pydantic import Field, ValidationError
from starlette.exceptions import HTTPException

from prefect_video import __version__
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Job, State
from prefect_video.pipeline.steps import traced_request
from prefect_video.service.api_tokens import ApiToken, Scope
from prefect_video.service.app import ServiceRuntime, open_runtime
from prefect_video.service.jobs import ENDED, GenerateBody, JobPage, JobView, ProjectBody, SpendView
from prefect_video.service.metrics import Metrics
from prefect_video.service.problems import Refused, build_problem, translate_errors
from prefect_video.service.settings import ServiceSettings

if TYPE_CHECKING:
    from fastmcp import FastMCP

_Tool = TypeVar("_Tool", bound=Callable[..., Awaitable[Any]])

ReadToken = Callable[[], str | None]
"""Returns the token of the agent that calls now; None where it has sent none."""

INSTRUCTIONS: Final = """Make videos from prompts. A video costs money and takes minutes.

Call `plan` first: it is free, and says what a video would cost and if it exists. `generate` reserves the cost within
the monthly budget of your token, and returns a job at once; the same arguments again are the same job, and are free.
Follow the job with `status` until it is completed, failed or cancelled; `held` waits for a human. `spend` says what is
left of the budget."""

_LONGEST_WAIT_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 5.0
_SWEEP_SECONDS: Final = 5.0
"""Longest time between two looks for generations that have ended: an agent waits for them."""


_JobId = Annotated[str, Field(max_length=200, description="Id of the job, as `generate` has returned it.")]
_Prompt = Annotated[str, Field(description="What the video shows, in one to five sentences.")]
_Seconds = Annotated[int | None, Field(description="Length in whole seconds; 10 if you give none.")]
_Ratio = Annotated[str | None, Field(description="Width to height, such as 16:9 (the default), 9:16 or 1:1.")]
_Resolution = Annotated[str | None, Field(description="From 360p to 4k; 1080p if you give none.")]
_Model = Annotated[str | None, Field(description="The provider's name of the model; sora-2 if you give none.")]
_Seed = Annotated[int | None, Field(description="Seed of the randomness, where the model takes one.")]
_Frame = Annotated[str | None, Field(description="https address of the image with which the video begins.")]
_Project = Annotated[str | None, Field(description="The folder in the store and the name in the ledger.")]
_Take = Annotated[int | None, Field(description="Number of the take: each is an independent video of the prompt.")]
_Provider = Annotated[str | None, Field(description="The account, where there are several; the first by default.")]
_Key = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=200,
        description="Your own id of the request, derived from the arguments if you give none. A key is paid once, also"
        " where its generation has failed: to try a failed one again, give a new key.",
    ),
]
_Wait = Annotated[
    float, Field(ge=0, le=_LONGEST_WAIT_SECONDS, description="Seconds to wait for the end; 0 to look once.")
]


@dataclass(frozen=True)
class AgentTools:
    """The tools, over the service that answers the job API too.

    Attributes:
        runtime: The service.
        read_token: Returns the token of the agent that calls.
    """

    runtime: ServiceRuntime
    read_token: ReadToken

    async def plan(
        self,
        prompt: _Prompt,
        duration: _Seconds = None,
        aspect_ratio: _Ratio = None,
        resolution: _Resolution = None,
        model: _Model = None,
        seed: _Seed = None,
        first_frame: _Frame = None,
        project: _Project = None,
        provider: _Provider = None,
    ) -> dict[str, Any]:
        """Say what a video would cost, if it exists already, and if it fits the budget. Free; nothing is sent."""
        token = self._authorize("submit")
        body = _build_body(
            prompt=prompt,
            duration=duration,
            aspect_ratio=aspect_ratio,
            resolution=resolution,
            model=model,
            seed=seed,
            first_frame=first_frame,
            project=project,
            provider=provider,
        )
        plan = await translate_errors(self.runtime.projects.plan(_as_project(body), token.requester))
        return plan.public()

    async def generate(
        self,
        prompt: _Prompt,
        duration: _Seconds = None,
        aspect_ratio: _Ratio = None,
        resolution: _Resolution = None,
        model: _Model = None,
        seed: _Seed = None,
        first_frame: _Frame = None,
        project: _Project = None,
        take: _Take = None,
        provider: _Provider = None,
        idempotency_key: _Key = None,
    ) -> JobView:
        """Request a video, which costs money; returns its job at once. The same arguments again are the same job."""
        token = self._authorize("submit")
        body = _build_body(
            prompt=prompt,
            duration=duration,
            aspect_ratio=aspect_ratio,
            resolution=resolution,
            model=model,
            seed=seed,
            first_frame=first_frame,
            project=project,
            take=take,
            provider=provider,
        )
        key = idempotency_key or f"arguments-{body.digest}"
        metrics = self.runtime.metrics
        with traced_request("generate"):
            created = self.runtime.jobs.create(body, key=key, requester=token.requester)
            view, outcome = await translate_errors(created, metrics)
        metrics.jobs.labels(outcome).inc()
        return await self._with_link(view, token)

    async def status(self, job_id: _JobId, wait_seconds: _Wait = 0.0) -> JobView:
        """Return the state of a job; wait for its end first if you like."""
        token = self._authorize("read")
        until = time.monotonic() + wait_seconds
        while True:
            mark = self.runtime.changes.mark()
            job = await self._require_job(job_id)
            view = self.runtime.jobs.build_view(job)
            left = until - time.monotonic()
            if view.status in ENDED or view.status == "held" or left <= 0:
                return await self._with_link(view, token)
            await self.runtime.changes.wait(mark, min(left, _LOOK_SECONDS))

    async def jobs(
        self,
        project: _Project = None,
        state: Annotated[State | None, Field(description="Only jobs in this state.")] = None,
        limit: Annotated[int, Field(ge=1, le=100, description="At most this many, newest first.")] = 20,
    ) -> JobPage:
        """List jobs, newest first: those of every token, and of the operator's own runs."""
        self._authorize("read")
        name = None if project is None else _build_body(prompt="any", project=project).project
        found = await translate_errors(self.runtime.jobs.page(limit=limit, after=None, project=name, state=state))
        return JobPage(jobs=[self.runtime.jobs.build_view(job) for job in found])

    async def cancel(self, job_id: _JobId) -> JobView:
        """Cancel a job, at the provider too where it still can; one that has ended stays as it is."""
        self._authorize("cancel")
        cancelled = await translate_errors(self.runtime.jobs.cancel(await self._require_job(job_id)))
        if cancelled.error is not None or cancelled.is_still_running:
            raise Refused(409, "not-cancelled", "The job is not cancelled", cancelled.error or cancelled.outcome)
        return self.runtime.jobs.build_view(cancelled.job)

    async def spend(self) -> SpendView:
        """Return what your token has committed in this month, and what is left of its budget."""
        token = self._authorize("read")
        return await translate_errors(self.runtime.jobs.spend(token.requester))

    def _authorize(self, scope: Scope) -> ApiToken:
        return self.runtime.api.guard.authorize(self.read_token(), scope)

    async def _require_job(self, job_id: str) -> Job:
        # No database has an id with control characters, and not every one can be queried for it.
        job = await translate_errors(self.runtime.jobs.find_job(job_id)) if job_id.isprintable() else None
        if job is None:
            raise HTTPException(404, f"there is no job {job_id!r}")
        return job

    async def _with_link(self, view: JobView, token: ApiToken) -> JobView:
        """Add the link that plays the video, where `serve` is reachable at a public address."""
        if view.uri is None:
            return view
        url = self.runtime.api.links.build(None, await self._require_job(view.job_id), token)
        return view.model_copy(update={"url": url})


def _build_body(**fields: Any) -> GenerateBody:
    """Build a request of the job API from what an agent has given.

    Raises:
        HTTPException: An argument cannot be used (422).
    """
    try:
        return GenerateBody.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        faults = error.errors(include_input=False)
        detail = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
        raise HTTPException(422, detail) from error


def _as_project(body: GenerateBody) -> ProjectBody:
    """Build the project of the one requested video, which can be planned.

    Raises:
        HTTPException: A field does not fit the others (422).
    """
    try:
        project = body.build_project().model_copy(update={"provider": body.provider})
    except InvalidInput as error:
        raise HTTPException(422, str(error)) from error
    return ProjectBody.model_validate(project.model_dump())


@asynccontextmanager
async def open_agent_tools(settings: ServiceSettings, read_token: ReadToken) -> AsyncIterator[AgentTools]:
    """Open the service and its tools for as long as the context lasts; it stores the videos of its jobs too.

    Raises:
        InvalidInput: `fastmcp` is not installed, there is no token, or an account, store or ledger is not known.
        LedgerError: The ledger cannot be used.
    """
    if find_spec("fastmcp") is None:
        raise InvalidInput("mcp: fastmcp is not installed: pip install 'prefect-video[mcp]'")
    if not settings.has_job_api:
        raise InvalidInput(
            "mcp: no token is known: make one with `prefect-video tokens create agent --scope submit --scope read"
            " --monthly-usd 20 --file tokens.yaml`, and set PREFECT_VIDEO_SERVICE_TOKENS_FILE"
        )
    sweep = min(settings.sweep_seconds, _SWEEP_SECONDS)
    settings = settings.model_copy(update={"collect": True, "sweep_seconds": sweep})
    async with open_runtime(settings, Metrics()) as runtime:
        yield AgentTools(runtime, read_token)


def build_agent_server(tools: AgentTools, *, over_http: bool = False) -> FastMCP:
    """Build the MCP server of the tools; over HTTP each request carries its own bearer token."""
    from fastmcp import FastMCP
    from fastmcp.exceptions import ToolError
    from fastmcp.server.auth import AccessToken, TokenVerifier

    def refusing(tool: _Tool) -> _Tool:
        """Report a refusal as the job API does: its kind, the cause, and what to do."""

        @wraps(tool)
        async def call(*args: Any, **arguments: Any) -> Any:
            try:
                return await tool(*args, **arguments)
            except HTTPException as refusal:
                problem = build_problem(refusal)
                text = f"{problem.status} {problem.title}: {problem.detail}"
            # Raised outside the `except`: a refusal is an answer, whose traceback belongs in no log.
            raise ToolError(text, log_level=logging.DEBUG)

        return cast(_Tool, call)

    class Tokens(TokenVerifier):
        """Verifier of the job API's tokens; each tool checks scope and rate by itself."""

        async def verify_token(self, token: str) -> AccessToken | None:
            known = tools.runtime.tokens.authenticate(token)
            return (
                None if known is None else AccessToken(token=token, client_id=known.name, scopes=sorted(known.scopes))
            )

    server: FastMCP = FastMCP(
        "prefect-video",
        INSTRUCTIONS,
        version=__version__,
        auth=Tokens() if over_http else None,
        mask_error_details=True,
    )
    for tool in (tools.plan, tools.status, tools.jobs, tools.spend):
        server.tool(refusing(tool), annotations={"readOnlyHint": True})
    server.tool(refusing(tools.generate), annotations={"destructiveHint": False, "idempotentHint": True})
    server.tool(refusing(tools.cancel), annotations={"destructiveHint": True, "idempotentHint": True})
    return server


def read_request_token() -> str | None:
    """Return the bearer token of the MCP request that is being answered."""
    from fastmcp.server.dependencies import get_access_token

    access = get_access_token()
    return None if access is None else access.token
