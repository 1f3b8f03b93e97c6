"""Placed workers: the arguments are those of the class, and a worker has the type of its object."""

from typing import Any, assert_type

from dragonfly_executor import (
    DragonflyExecutor,
    Future,
    PlacedProcess,
    PlacedWorker,
    Pool,
    ProcessResult,
    Remote,
    RemoteObject,
)


class Model:
    def __init__(self, path: str, *, size: int = 1) -> None:
        self.path = path

    def predict(self, value: float) -> float:
        return value


async def load(path: str) -> Model:
    return Model(path)


def workers(executor: DragonflyExecutor, pool: Pool) -> None:
    worker = executor.place(Model, "path", size=3)
    assert_type(worker, PlacedWorker[Model])
    assert_type(worker.predict(1.0), Future[Any])
    assert_type(worker.options(timeout=1), PlacedWorker[Model])
    assert_type(worker.ready, Future[None])
    assert_type(pool.place(load, "path"), PlacedWorker[Model])
    later = executor.submit(str, 5)
    assert_type(executor.place(Model, later.as_argument()), PlacedWorker[Model])
    assert_type(worker.predict(later), Future[Any])
    with executor.options(concurrency=2, restart="on_failure", max_restarts=None).place(Model, "path") as same:
        assert_type(same, PlacedWorker[Model])

    executor.place(Model, 5)  # error: call-overload, reportArgumentType, reportCallIssue
    executor.place(Model)  # error: call-overload, reportCallIssue
    executor.options(restart="sometimes")  # error: arg-type, reportArgumentType
    worker.options(timeouts=1)  # error: call-arg, reportCallIssue


def processes(executor: DragonflyExecutor, pool: Pool) -> None:
    process = executor.options(restart="always").place_process(["ls", "-l"], cwd="/", max_output=None)
    assert_type(process, PlacedProcess)
    assert_type(process.future, Future[ProcessResult])
    assert_type(process.result(1).stdout, bytes)
    assert_type(process.started, Future[int])

    pool.place_process(["ls"], output="tee")  # error: arg-type, reportArgumentType


async def run(executor: DragonflyExecutor) -> None:
    assert_type(await executor.place_process(["ls"]), ProcessResult)


def stays(handle: RemoteObject) -> Remote:
    assert_type(handle.add(1), Future[Any])
    return Remote(handle)
