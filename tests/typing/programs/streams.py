"""Streams: the arguments are those of the function, and the items have its type."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from dragonfly_executor import CallProgress, CallStream, DragonflyExecutor, Pool, progress


def lines(path: str, *, limit: int = 0) -> Iterator[str]:
    yield path * limit


async def numbers(count: int) -> AsyncIterator[float]:
    yield count


def squares(count: int) -> list[int]:
    return [count]


def streams(executor: DragonflyExecutor, pool: Pool) -> None:
    assert_type(executor.stream(lines, "path"), CallStream[str])
    assert_type(executor.stream(numbers, 1), CallStream[float])
    assert_type(executor.options(stream_buffersize=1).stream(squares, 1), CallStream[int])
    for item in pool.stream(lines, "path", limit=3):
        assert_type(item, str)

    executor.stream(lines, 5)  # error: call-overload, reportArgumentType, reportCallIssue
    executor.stream(numbers)  # error: call-overload, reportCallIssue
    executor.options(stream_buffersize="1")  # error: arg-type, reportArgumentType


def reports(executor: DragonflyExecutor) -> None:
    def show(report: CallProgress) -> None:
        assert_type(report.fraction, float | None)

    assert_type(executor.options(on_progress=show).submit(squares, 1).progress(), CallProgress | None)
    executor.map(squares, [1], progress="squares")
    progress(1, 2, "text")

    executor.options(on_progress=squares)  # error: arg-type, reportArgumentType
    progress("1")  # error: arg-type, reportArgumentType


async def take(executor: DragonflyExecutor) -> None:
    async for item in executor.stream(numbers, 1):
        assert_type(item, float)
