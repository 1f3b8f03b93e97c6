"""A loop hears of every call from another thread, whenever it comes."""

from __future__ import annotations

import socket
import threading

import pytest

from dragonfly_executor.transport.loop import PASS, Loop


def test_a_wake_that_comes_while_one_is_being_cleared_is_not_the_last() -> None:
    """The other thread is played by the waker: it asks just before the loop makes its descriptor unreadable."""
    loop = Loop()
    ran: list[str] = []
    clear = loop._waker.clear

    def clear_late() -> None:
        loop._waker.clear = clear  # type: ignore[method-assign]
        loop.call_soon_threadsafe(lambda: ran.append("meanwhile"))
        clear()
        # A third one comes when the loop waits again; without a wake it would wait for ever.
        threading.Timer(0.05, loop.call_soon_threadsafe, [loop.stop]).start()

    loop._waker.clear = clear_late  # type: ignore[method-assign]
    loop.call_soon_threadsafe(lambda: ran.append("first"))
    loop.run()
    loop.close()
    assert ran == ["first", "meanwhile"]


def test_an_interrupt_in_a_wake_costs_no_later_call_its_own() -> None:
    """Checklist 33. A Ctrl-C may come between any two steps of whoever hands something over."""
    loop = Loop()
    ran: list[str] = []
    wake = loop._waker.wake

    def interrupted_wake() -> None:
        loop._waker.wake = wake  # type: ignore[method-assign]
        raise KeyboardInterrupt

    loop._waker.wake = interrupted_wake  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        loop.call_soon_threadsafe(lambda: ran.append("interrupted"))
    loop.call_soon(loop.stop)
    loop.run()
    # The loop has seen no wake. What is handed over while it waits has to send one.
    threading.Timer(0.05, loop.call_soon_threadsafe, [loop.stop]).start()
    loop.run()
    loop.close()
    assert ran == ["interrupted"]


def test_every_one_of_many_calls_from_many_threads_runs() -> None:
    """Each thread waits for its call to have run before it makes the next: a lost wake stops it for good."""
    loop = Loop()
    total, threads = 4000, 4
    ran: list[int] = []

    def ask(number: int) -> None:
        done = threading.Event()
        for _ in range(total // threads):
            done.clear()
            loop.call_soon_threadsafe(lambda: (ran.append(number), done.set()))
            assert done.wait(20)

    askers = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(threads)]
    runner = threading.Thread(target=loop.run, daemon=True)
    for thread in (runner, *askers):
        thread.start()
    for thread in askers:
        thread.join()
    loop.call_soon_threadsafe(loop.stop)
    runner.join()
    loop.close()
    assert len(ran) == total


def test_a_wake_after_the_end_touches_no_descriptor_of_somebody_else() -> None:
    """A future may be cancelled when its pool has gone, and its loop's number may be a file by then."""
    loop = Loop()
    loop.close()
    ran: list[int] = []
    loop.call_soon_threadsafe(lambda: ran.append(1))
    assert ran == []


def test_however_many_calls_come_the_loop_looks_at_its_descriptors_and_timers() -> None:
    """Threads that call faster than the loop runs what they ask for must not keep it from heartbeats."""
    loop, calls = Loop(), [0]
    seen: list[tuple[str, int]] = []
    near, far = socket.socketpair()
    far.send(b"x")

    def call() -> None:
        calls[0] += 1

    def tick() -> None:
        seen.append(("timer", calls[0]))
        loop.call_later(0.0, tick)

    loop.add_reader(near.fileno(), lambda: seen.append(("reader", calls[0])))
    loop.call_later(0.0, tick)
    for _ in range(3 * PASS):
        loop.call_soon_threadsafe(call)
    loop.call_soon_threadsafe(loop.stop)
    loop.run()
    loop.close()
    near.close()
    far.close()
    for passes in range(4):
        assert ("timer", passes * PASS) in seen
        assert ("reader", passes * PASS) in seen
