"""Trace context in streams, method calls of workers, `multiprocessing.Pool` and child calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from dragonfly_executor import CallSerializationError
from dragonfly_executor.multiprocessing import Pool
from dragonfly_executor.parent import Parent
from tests.engine.conftest import MakePool
from tests.support.helpers import PATIENCE, error_of
from tests.support.payloads import die_by, echo, fail

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, StatusCode

from tests.processes.observing.test_tracing import Tracer, has_context, record_in_coroutine, record_inside, tracer

__all__ = ["tracer"]


def ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def hangs_under(span: ReadableSpan, caller: SpanContext) -> bool:
    assert span.context is not None
    return span.parent is not None and (span.context.trace_id, span.parent.span_id) == (
        caller.trace_id,
        caller.span_id,
    )


def record_items(count: int) -> Iterator[tuple[int, int | None, str]]:
    for _ in range(count):
        yield record_inside("item")


async def record_items_async(count: int) -> AsyncIterator[tuple[int, int | None, str]]:
    for _ in range(count):
        yield await record_in_coroutine("item")


def fail_after(count: int) -> Iterator[int]:
    yield from range(count)
    raise KeyError("no")


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("function", [record_items, record_items_async])
def test_spans_of_a_streams_items_hang_under_its_call(
    make_pool: MakePool, tracer: Tracer, function: Callable[..., Any], seed: int | None
) -> None:
    pool = make_pool("streams", observers=tracer.tracing, seed=seed)
    with tracer.tracer.start_as_current_span("caller") as caller:
        here = caller.get_span_context()
        found = [each[:2] for each in pool.stream(function, 3)]

        async def take() -> list[Any]:
            return [each[:2] async for each in pool.stream(function, 2)]

        again = asyncio.run(take())
    assert list(pool.stream(echo, [has_context()])) == [False]
    pool.shutdown()
    first, second = [span for span in tracer.finished() if span.name == f"call {function.__name__}"]
    assert found == [ids(first)] * 3
    assert again == [ids(second)] * 2
    assert hangs_under(first, here)
    assert hangs_under(second, here)
    assert tracer.tracing._spans == {}


def test_a_stream_that_fails_or_is_closed_has_a_span_that_says_so(make_pool: MakePool, tracer: Tracer) -> None:
    pool = make_pool(observers=tracer.tracing)
    with pytest.raises(KeyError):
        list(pool.stream(fail_after, 2))
    stream = pool.stream(record_items, 1_000_000)
    next(stream)
    stream.close()
    with pytest.raises(TypeError):
        pool.stream(record_in_coroutine, "")
    pool.shutdown()
    failed, closed = [tracer.spans()[f"call {name}"] for name in ("fail_after", "record_items")]
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "KeyError"
    assert closed.end_time is not None
    assert tracer.tracing._spans == {}


class Recorder:
    """Records spans in the methods of a worker."""

    def __init__(self) -> None:
        self.made = record_inside("made")

    def made_under(self) -> Any:
        return self.made

    def record(self) -> Any:
        return record_inside("method")

    async def record_later(self) -> Any:
        return await record_in_coroutine("method")

    def fail(self) -> None:
        raise KeyError("no")

    def die(self) -> None:
        die_by(9)


def test_spans_of_methods_hang_under_their_calls(make_pool: MakePool, tracer: Tracer) -> None:
    pool = make_pool("workers", observers=tracer.tracing)
    with tracer.tracer.start_as_current_span("placer") as placer:
        worker = pool.place(Recorder)
    made = worker.made_under().result(PATIENCE)
    with tracer.tracer.start_as_current_span("caller") as caller:
        found = [worker.record(), worker.record_later(), worker.options(seed=3).record()]
        values = [future.result(PATIENCE)[:2] for future in found]
    assert isinstance(error_of(worker.fail()), KeyError)
    with pytest.raises(CallSerializationError):
        worker.record(number for number in range(3))  # type: ignore[call-arg]
    error_of(worker.die())
    pool.shutdown()
    assert made[:2] == (placer.get_span_context().trace_id, placer.get_span_context().span_id)
    spans = [span for span in tracer.finished() if span.name.startswith("call Recorder.record")]
    assert sorted(values) == sorted(ids(span) for span in spans[:3])
    assert all(hangs_under(span, caller.get_span_context()) for span in spans[:3])
    named = tracer.spans()
    for name, error in (("fail", "KeyError"), ("die", "WorkerLostError")):
        span = named[f"call Recorder.{name}"]
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes is not None
        assert (span.attributes["error.type"], span.attributes["dragonfly.pool"]) == (error, "workers")


def test_calls_of_a_multiprocessing_pool_have_spans_under_their_caller(tracer: Tracer) -> None:
    with Pool(1, observers=[tracer.tracing]) as pool:
        with tracer.tracer.start_as_current_span("caller") as caller:
            here = caller.get_span_context()
            found = [pool.apply(record_inside, ("a",)), *pool.map(record_inside, "ab"), *pool.imap(record_inside, "a")]
            found += pool.starmap(record_inside, [("a",), ("b",)])
            found += pool.map_async(record_in_coroutine, "ab", chunksize=2).get(PATIENCE)
        assert pool.map(has_context, range(2)) == [False, False]
        with pytest.raises(KeyError):
            pool.apply(fail, (KeyError("no"),))
        pool.close()
        pool.join()
    assert {each[:2] for each in found} == {(here.trace_id, here.span_id)}
    calls = [span for span in tracer.finished() if span.name.startswith("call record")]
    assert len(calls) == 1 + 2 + 1 + 2 + 1
    assert all(hangs_under(span, here) for span in calls)
    failed = tracer.spans()["call fail"]
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "KeyError"


def record_in_children(name: str) -> list[Any]:
    """Submit child calls, one of them under a span of this call."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    pool = Parent.pool()
    plain = pool.submit(record_inside, name)
    with TracerProvider().get_tracer("inside").start_as_current_span("inner") as inner:
        context = trace.get_current_span().get_span_context()
        under = pool.options(timeout=PATIENCE).submit(record_in_coroutine, name)
    assert inner is not None
    return [plain.result(), under.result(), (context.trace_id, context.span_id)]


def test_child_calls_hang_under_the_call_that_has_submitted_them(make_pool: MakePool, tracer: Tracer) -> None:
    pool = make_pool("nested", observers=tracer.tracing, max_concurrency=2)
    plain, under, inner = pool.submit(record_in_children, "child").result(PATIENCE)
    pool.shutdown()
    spans = tracer.spans()
    outer = spans["call record_in_children"]
    assert outer.context is not None
    assert plain[:2] == ids(outer)
    assert under[:2] == inner
    assert inner[0] == outer.context.trace_id
    assert hangs_under(spans["call record_inside"], outer.context)
    child = spans["call record_in_coroutine"]
    assert child.parent is not None
    assert (child.parent.trace_id, child.parent.span_id) == inner
    assert child.attributes is not None
    assert child.attributes["dragonfly.pool"] == "nested"


def test_child_calls_without_tracing_carry_nothing(make_pool: MakePool) -> None:
    events: list[Any] = []
    pool = make_pool(on_call=events.append)
    assert pool.submit(child_has_context).result(PATIENCE) is False
    pool.shutdown()
    assert len([event for event in events if event["event"] == "call done"]) == 2
    assert not [event for event in events if "caller" in event]


def child_has_context() -> Any:
    return Parent.pool().call(has_context)
