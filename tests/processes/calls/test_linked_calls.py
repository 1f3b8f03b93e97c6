"""Who waits in `call` and is interrupted takes the remote work with them, unless they said otherwise."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from dragonfly_executor import Pool, call
from tests.engine.conftest import MakePool
from tests.support.helpers import Gate, Mailbox, ProcessHandle, all_ended
from tests.support.payloads import hold_and_say_when_done, hold_for_good


class Interrupt(BaseException):
    """What a signal's handler raises into the main thread, as a Ctrl-C does."""


Interrupted = Callable[[Callable[[], Any]], ProcessHandle]


@pytest.fixture
def interrupted(mailbox: Mailbox) -> Iterator[Interrupted]:
    """Runs what waits for a call, interrupts it once the call runs, and gives a watch on the call's slot."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, handler)
    watches: list[ProcessHandle] = []

    def interrupt_when_it_runs() -> None:
        watches.append(ProcessHandle(int(mailbox.read())))
        os.kill(os.getpid(), signal.SIGUSR1)

    def interrupted(wait: Callable[[], Any]) -> ProcessHandle:
        thread = threading.Thread(target=interrupt_when_it_runs)
        thread.start()
        with pytest.raises(Interrupt):
            wait()
        thread.join()
        return watches[-1]

    yield interrupted
    signal.signal(signal.SIGUSR1, before)
    for watch in watches:
        watch.close()


def test_an_interrupted_call_takes_its_work_with_it(
    make_pool: MakePool, mailbox: Mailbox, interrupted: Interrupted
) -> None:
    """link=True."""
    pool = make_pool(max_concurrency=2)
    path = mailbox.path
    watch = interrupted(lambda: call(pool, lambda: hold_for_good(path)))
    assert all_ended([watch])
    assert call(pool, lambda: "the slot is back") == "the slot is back"
    assert pool.stats().calls_cancelled == 1


def test_so_does_the_pools_own_call(make_pool: MakePool, mailbox: Mailbox, interrupted: Interrupted) -> None:
    pool = make_pool()
    assert all_ended([interrupted(lambda: pool.call(hold_for_good, mailbox.path))])


def test_an_interrupted_call_without_a_link_goes_on(
    make_pool: MakePool, mailbox: Mailbox, gate: Gate, interrupted: Interrupted
) -> None:
    """link=False."""
    pool = make_pool()
    there, here = mailbox.path, gate.path
    watch = interrupted(lambda: call(pool, lambda: hold_and_say_when_done(there, here), link=False))
    assert not watch.ended(0.1)
    gate.open()
    assert mailbox.read() == "done"
    pool.shutdown()
    stats = pool.stats()
    assert (stats.calls_done, stats.calls_cancelled) == (1, 0)


def test_a_call_without_a_link_finishes_after_a_shutdown(
    make_pool: MakePool, mailbox: Mailbox, gate: Gate, interrupted: Interrupted
) -> None:
    """The pool goes, and the call does not go with it."""
    pool = make_pool(shutdown_timeout=30)
    there, here = mailbox.path, gate.path
    interrupted(lambda: call(pool, lambda: hold_and_say_when_done(there, here), link=False))
    pool.shutdown(wait=False)
    gate.open()
    assert mailbox.read() == "done"
    pool.join()
    assert pool.stats().calls_done == 1


def interrupted_block(pool: Pool, there: str, here: str) -> None:
    """Wait for a call without a link in a `with` block, as a program that gets a Ctrl-C does."""
    with pool:
        pool.submit(hold_for_good, there + "-nobody")
        try:
            call(pool, lambda: hold_and_say_when_done(there, here), link=False)
        except Interrupt:
            raise KeyboardInterrupt from None


def test_a_ctrl_c_lets_calls_without_a_link_finish_within_shutdown_timeout(
    make_pool: MakePool, mailbox: Mailbox, gate: Gate, interrupted: Interrupted
) -> None:
    """link=False, within shutdown_timeout."""
    pool = make_pool(max_concurrency=2, shutdown_timeout=60)
    gate.open()
    os.mkfifo(mailbox.path + "-nobody")

    def block() -> None:
        with pytest.raises(KeyboardInterrupt):
            interrupted_block(pool, mailbox.path, gate.path)
        raise Interrupt

    interrupted(block)
    assert mailbox.read() == "done"
    assert pool.stats().calls_done == 1


def test_a_ctrl_c_stops_calls_without_a_link_after_shutdown_timeout(
    make_pool: MakePool, mailbox: Mailbox, gate: Gate, interrupted: Interrupted
) -> None:
    """And not for ever."""
    pool = make_pool(max_concurrency=2, shutdown_timeout=0.2)
    os.mkfifo(mailbox.path + "-nobody")

    def block() -> None:
        with pytest.raises(KeyboardInterrupt):
            interrupted_block(pool, mailbox.path, gate.path)
        raise Interrupt

    assert all_ended([interrupted(block)])
    assert pool.stats().calls_done == 0
