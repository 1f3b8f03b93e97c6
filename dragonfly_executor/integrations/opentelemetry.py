"""`OpenTelemetryTracing`: spans of calls and boots, by the API of OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock

from dragonfly_executor.engine.future import Future
from dragonfly_executor.protocol.versions import __version__
from dragonfly_executor.serialization.context_call import AsyncContextCall, ContextCall
from dragonfly_executor.util import validation
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeVar

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider

    from dragonfly_executor.engine.observing.call_carrier import HasCall

    T = TypeVar("T")
    S = TypeVar("S", bound=HasCall)

ENDS = ("call done", "call failed", "call cancelled")
MAX_BOOTS = 1000
"""Maximum number of boots that are remembered until they end."""


class OpenTelemetryTracing:
    """The tracing of pools. Give one to each pool: ``observers=[tracing]``.

    A submit starts a span of the call, under the caller's span, and sends its context along as W3C headers. Spans that
    the call makes hang under it, if the runner has OpenTelemetry. At the end of the call its span gets two children:
    the time that it waited, and the time that its function ran. A boot is a span of its own.

    The calls of a `map` are encoded together, before any of them has a span. So each gets its span when it ends, under
    the caller of `map`, and spans that it makes hang under that caller as well.

    Args:
        tracer_provider: makes the spans; by default the global one.

    Raises:
        ImportError: opentelemetry-api is not installed.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        try:
            from opentelemetry import propagate, trace
            from opentelemetry.context import Context
        except ImportError as error:
            advice = "needs opentelemetry-api: pip install 'dragonfly-executor[opentelemetry]'"
            raise ImportError(f"OpenTelemetryTracing {advice}") from error
        self._api = trace
        self._inject, self._extract = propagate.inject, propagate.extract
        self._root = Context()
        self._tracer = trace.get_tracer("dragonfly_executor", __version__, tracer_provider)
        self._lock = Lock()
        """Guards what follows: callers submit, and callback threads end calls."""
        self._submitting = 0
        self._spans: dict[tuple[str, int], Span] = {}
        self._ended: dict[tuple[str, int], Mapping[str, Any]] = {}
        """Calls that ended before their submit had returned."""
        self._boots: dict[tuple[str, int], float] = {}

    # -- on the thread of the caller -----------------------------------------------------------------------------------

    def submit(
        self,
        pool: str,
        name: str,
        fn: Callable[..., Any],
        submit: Callable[[Callable[..., Any]], S],
        *,
        is_stream: bool = False,
    ) -> S:
        """Submit a call, or the call of a stream, in a span. `submit` gets what travels in the place of `fn`."""
        span = self._started(pool, name)
        with self._lock:
            self._submitting += 1
        future: S | None = None
        try:
            future = submit(self._carried(fn, self._api.set_span_in_context(span), is_stream=is_stream))
            return future
        except BaseException as error:
            self._refused(span, error)
            raise
        finally:
            self._submitted(None if future is None or future.call is None else (pool, future.call.id), span)

    def submit_method(
        self, pool: str, name: str, fn: Callable[..., Any], submit: Callable[[Callable[..., Any]], Future[T]]
    ) -> Future[T]:
        """Submit a method call of a placed worker in a span. `submit` gets what travels in the place of `fn`."""
        span = self._started(pool, name)
        try:
            future = submit(self._carried(fn, self._api.set_span_in_context(span)))
        except BaseException as error:
            self._refused(span, error)
            raise
        future.add_done_callback(lambda _: self._method_ended(span, future))
        return future

    def _method_ended(self, span: Span, future: Future[Any]) -> None:
        error = future.error_type
        if error is not None:
            span.set_attribute("error.type", error)
            self._set_failed(span, error)
        span.end()

    def _started(self, pool: str, name: str) -> Span:
        attributes = {"dragonfly.pool": pool, "code.function.name": name}
        return self._tracer.start_span(f"call {name}", kind=self._api.SpanKind.CLIENT, attributes=attributes)

    def _refused(self, span: Span, error: BaseException) -> None:
        span.record_exception(error)
        self._set_failed(span, type(error).__name__)
        span.end()

    def carried(self, fn: Callable[..., Any]) -> ContextCall:
        """Return a function that runs `fn` in the context of the caller."""
        return self._carried(fn, None)

    def _carried(self, fn: Callable[..., Any], context: Context | None, *, is_stream: bool = False) -> ContextCall:
        if not is_stream:
            validation.refuse(fn)
        headers: dict[str, str] = {}
        self._inject(headers, context)
        kind = AsyncContextCall if validation.is_async(fn) else ContextCall
        return kind(headers, fn)

    def _submitted(self, call: tuple[str, int] | None, span: Span) -> None:
        with self._lock:
            self._submitting -= 1
            event = self._ended.pop(call, None) if call is not None else None
            if call is not None and event is None:
                self._spans[call] = span
            if not self._submitting:
                self._ended.clear()
        if event is not None:
            self._end(span, event)

    # -- on the callback thread of a pool ------------------------------------------------------------------------------

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Make the spans that an event of a pool completes."""
        what = event["event"]
        if what in ENDS and "caller" in event:
            self._map_call_ended(event)
        elif what in ENDS:
            call = event["name"], event["call_id"]
            with self._lock:
                span = self._spans.pop(call, None)
                if span is None and self._submitting:
                    self._ended[call] = event
            if span is not None:
                self._end(span, event)
        elif what == "boot":
            while len(self._boots) >= MAX_BOOTS:
                self._boots.pop(next(iter(self._boots)), None)
            self._boots[event["name"], event["runner_id"]] = event["time"]
        elif what in ("up", "boot failed", "boot given up"):
            self._boot_ended(event)
        elif what == "events dropped":
            self._forget(event["name"])

    def _forget(self, pool: str) -> None:
        """End the spans of a pool's calls: the events of some of their ends are lost."""
        with self._lock:
            spans = [self._spans.pop(call) for call in list(self._spans) if call[0] == pool]
        for span in spans:
            span.end()

    def _end(self, span: Span, event: Mapping[str, Any]) -> None:
        """End the span of a call, and make those of its wait and its run."""
        end = event["time"]
        for key, name in (("runner_id", "dragonfly.runner"), ("attempt", "dragonfly.attempt"), ("error", "error.type")):
            if event.get(key) is not None:
                span.set_attribute(name, event[key])
        run = event.get("run_seconds")
        if run is not None:
            context = self._api.set_span_in_context(span)
            self._child("wait", context, end - run - event["wait_seconds"], end - run)
            self._child("run", context, end - run, end)
        if event["event"] != "call done":
            self._set_failed(span, event.get("error") or "cancelled")
        span.end(_nanoseconds(end))

    def _map_call_ended(self, event: Mapping[str, Any]) -> None:
        attributes = {"dragonfly.pool": event["name"], "code.function.name": event["function"]}
        span = self._tracer.start_span(
            f"call {event['function']}",
            self._extract(event["caller"], self._root),
            kind=self._api.SpanKind.CLIENT,
            start_time=_nanoseconds(event["time"] - event["seconds"]),
            attributes=attributes,
        )
        self._end(span, event)

    def _set_failed(self, span: Span, text: str) -> None:
        span.set_status(self._api.Status(self._api.StatusCode.ERROR, text))

    def _child(self, name: str, context: Context, begin: float, end: float) -> None:
        self._tracer.start_span(name, context, start_time=_nanoseconds(begin)).end(_nanoseconds(end))

    def _boot_ended(self, event: Mapping[str, Any]) -> None:
        end = event["time"]
        begin = self._boots.pop((event["name"], event["runner_id"]), None)
        if begin is None:
            begin = end - event.get("seconds", 0.0)
        attributes = {
            "dragonfly.pool": event["name"],
            "dragonfly.runner": event["runner_id"],
            "dragonfly.backend": event["backend"],
        }
        span = self._tracer.start_span("boot", self._root, start_time=_nanoseconds(begin), attributes=attributes)
        if event["event"] != "up":
            self._set_failed(span, event["text"])
        span.end(_nanoseconds(end))


def _nanoseconds(when: float) -> int:
    return int(when * 1e9)
