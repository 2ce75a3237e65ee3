"""OpenTelemetry spans around the steps of a job.

A program that exports traces has imported OpenTelemetry to say where to. Where none has, the steps run as they are:
nothing is imported here, and nothing is recorded.
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
    from opentelemetry.trace import Span, SpanContext

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")
Step = Callable[Concatenate[Session, Job, Inputs], Coroutine[Any, Any, Result]]

_SCOPE: Final = "prefect_video"
_REMEMBERED: Final = 10_000
"""Jobs whose trace is kept in memory; the ones that began first are forgotten."""

_traces: OrderedDict[str, SpanContext] = OrderedDict()
"""By job id, the span that its first step was part of: a later one may begin without any, as after a webhook."""


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
    span: Span = trace.get_tracer(_SCOPE).start_span(
        name, context=_parent(trace, job) if job else None, attributes=_attributes(job) if job else None
    )
    if job and span.is_recording():
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


def _parent(trace: Any, job: Job) -> Any:
    """Return the context of a step without a span around it: the trace that its job began in."""
    begun = _traces.get(job.id)
    if begun is None or trace.get_current_span().get_span_context().is_valid:
        return None
    return trace.set_span_in_context(trace.NonRecordingSpan(begun))


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
