"""The routes of the job API, under `/v1`, and the two of the first form: `POST /generate` and `GET /jobs/{job_id}`."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from pydantic import AwareDatetime, BeforeValidator
from pydantic.config import JsonDict
from starlette.exceptions import HTTPException

from prefect_video.downloads import check_url
from prefect_video.errors import DownloadError
from prefect_video.ledger import Job, JobPosition, State
from prefect_video.pipeline.steps import traced_request
from prefect_video.service.api_tokens import ApiToken, Scope
from prefect_video.service.jobs.bodies import BatchBody, GenerateBody, ProjectBody
from prefect_video.service.jobs.callback_policy import build_policy
from prefect_video.service.jobs.event_stream import JobChanges, stream_events
from prefect_video.service.jobs.guard import BEARER, Guard, token_of
from prefect_video.service.jobs.project_service import ProjectService
from prefect_video.service.jobs.service import JobService
from prefect_video.service.jobs.video_links import VideoLinks, serve_video
from prefect_video.service.jobs.views import ENDED, PLAN, BatchItem, BatchView, JobPage, JobView, ProjectView, SpendView
from prefect_video.service.metrics import Metrics
from prefect_video.service.problems import Refused, build_problem, describe_problems, translate_errors
from prefect_video.service.sessions import Sessions
from prefect_video.shots import Identifier

_JobId = Annotated[str, Path(description="Id of the job.", max_length=200)]
_IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Your own id of the request: repeated with it, a request is the same job, and is paid once.",
    ),
]
_LastEvent = Annotated[
    int, Header(alias="Last-Event-ID", ge=0, le=2**63 - 1, description="Number of the last event that you have.")
]


def _require_date(value: Any) -> Any:
    """Refuse a number, which validation would otherwise take for the seconds or milliseconds since 1970."""
    if isinstance(value, str) and not _DATE.match(value):
        raise ValueError("a date and time with its offset, such as 2026-01-31T12:00:00Z")
    return value


_Since = Annotated[AwareDatetime, BeforeValidator(_require_date)]
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]")
_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "id": {"type": "string", "description": "Number of the event, for `Last-Event-ID`."},
        "event": {"type": "string", "enum": ["state", "end"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
"""Form of one server-sent event, as tools that check streams of them expect it."""
_REFUSALS: Final = (400, 401, 403, 408, 413, 422, 429, 503)
_LARGEST_YEAR: Final = 9998


@dataclass(frozen=True)
class JobApi:
    """Parts from which the routes of the job API are built.

    Attributes:
        jobs: Creates and finds jobs.
        projects: Creates and finds projects.
        sessions: The open sessions, one per account.
        guard: Checks tokens, scopes, rates and sizes.
        links: Builds links to videos.
        changes: Says when a job may have changed.
        metrics: Counts requests by outcome.
        project_limit_bytes: Largest body of a project or a batch.
        callback_hosts: Hosts that may be called although they are not public.
        event_streams: Streams of events that may be open at once.
    """

    jobs: JobService
    projects: ProjectService
    sessions: Sessions
    guard: Guard
    links: VideoLinks
    changes: JobChanges
    metrics: Metrics
    project_limit_bytes: int
    callback_hosts: frozenset[str]
    event_streams: int


def job_routes(api: JobApi) -> APIRouter:
    """Build the job API's routes, behind bearer tokens."""
    # This dependency only documents the scheme in OpenAPI: the guarded route checks the token before it runs.
    routes = APIRouter(dependencies=[Depends(BEARER)])
    handlers = _Handlers(api)
    read = handlers.route("read")
    large = handlers.route("submit", body_limit_bytes=api.project_limit_bytes)
    _add_job_routes(routes, handlers, read, large)
    _add_event_route(routes, handlers, read)
    _add_project_routes(routes, handlers, read, large)
    _add(routes, "GET", "/v1/spend", handlers.spend, read, SpendView)
    return routes


def _add_job_routes(routes: APIRouter, handlers: _Handlers, read: type[APIRoute], large: type[APIRoute]) -> None:
    """Add the routes that make, list, find and cancel jobs."""
    submit, cancel = handlers.route("submit"), handlers.route("cancel")
    for path in ("/v1/jobs", "/generate"):
        _add(routes, "POST", path, handlers.create, submit, JobView, status=202, also=(200,), refusals=(402,))
    _add(routes, "POST", "/v1/batches", handlers.create_batch, large, BatchView)
    _add(routes, "GET", "/v1/jobs", handlers.page, read, JobPage)
    for path in ("/v1/jobs/{job_id}", "/jobs/{job_id}"):
        _add(routes, "GET", path, handlers.find, read, JobView, refusals=(404,))
    _add(routes, "POST", "/v1/jobs/{job_id}/cancel", handlers.cancel, cancel, JobView, refusals=(404, 409))


def _add_event_route(routes: APIRouter, handlers: _Handlers, read: type[APIRoute]) -> None:
    """Add the route that streams the events of a job."""
    events: dict[str, Any] = {"description": "Events", "content": {"text/event-stream": {"schema": _EVENT}}}
    routes.add_api_route(
        "/v1/jobs/{job_id}/events",
        handlers.events,
        methods=["GET"],
        tags=["jobs"],
        route_class_override=read,
        response_class=StreamingResponse,
        responses={
            **describe_problems(*_REFUSALS, 404),
            200: events,
            204: {"description": "The job has ended, and you have all events."},
        },
    )


def _add_project_routes(routes: APIRouter, handlers: _Handlers, read: type[APIRoute], large: type[APIRoute]) -> None:
    """Add the routes that make, plan and find projects."""
    path = "/v1/projects"
    _add(routes, "POST", path, handlers.create_project, large, ProjectView, status=202, also=(200,), refusals=(402,))
    _add(routes, "POST", "/v1/projects/plan", handlers.plan_project, large, dict[str, Any], example=PLAN)
    _add(routes, "GET", "/v1/projects/{project_id}", handlers.find_project, read, ProjectView, refusals=(404,))


def video_routes(api: JobApi) -> APIRouter:
    """Build the route of videos, which a signed link opens as well as a token does."""
    routes = APIRouter(tags=["jobs"])
    handlers = _Handlers(api)
    video: dict[str, Any] = {"content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}}
    for method in ("GET", "HEAD"):
        routes.add_api_route(
            "/v1/jobs/{job_id}/video",
            handlers.video,
            methods=[method],
            response_class=Response,
            include_in_schema=method == "GET",
            responses={
                **describe_problems(401, 403, 404, 416, 422, 429, 503),
                200: {"description": "The video", **video},
                206: {"description": "The part requested", **video},
            },
        )
    return routes


def _add(
    routes: APIRouter,
    method: str,
    path: str,
    handler: Any,
    route_class: type[APIRoute],
    model: Any,
    *,
    status: int = 200,
    also: tuple[int, ...] = (),
    refusals: tuple[int, ...] = (),
    example: JsonDict | None = None,
) -> None:
    """Add one operation, with every answer that it can give; `example` is one where the model has none."""
    responses = describe_problems(*_REFUSALS, *refusals)
    if example is not None:
        responses[status] = {"content": {"application/json": {"example": example}}}
    for other in also:
        responses[other] = {"model": model, "description": "It exists already, and is not paid again"}
    tag = "projects" if "/projects" in path else "spend" if path.endswith("spend") else "jobs"
    routes.add_api_route(
        path,
        handler,
        methods=[method],
        status_code=status,
        response_model=model,
        responses=responses,
        tags=[tag],
        deprecated=not path.startswith("/v1") or None,
        operation_id=f"{handler.__name__}{'' if path.startswith('/v1') else '_first_form'}",
        route_class_override=route_class,
    )


class _Handlers:
    """The handlers of the routes.

    Args:
        api: What they use.
    """

    def __init__(self, api: JobApi) -> None:
        self._api = api
        self._streams = 0

    def route(self, scope: Scope, *, body_limit_bytes: int | None = None) -> type[APIRoute]:
        """Build the class of routes that need a scope."""
        return self._api.guard.route_class(scope, body_limit_bytes=body_limit_bytes)

    async def create(
        self, request: Request, body: GenerateBody, response: Response, key: _IdempotencyKey = None
    ) -> JobView:
        """Request a video. The same request again is answered with the same job, and is not paid for again."""
        job = await self._create(body, key, token_of(request))
        response.status_code = 202 if job.status in ("queued", "processing") else 200
        prefix = "/v1" if request.url.path.startswith("/v1") else ""
        response.headers["Location"] = f"{prefix}/jobs/{job.job_id}"
        return await self._with_link(request, job)

    async def create_batch(self, request: Request, body: BatchBody, key: _IdempotencyKey = None) -> BatchView:
        """Request several videos; each is accepted or refused by itself, as if it had been requested alone."""
        token, jobs = token_of(request), self._api.jobs
        if key is not None:
            session = jobs.find_session(None)
            await translate_errors(jobs.bind_key(session, key, body.digest, token.requester))
        items: list[BatchItem] = []
        for number, wish in enumerate(body.jobs):
            try:
                job = await self._create(wish, None if key is None else f"{key}[{number}]", token)
                status = 202 if job.status in ("queued", "processing") else 200
                items.append(BatchItem(status=status, job=await self._with_link(request, job)))
            except HTTPException as error:
                items.append(BatchItem(status=error.status_code, problem=build_problem(error)))
        return BatchView(jobs=items)

    async def page(
        self,
        request: Request,
        project: Identifier | None = None,
        state: State | None = None,
        shot: Identifier | None = None,
        held: bool | None = None,
        since: _Since | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: Annotated[str | None, Query(max_length=300, description="`next_cursor` of the page before.")] = None,
    ) -> JobPage:
        """List the jobs of the ledger, newest first: those of every token, and of the operator's own runs."""
        after = None if cursor is None else _parse_cursor(cursor)
        found = await translate_errors(
            self._api.jobs.page(
                project=project,
                state=state,
                shot=shot,
                held=held,
                since=None if since is None else _in_range(since),
                after=after,
                limit=limit + 1,
            )
        )
        jobs, more = found[:limit], len(found) > limit
        views = [self._link(request, job, self._api.jobs.build_view(job)) for job in jobs]
        return JobPage(jobs=views, next_cursor=_build_cursor(jobs[-1]) if more else None)

    async def find(self, request: Request, job_id: _JobId) -> JobView:
        """Return the state of a job."""
        job = await self._require_job(job_id)
        return self._link(request, job, self._api.jobs.build_view(job))

    async def cancel(self, request: Request, job_id: _JobId) -> JobView:
        """Cancel a job, at the provider too where it still can; one that has ended stays as it is."""
        job = await self._require_job(job_id)
        cancelled = await translate_errors(self._api.jobs.cancel(job))
        if cancelled.error is not None or cancelled.is_still_running:
            detail = cancelled.error or cancelled.outcome
            raise Refused(409, "not-cancelled", "The job is not cancelled", detail)
        return self._link(request, cancelled.job, self._api.jobs.build_view(cancelled.job))

    async def events(self, request: Request, job_id: _JobId, last: _LastEvent = 0) -> Response:
        """Follow a job: a `state` event for each line of its history, and an `end` event with the job.

        A client that was disconnected sends `Last-Event-ID`, and misses nothing.
        """
        job = await self._require_job(job_id)
        view = self._api.jobs.build_view(job)
        if last and view.status in ENDED and not await translate_errors(self._api.jobs.history_after(job_id, last)):
            return Response(status_code=204)
        if self._streams >= self._api.event_streams:
            detail = f"{self._streams} streams of events are open; look at `GET /v1/jobs/{job_id}` instead, or wait"
            raise Refused(429, "streams", "Too many streams of events", detail, {"Retry-After": "5"})
        stopping = request.scope.get("prefect_video.stopping")
        events = stream_events(self._api.jobs, self._api.changes, job_id, after=last, stopping=stopping)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._counted(events), media_type="text/event-stream", headers=headers)

    async def create_project(
        self, request: Request, body: ProjectBody, response: Response, key: _IdempotencyKey = None
    ) -> ProjectView:
        """Request a project: a project file as JSON. Its shots are made and stored, each once."""
        await self._require_callback(body.callback_url, token_of(request))
        project, outcome = await translate_errors(
            self._api.projects.create(body, key=key, requester=token_of(request).requester), self._api.metrics
        )
        self._api.metrics.jobs.labels(outcome).inc()
        response.status_code = 202 if project.status == "running" else 200
        response.headers["Location"] = f"/v1/projects/{project.id}"
        return project

    async def plan_project(self, request: Request, body: ProjectBody) -> dict[str, Any]:
        """Say what a project would make, find and cost, and if it fits the limits; nothing is reserved or sent."""
        plan = await translate_errors(self._api.projects.plan(body, token_of(request).requester))
        return plan.public()

    async def find_project(self, request: Request, project_id: Annotated[str, Path(max_length=200)]) -> ProjectView:
        """Return the state of a requested project and its jobs."""
        # No database has an id with control characters, and not every one can be queried for it.
        project = await translate_errors(self._api.projects.find(project_id)) if project_id.isprintable() else None
        if project is None:
            raise HTTPException(404, f"there is no project request {project_id!r}")
        return project

    async def spend(self, request: Request) -> SpendView:
        """Return what your token has committed in this month, and what is left of its limit."""
        return await translate_errors(self._api.jobs.spend(token_of(request).requester))

    async def video(
        self,
        request: Request,
        job_id: _JobId,
        token: Annotated[str | None, Query(max_length=100)] = None,
        expires: Annotated[int | None, Query(ge=0, le=2**53)] = None,
        signature: Annotated[str | None, Query(max_length=100)] = None,
    ) -> Response:
        """Play a stored video, or a part of it: by the signed `url` of its job, or with a token."""
        signed = token is not None and expires is not None and signature is not None
        if not (signed and self._api.links.is_valid(job_id, token or "", expires or 0, signature or "")):
            await self._api.guard.require(request, "read")
        job = await self._require_job(job_id)
        return await translate_errors(serve_video(request, self._api.sessions, job))

    async def _create(self, body: GenerateBody, key: str | None, token: ApiToken) -> JobView:
        await self._require_callback(body.callback_url, token)
        # The job that it begins goes on in a task, whose steps belong to the request's trace.
        with traced_request("generate"):
            job, outcome = await translate_errors(
                self._api.jobs.create(body, key=key, requester=token.requester), self._api.metrics
            )
        self._api.metrics.jobs.labels(outcome).inc()
        return job

    async def _require_job(self, job_id: str) -> Job:
        # No database has an id with control characters, and not every one can be queried for it.
        job = await translate_errors(self._api.jobs.find_job(job_id)) if job_id.isprintable() else None
        if job is None:
            raise HTTPException(404, f"there is no job {job_id!r}")
        return job

    async def _require_callback(self, url: str | None, token: ApiToken) -> None:
        """Refuse an address for callbacks that could never be called.

        Raises:
            HTTPException: The token has no secret to sign with, or the address is not one that may be called.
        """
        if url is None:
            return
        if token.secret is None:
            raise HTTPException(422, f"callback_url: token {token.name!r} has no secret that signs callbacks")
        try:
            await check_url(url, build_policy(url, self._api.callback_hosts))
        except DownloadError as error:
            raise HTTPException(422, f"callback_url: {error}") from error

    async def _with_link(self, request: Request, view: JobView) -> JobView:
        if view.uri is None:
            return view
        return self._link(request, await self._require_job(view.job_id), view)

    def _link(self, request: Request, job: Job, view: JobView) -> JobView:
        return view.model_copy(update={"url": self._api.links.build(request, job, token_of(request))})

    async def _counted(self, events: Any) -> Any:
        self._streams += 1
        try:
            async for event in events:
                yield event
        finally:
            self._streams -= 1


def _build_cursor(job: Job) -> str:
    return base64.urlsafe_b64encode(json.dumps([job.created_at.isoformat(), job.id]).encode()).decode()


def _parse_cursor(text: str) -> JobPosition:
    try:
        created_at, job_id = json.loads(base64.urlsafe_b64decode(text.encode("ascii")))
        at = datetime.fromisoformat(created_at)
        if at.tzinfo is None or not isinstance(job_id, str) or not job_id.isprintable():
            raise ValueError
        return JobPosition(_in_range(at), job_id)
    except (ValueError, TypeError, RecursionError):
        raise HTTPException(422, "cursor: not one that a page has given as `next_cursor`") from None


def _in_range(at: datetime) -> datetime:
    """Return a time in UTC; what lies at the ends of the calendar is moved to where databases can hold it."""
    try:
        at = at.astimezone(UTC)
    except OverflowError:
        at = at.replace(tzinfo=UTC)
    return (
        at.replace(year=min(max(at.year, 1900), _LARGEST_YEAR), day=min(at.day, 28))
        if not 1900 <= at.year <= _LARGEST_YEAR
        else at
    )
