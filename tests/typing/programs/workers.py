"""Placed workers: the arguments are those of the class, and a worker has the type of its object."""

from typing import Any, assert_type

from dragonfly_executor import DragonflyExecutor, Future, PlacedWorker, Pool


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
    with executor.options(concurrency=2, restart="on_failure", max_restarts=None).place(Model, "path") as same:
        assert_type(same, PlacedWorker[Model])

    executor.place(Model, 5)  # error: call-overload, reportArgumentType, reportCallIssue
    executor.place(Model)  # error: call-overload, reportCallIssue
    executor.options(restart="sometimes")  # error: arg-type, reportArgumentType
    worker.options(timeouts=1)  # error: call-arg, reportCallIssue
