"""Streams of SSH hosts: items over a slow link, a cut in the middle, a stream that is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from dragonfly_executor import RunnerLostError
from tests.backends.ssh.calls import free
from tests.backends.ssh.conftest import Make, MakeBackend
from tests.backends.ssh.test_call_faults import QUICK
from tests.support.helpers import PATIENCE, Mailbox
from tests.support.sshd.faults import FaultyConnection


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


def large(count: int, size: int) -> Iterator[bytes]:
    for number in range(count):
        yield bytes([number]) * size


def endless(mailbox: str) -> Callable[[], Iterator[int]]:
    def items() -> Iterator[int]:
        from itertools import count

        try:
            yield from count()
        finally:
            with open(mailbox, "w") as box:
                box.write("closed\n")

    return items


def test_items_come_over_the_link(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, mailbox: Mailbox
) -> None:
    executor = make(make_backend(way))
    way.up.delay = way.down.delay = 0.005
    assert list(executor.stream(free(numbers), 5000)) == list(range(5000))
    assert [len(item) for item in executor.stream(free(large), 3, 3 << 20)] == [3 << 20] * 3
    with executor.stream(free(endless(mailbox.path))) as stream:
        assert list(islice(stream, 3)) == [0, 1, 2]
    assert mailbox.read() == "closed"
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024


def test_a_cut_in_the_middle(way: FaultyConnection, make_backend: MakeBackend, make: Make) -> None:
    """What has arrived is there, in order, and then the loss. Nothing comes twice, with retries too."""
    executor = make(make_backend(way), **QUICK)
    found = []
    with pytest.raises(RunnerLostError):
        for number in executor.options(retries=3).stream(free(numbers), 10**9):
            found.append(number)
            if number == 2000:
                way.cut()
    assert found == list(range(len(found)))
    way.heal()
    assert list(executor.stream(free(numbers), 5)) == list(range(5))
