"""OpenTelemetry spans around the steps of a job.

A program that exports traces has imported OpenTelemetry to say where to. Where none has, the steps run as they are:
nothing is imported here, and nothing is recorded. The job's row says which trace it belongs to, so that what another
process does for it, after a restart too, is in the same one.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from prefect_video.errors import VideoError
from prefect_video.ledger import Job
from prefect_video.session import Session

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, SpanContext

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")
Step = Callable[Concatenate[Session, Job, Inputs], Coroutine[Any, Any, Result]]

_SCOPE: Final = "prefect_video"
_REMEMBERED: Final = 10_000
"""Jobs whose trace is kept in memory; the ones that began first are forgotten."""

_traces: OrderedDict[str, SpanContext] = OrderedDict()
"""By job id, the span of its first step, for jobs that were requested by none: a later step may begin without any."""


def traced_step(name: str) -> Callable[[Step[Inputs, Result]], Step[Inputs, Result]]:
    """Decorate a step so that each call is a span, in the trace of its job.

    Args:
        name: Name of the span.
    """

    def decorate(step: Step[Inputs, Result]) -> Step[Inputs, Result]:
        @wraps(step)
        def run(
            session: Session, job: Job, /, *inputs: Inputs.args, **named: Inputs.kwargs
        ) -> Coroutine[Any, Any, Result]:
            call = step(session, job, *inputs, **named)
            # As it is, where nothing is recorded: no call more on the stack of the request that pays.
            return call if _tracing() is None else _record(name, job, call)

        return run

    return decorate


async def _record(name: str, job: Job, call: Coroutine[Any, Any, Result]) -> Result:
    with _span(name, job) as span:
        result = await call
        if span is not None and isinstance(result, Job):
            span.set_attributes(_attributes(result))
        return result


@contextmanager
def traced_request(name: str) -> Iterator[None]:
    """Make a request a span of its own, which the steps that follow from it are part of."""
    with _span(name, None):
        yield


@contextmanager
def _span(name: str, job: Job | None) -> Iterator[Span | None]:
    trace = _tracing()
    if trace is None:
        yield None
        return
    parent, links = _parent(trace, job) if job else (None, [])
    span: Span = trace.get_tracer(_SCOPE).start_span(
        name, context=parent, links=links, attributes=_attributes(job) if job else None
    )
    if job and job.traceparent is None and span.is_recording():
        _remember(job.id, span.get_span_context())
    # Not by `record_exception`: a traceback may quote what this package's messages leave out.
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            message = error.message if isinstance(error, VideoError) else type(error).__name__
            span.set_status(trace.StatusCode.ERROR, message)
            raise


def _tracing() -> Any:
    """Return OpenTelemetry's module; None where no program has said where spans go."""
    # Whatever exports spans has imported it; importing it for the others would cost them time for nothing.
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return trace


def current_traceparent() -> str | None:
    """Return the present span as W3C's Trace Context writes it; None where there is none."""
    trace = _tracing()
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _parent(trace: Any, job: Job) -> tuple[Any, list[Link]]:
    """Return the context of a step, None for the present one, and the spans that it is linked to.

    A step belongs to the trace of its job. A span of another trace around it, as of a webhook, is linked.
    """
    current = trace.get_current_span().get_span_context()
    begun = _read_traceparent(trace, job.traceparent) or _traces.get(job.id)
    if begun is None or begun.trace_id == current.trace_id:
        return None, []
    links = [trace.Link(current)] if current.is_valid else []
    return trace.set_span_in_context(trace.NonRecordingSpan(begun)), links


def _read_traceparent(trace: Any, text: str | None) -> SpanContext | None:
    if text is None:
        return None
    _, trace_id, span_id, flags = text.split("-")
    context: SpanContext = trace.SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(int(flags, 16))
    )
    return context


def _remember(job_id: str, context: SpanContext) -> None:
    if job_id in _traces:
        return
    _traces[job_id] = context
    if len(_traces) > _REMEMBERED:
        _traces.popitem(last=False)


def _attributes(job: Job) -> dict[str, str | int | float]:
    """Return what a span says of a job: no prompt, and no link."""
    known: dict[str, str | int | float | None] = {
        "project": job.project,
        "shot": job.shot.id,
        "take": job.take,
        "job": job.id,
        "state": job.state.value,
        "provider": job.provider,
        "account": job.account,
        "generation": job.generation_id,
        "cost_usd": None if job.cost_usd is None else float(job.cost_usd),
    }
    return {f"prefect_video.{name}": value for name, value in known.items() if value is not None}
