"""What a process does that has not answered for a while: it waits, it computes, or it lacks a processor."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from dragonfly_executor.runner.processor_time import ENOUGH, ProcessorTime

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


@contextmanager
def child(run: Callable[[], None]) -> Iterator[int]:
    """A forked process that runs this."""
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def compute() -> None:
    while True:
        pass


def used(pid: int) -> float:
    """Return the process's processor time, from another source than the code under test."""
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as times:
        return int(times.read().split()[0]) / 1e9


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_process_that_waits_lacks_none() -> None:
    with child(signal.pause) as pid:
        # A first look says so only if the process waits.
        wait_until(lambda: not ProcessorTime(pid).is_lacking(1))
        watched = ProcessorTime(pid)
        assert not watched.is_lacking(1)
        assert not watched.is_lacking(2)


def test_a_process_that_computes_lacks_none_from_the_second_look_on() -> None:
    with child(compute) as pid:
        wait_until(lambda: used(pid) > 0.01)
        watched = ProcessorTime(pid)
        assert watched.is_lacking(1)
        enough = used(pid) + 2 * ENOUGH
        wait_until(lambda: used(pid) > enough)
        assert not watched.is_lacking(1)
        assert watched.is_lacking(2), "of another call nothing is known"


def test_a_process_without_a_processor_lacks_processor_time() -> None:
    (processor, *_) = os.sched_getaffinity(0)

    def behind_another() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        os.sched_setaffinity(0, {processor})
        compute()

    def in_front() -> None:
        os.sched_setaffinity(0, {processor})
        compute()

    with child(behind_another) as pid:
        wait_until(lambda: os.sched_getscheduler(pid) == os.SCHED_IDLE and used(pid) > 0)
        with child(in_front) as other:
            wait_until(lambda: used(other) > 0.01)
            watched = ProcessorTime(pid)
            assert watched.is_lacking(1)
            before = used(pid)
            enough = used(other) + 0.01
            wait_until(lambda: used(other) > enough)
            assert watched.is_lacking(1) or used(pid) - before >= ENOUGH


def test_a_process_that_has_ended_lacks_none() -> None:
    with child(lambda: None) as pid:
        wait_until(lambda: not ProcessorTime(pid).is_lacking(1))
