"""A fork waits while the engine thread has a file open that is no part of a pool."""

from __future__ import annotations

import os
import threading

from dragonfly_executor.engine.fork_guard import ForkGuard


def test_a_fork_waits_until_the_file_is_closed() -> None:
    guard, steps = ForkGuard(), list[str]()

    def fork() -> None:
        guard._before_fork()
        steps.append("fork")
        guard._after_in_parent()

    assert guard.delay()
    assert not guard.delay()
    thread = threading.Thread(target=fork, name="forks")
    thread.start()
    steps.append("closed")
    guard.end_delay()
    thread.join()
    assert steps == ["closed", "fork"]
    assert guard.delay()
    guard.end_delay()


def test_nothing_is_opened_during_a_fork() -> None:
    guard = ForkGuard()
    guard._before_fork()
    assert not guard.delay()
    guard._after_in_parent()
    assert guard.delay()
    guard.end_delay()


def test_a_child_that_was_forked_during_a_delay_may_fork_again() -> None:
    guard = ForkGuard()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if guard.delay() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert guard.delay()
    guard.end_delay()
