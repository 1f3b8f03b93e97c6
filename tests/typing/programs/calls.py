"""Calls: the arguments are those of the function, and the future has its type."""

from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, as_completed
from typing import assert_type

from dragonfly_executor import DragonflyExecutor, Future, Pool, call, cast


def scale(pixels: list[int], factor: float, *, rounded: bool = False) -> str:
    return f"{pixels} {factor} {rounded}"


def of_four(a: int, b: int, c: int, d: int) -> str:
    return f"{a} {b} {c} {d}"


class Model:
    def predict(self, text: str) -> float:
        return float(text)


def submits(executor: DragonflyExecutor, model: Model) -> None:
    assert_type(executor.submit(scale, [1], 0.5), Future[str])
    assert_type(executor.submit(scale, [1], 1, rounded=True), Future[str])
    assert_type(executor.submit(scale, [1], factor=1).result(), str)
    assert_type(executor.submit(model.predict, "1"), Future[float])
    assert_type(executor.submit(Model), Future[Model])
    assert_type(executor.submit(lambda: 1), Future[int])
    assert_type(executor.options(timeout=1).submit(scale, [1], 1), Future[str])
    future = executor.submit(scale, [1], 1)
    assert_type(executor.submit(model.predict, future.as_argument()), Future[float])
    assert_type(list(executor.map(model.predict, [future.as_argument()])), list[float])
    executor.submit(scale, future.as_argument(), 1)  # error: call-overload, reportArgumentType, reportCallIssue

    executor.submit(scale, [1], "1")  # error: call-overload, reportArgumentType, reportCallIssue
    executor.submit(scale, [1])  # error: call-overload, reportCallIssue
    executor.submit(model.predict, "1", 2)  # error: call-overload, reportCallIssue
    executor.submit(scale, [1], 1, round=True)  # error: arg-type, call-arg, reportCallIssue
    executor.submit(scale, [1], 1, timeout=3)  # error: arg-type, call-arg, reportCallIssue
    executor.submit(model.predict, 1)  # error: call-overload, reportArgumentType, reportCallIssue
    executor.submit("scale")  # error: call-overload, reportArgumentType, reportCallIssue
    executor.options(retries=1).submit(scale, [1], "1")  # error: call-overload, reportArgumentType, reportCallIssue
    number: int = executor.submit(scale, [1], 1).result()  # error: assignment, reportAssignmentType
    print(number)


def calls(pool: Pool) -> None:
    assert_type(pool.submit(scale, [1], 1), Future[str])
    assert_type(pool.call(scale, [1], 1), str)
    assert_type(call(pool, lambda: 1), int)
    assert_type(call("pool", Model, timeout=3), Model)
    pool.cast(scale, [1], 1)
    cast(pool, Model)

    pool.call(scale, 1, 1)  # error: call-overload, reportArgumentType, reportCallIssue
    pool.cast(scale, [1], "1")  # error: arg-type, reportArgumentType
    call(pool, scale)  # error: arg-type, reportArgumentType
    call(pool, Model, timeout="3")  # error: arg-type, reportArgumentType


def maps(executor: DragonflyExecutor, model: Model) -> None:
    pictures: list[list[int]] = []
    columns: list[list[int]] = []
    assert_type(executor.map(model.predict, ["1"]), Iterator[float])
    assert_type(executor.map(model.predict, {"1": 2}, chunksize="auto", timeout=3), Iterator[float])
    assert_type(executor.map(scale, pictures, [0.5]), Iterator[str])
    assert_type(executor.map(len, pictures, buffersize=9), Iterator[int])
    assert_type(executor.map(lambda text: f"{text}!", ["1"]), Iterator[str])
    assert_type(executor.map(int, ["1"]), Iterator[int])
    assert_type(executor.map(of_four, [1], [2], [3], [4]), Iterator[str])
    assert_type(executor.map(model.predict, ["1"], return_exceptions=True), Iterator[float | BaseException])
    executor.map(max, *columns)

    executor.map(model.predict, [1])  # error: arg-type, reportArgumentType, reportCallIssue
    executor.map(scale, pictures, ["1"])  # error: arg-type, reportArgumentType, reportCallIssue
    executor.map(scale, pictures)  # error: arg-type, reportArgumentType, reportCallIssue
    executor.map(model.predict, ["1"], chunksize="large")  # error: call-overload, reportArgumentType, reportCallIssue
    executor.map(model.predict, ["1"], chunksise=2)  # error: call-overload, reportCallIssue
    executor.map(model.predict, 1)  # error: call-overload, reportArgumentType, reportCallIssue


def stands_in(executor: DragonflyExecutor) -> None:
    """Where the standard library's executors stand."""

    def use(standard: Executor) -> list[int]:
        with standard as opened:
            return [future.result() for future in as_completed([opened.submit(len, "four")])]

    use(executor)
    use(executor.options(timeout=3))
    made: Callable[[int], Executor] = DragonflyExecutor
    made(3)


def shares(executor: DragonflyExecutor, pictures: list[int]) -> None:
    """A handle fits where its object does, once it is opened."""
    with executor.share(pictures) as shared:
        executor.submit(scale, shared, 1)
        executor.map(scale, [shared], [0.5])
        executor.submit(len, [shared])
        executor.submit(Model().predict, shared)  # error: call-overload, reportArgumentType, reportCallIssue
    handle = executor.share(pictures)
    executor.submit(scale, handle.as_argument(), handle.size)
    executor.submit(scale, handle, 1)  # error: call-overload, reportArgumentType, reportCallIssue
    handle.close()


async def awaits(executor: DragonflyExecutor, model: Model) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    assert_type(await executor.acall(scale, [1], 0.5), str)
    assert_type([value async for value in executor.amap(model.predict, ["1"], ordered=False)], list[float])
    assert_type([value async for value in executor.amap(str, numbers())], list[str])
    assert_type(await executor.submit(scale, [1], 0.5), str)
    async with executor.options(timeout=3) as view:
        assert_type(await view.acall(len, "four"), int)

    async def first(items: list[int]) -> int:
        return items[0]

    sharing = executor.options(slot_concurrency=8)
    assert_type(await sharing.acall(first, [1]), int)
    await sharing.acall(first, "1")  # error: call-overload, reportArgumentType, reportCallIssue
    await executor.acall(scale, [1], "1")  # error: call-overload, reportArgumentType, reportCallIssue
    await executor.acall(scale, [1])  # error: call-overload, reportCallIssue
    executor.amap(model.predict, ["1"], order=False)  # error: call-overload, reportCallIssue
