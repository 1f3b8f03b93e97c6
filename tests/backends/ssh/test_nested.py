"""Child calls on SSH hosts: over the connection that is there, also when it is lost or a call is stopped."""

from __future__ import annotations

import os
from typing import Any

import pytest

from dragonfly_executor import RunnerLostError
from tests.backends.ssh.conftest import Make, MakeBackend, MakeHost
from tests.backends.ssh.test_call_faults import QUICK
from tests.support.helpers import PATIENCE, Gate, Mailbox, error_of, watching
from tests.support.sshd.faults import FaultyConnection


def add_tree(depth: int) -> int:
    """Call itself twice, on the pool that runs it, and count the calls."""

    def tree(left: int) -> int:
        from dragonfly_executor import Parent

        if not left:
            return 1
        pool = Parent.pool()
        futures = [pool.submit(tree, left - 1) for _ in range(2)]
        return 1 + sum(future.result() for future in futures)

    return tree(depth)


def send_and_get(size: int) -> bool:
    """Have a child call send much back, as an item of a map and as a value."""
    import os

    from dragonfly_executor import Parent

    data = os.urandom(size)
    pool = Parent.pool()
    return list(pool.map(bytes, [data] * 2)) == [data] * 2 and pool.call(bytes, data) == data


def wait_for_child(mailbox: str, gate: str) -> Any:
    """Wait for a child call that waits at a gate. Both say their processes."""

    def hold() -> int:
        import os

        with open(mailbox, "w") as box:
            box.write(f"{os.getpid()}\n")
        os.read(os.open(gate, os.O_RDONLY), 1)
        return os.getpid()

    import os

    from dragonfly_executor import Parent

    future = Parent.pool().submit(hold)
    with open(mailbox, "w") as box:
        box.write(f"{os.getpid()}\n")
    return future.result()


def test_child_calls_on_a_host(way: FaultyConnection, make_backend: MakeBackend, make: Make) -> None:
    executor = make(make_backend(way), max_concurrency=1)
    assert executor.submit(add_tree, 3).result(PATIENCE) == 15
    assert executor.submit(send_and_get, 3 << 20).result(PATIENCE)


def test_child_calls_run_on_other_hosts(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Each host has one slot, so both hosts have a part of the call."""
    executor = make(make_backend(make_host(), make_host()), max_concurrency=1, max_workers=2)
    future = executor.submit(wait_for_child, mailbox.path, gate.path)
    outer, child = mailbox.numbers(2)
    assert outer != child
    gate.open()
    assert future.result(PATIENCE) in (outer, child)


@pytest.mark.parametrize("how", ["cut", "cancelled", "killed"])
def test_a_call_that_ends_takes_its_child_calls_along(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate, how: str
) -> None:
    executor = make(make_backend(way), **QUICK)
    future = executor.submit(wait_for_child, mailbox.path, gate.path)
    processes = mailbox.numbers(2)
    with watching(*processes) as slots:
        if how == "cancelled":
            assert future.cancel()
        elif how == "cut":
            way.cut()
            assert isinstance(error_of(future), RunnerLostError)
        else:
            os.kill(processes[0], 9)
            os.kill(processes[1], 9)
            assert isinstance(error_of(future), RunnerLostError)
        assert all(slot.ended() for slot in slots)
    assert executor.submit(add_tree, 1).result(PATIENCE) == 3
