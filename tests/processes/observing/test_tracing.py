"""Spans of calls and boots, with the real SDK of OpenTelemetry, here and in slots."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from dragonfly_executor import CallSerializationError
from tests.engine.conftest import MakePool
from tests.support.helpers import PATIENCE, error_of
from tests.support.payloads import die_by, echo, fail

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from dragonfly_executor.integrations.opentelemetry import OpenTelemetryTracing
from dragonfly_executor.serialization.context_call import AsyncContextCall, ContextCall


class Tracer:
    """The tracing of a test, and its spans in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")
        self.tracing = OpenTelemetryTracing(self.provider)

    def finished(self) -> list[ReadableSpan]:
        """All spans, in the order of their ends."""
        return list(self._exporter.get_finished_spans())

    def spans(self) -> dict[str, ReadableSpan]:
        """The first span of each name."""
        return {span.name: span for span in reversed(self._exporter.get_finished_spans())}


@pytest.fixture
def tracer() -> Tracer:
    return Tracer()


def record_inside(name: str) -> tuple[int, int | None, str]:
    """Make a span in the call, and return its trace, its parent, and what the call inherited as baggage."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("inside").start_as_current_span(name):
        pass
    (span,) = exporter.get_finished_spans()
    from opentelemetry import baggage

    return span.context.trace_id, span.parent and span.parent.span_id, str(baggage.get_baggage("tenant"))


async def record_in_coroutine(name: str) -> tuple[int, int | None, str]:
    await asyncio.sleep(0)
    return record_inside(name)


def has_context(_: object = None) -> bool:
    """Return whether the slot has a context that is left over from another call."""
    return trace.get_current_span().get_span_context().is_valid


def test_a_calls_context_is_detached_again(tracer: Tracer) -> None:
    from opentelemetry import propagate

    headers: dict[str, str] = {}
    with tracer.tracer.start_as_current_span("caller"):
        propagate.inject(headers)
    call = ContextCall(headers, has_context)
    assert call()
    assert not has_context()
    assert asyncio.run(AsyncContextCall(headers, _has_context_later)())
    assert not ContextCall({}, has_context)()


async def _has_context_later() -> bool:
    await asyncio.sleep(0)
    return has_context()


@pytest.mark.parametrize("record", [record_inside, record_in_coroutine])
def test_spans_made_in_a_call_hang_under_it_and_it_hangs_under_its_caller(
    make_pool: MakePool, tracer: Tracer, record: Any
) -> None:
    from opentelemetry import baggage, context

    pool = make_pool("traced", observers=tracer.tracing, max_concurrency=1)
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    with tracer.tracer.start_as_current_span("caller") as caller:
        trace_id, parent, tenant = pool.submit(record, "inner").result(PATIENCE)
    context.detach(token)
    mapped = list(pool.map(has_context, range(2)))
    pool.shutdown()
    spans = tracer.spans()
    call = spans[f"call {record.__name__}"]
    assert call.context is not None
    assert call.parent is not None
    assert (trace_id, parent, tenant) == (call.context.trace_id, call.context.span_id, "acme")
    assert call.parent.span_id == caller.get_span_context().span_id
    assert call.kind is SpanKind.CLIENT
    assert call.attributes is not None
    assert call.attributes["dragonfly.pool"] == "traced"
    assert call.attributes["dragonfly.runner"] == 1
    wait, run = spans["wait"], spans["run"]
    assert wait.parent is not None
    assert run.parent is not None
    assert wait.parent.span_id == run.parent.span_id == call.context.span_id
    assert wait.end_time == run.start_time
    assert run.end_time == call.end_time
    assert spans["boot"].parent is None
    assert spans["boot"].attributes is not None
    assert spans["boot"].attributes["dragonfly.backend"] == "local"
    assert mapped == [False, False]
    assert tracer.tracing._spans == {}


def test_a_map_carries_the_context_of_its_caller(make_pool: MakePool, tracer: Tracer) -> None:
    pool = make_pool(observers=[tracer.tracing])
    with tracer.tracer.start_as_current_span("caller") as caller:
        here = caller.get_span_context()
        plain = list(pool.map(record_inside, ["a", "b"]))
        chunks = list(pool.map(record_in_coroutine, ["a", "b"], chunksize="auto"))
    assert {each[:2] for each in plain + chunks} == {(here.trace_id, here.span_id)}


def test_each_call_of_a_map_has_a_span_under_the_maps_caller(make_pool: MakePool, tracer: Tracer) -> None:
    pool = make_pool("mapped", observers=[tracer.tracing])
    with tracer.tracer.start_as_current_span("caller") as caller:
        here = caller.get_span_context()
        list(pool.map(echo, range(3)))
        with pytest.raises(KeyError):
            list(pool.map(fail, [KeyError("no")]))
        list(pool.map(echo, range(8), chunksize=4))

        async def amap() -> list[int]:
            return [value async for value in pool.amap(echo, range(2))]

        assert asyncio.run(amap()) == [0, 1]
    list(pool.map(echo, [1]))  # without a caller
    pool.shutdown()
    finished = tracer._exporter.get_finished_spans()
    calls = [span for span in finished if span.name.startswith("call ")]
    assert [span.name for span in calls].count("call echo") == 3 + 2 + 2 + 1
    assert [span.parent is None for span in calls] == [False] * 8 + [True]
    for span in calls[:-1]:
        assert span.context is not None
        assert span.parent is not None
        assert (span.context.trace_id, span.parent.span_id) == (here.trace_id, here.span_id)
        assert span.kind is SpanKind.CLIENT
        assert span.attributes is not None
        assert (span.attributes["dragonfly.pool"], span.attributes["dragonfly.runner"]) == ("mapped", 1)
        inner = {each.name: each for each in finished if each.parent and each.parent.span_id == span.context.span_id}
        assert sorted(inner) == ["run", "wait"]
        # All times are floats of Unix seconds, which are exact to a microsecond.
        assert abs((span.start_time or 0) - (inner["wait"].start_time or 0)) < 10_000
        assert inner["run"].end_time == span.end_time
    (failed,) = [span for span in calls if span.name == "call fail"]
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "KeyError"
    assert tracer.tracing._spans == tracer.tracing._ended == {}


def test_a_map_without_tracing_has_no_caller(make_pool: MakePool) -> None:
    events: list[Any] = []
    pool = make_pool(on_call=events.append)
    assert list(pool.map(echo, range(3))) == [0, 1, 2]
    pool.shutdown()
    assert len([event for event in events if event["event"] == "call done"]) == 3
    assert not [event for event in events if "caller" in event]


def test_what_fails_has_spans_that_say_so(make_pool: MakePool, tracer: Tracer) -> None:
    pool = make_pool(observers=tracer.tracing, max_concurrency=1)
    assert isinstance(error_of(pool.submit(partial(fail, KeyError("no")))), KeyError)
    error_of(pool.submit(die_by, 9))
    with pytest.raises(CallSerializationError):
        pool.submit(echo, (number for number in range(3)))
    local = pool.submit(lambda: 7)  # by value, in its place in the wrapper
    assert local.result(PATIENCE) == 7
    pool.shutdown()
    spans = tracer.spans()
    failed, lost, unsent = spans["call fail"], spans["call die_by"], spans["call echo"]
    assert [span.status.status_code for span in (failed, lost, unsent)] == [StatusCode.ERROR] * 3
    assert failed.attributes is not None
    assert lost.attributes is not None
    assert failed.attributes["error.type"] == "KeyError"
    assert lost.attributes["error.type"] == "RunnerLostError"
    assert unsent.status.description == "CallSerializationError"
    assert tracer.tracing._spans == tracer.tracing._ended == {}


def test_a_call_that_ends_before_its_submit_returns_is_ended(tracer: Tracer) -> None:
    class Call:
        id = 1

    class Done:
        call = Call

    end = {"event": "call done", "name": "p", "call_id": 1, "time": 5.0, "run_seconds": 1.0, "wait_seconds": 1.0}

    def submit(carried: Any) -> Any:
        tracer.tracing(end)
        return Done

    tracer.tracing.submit("p", "f", echo, submit)
    assert set(tracer.spans()) == {"call f", "wait", "run"}
    assert tracer.tracing._ended == {}


def test_no_span_stays_open_when_events_are_lost(tracer: Tracer) -> None:
    class Done:
        class call:
            id = 1

    tracer.tracing.submit("p", "f", echo, lambda carried: Done)  # type: ignore[arg-type, return-value]
    tracer.tracing({"event": "events dropped", "name": "other", "time": 5.0, "count": 1})
    assert tracer.spans() == {}
    tracer.tracing({"event": "events dropped", "name": "p", "time": 5.0, "count": 1})
    assert set(tracer.spans()) == {"call f"}
