"""Placed workers on SSH hosts: methods over the connection that is there, a connection that is lost, a restart."""

from __future__ import annotations

from typing import Any

import pytest

from dragonfly_executor import WorkerLostError
from tests.backends.ssh.calls import free
from tests.backends.ssh.conftest import Make, MakeBackend
from tests.backends.ssh.test_call_faults import QUICK
from tests.support.helpers import PATIENCE, becomes_true, error_of, values
from tests.support.sshd.faults import FaultyConnection


def make_counter(start: int) -> Any:
    class Counter:
        def __init__(self, count: int) -> None:
            self.count = count

        def add(self) -> int:
            self.count += 1
            return self.count

        def pause(self) -> None:
            import signal

            signal.pause()

        def echo(self, value: Any) -> Any:
            return value

        def here(self) -> Any:
            from dragonfly_executor import Remote

            return Remote(self)

    return Counter(start)


def test_a_worker_serves_on_a_host_and_objects_stay_there(
    way: FaultyConnection, make_backend: MakeBackend, make: Make
) -> None:
    worker = make(make_backend(way)).place(free(make_counter), 5)
    data = bytes(range(256)) * 12_000
    futures = [future for _ in range(3) for future in (worker.echo(data), worker.add())]
    assert values(futures) == [data, 6, data, 7, data, 8]
    assert worker.here().result(PATIENCE).add().result(PATIENCE) == 9
    worker.stop(timeout=PATIENCE)


def test_a_lost_connection_ends_a_worker_and_another_host_serves(
    way: FaultyConnection, make_backend: MakeBackend, make: Make
) -> None:
    executor = make(make_backend(way), **QUICK)
    worker = executor.options(restart="on_failure").place(free(make_counter), 5)
    assert worker.add().result(PATIENCE) == 6
    future = worker.pause()
    assert becomes_true(executor.pool, future.running)
    way.cut()
    assert type(error_of(future)) is WorkerLostError
    way.heal()
    assert worker.options(retries=1).add().result(PATIENCE) == 6
    worker.stop(timeout=PATIENCE)
    with pytest.raises(RuntimeError):
        worker.add()
