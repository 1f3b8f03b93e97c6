"""A thread moves to the processor of its partner while it lacks processor time elsewhere."""

from __future__ import annotations

import os

import pytest

from dragonfly_executor.util import partner_processor
from dragonfly_executor.util.partner_processor import PERIOD, PartnerProcessor


class Kernel:
    """What the kernel says of two threads, and the processors that the first was restricted to."""

    def __init__(self) -> None:
        self.waited, self.caller, self.engine = 0.0, 0, 1
        self.usable = {0, 1, 2}
        self.restricted: list[set[int]] = []
        self.missing: set[str] = set()

    def read(self, name: str) -> bytes:
        if name in self.missing:
            raise FileNotFoundError(name)
        if name.endswith("schedstat"):
            return b"5000 %d 7\n" % int(self.waited * 1e9)
        processor = {"thread-self/stat": self.engine, "77/stat": self.caller}[name]
        return b"77 (a) b) R " + b" ".join([b"1"] * 35) + b" %d 0 0\n" % processor

    def restrict(self, thread: int, processors: set[int]) -> None:
        assert thread == 0
        self.restricted.append(processors)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(partner_processor, "_read", kernel.read)
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: kernel.usable, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", kernel.restrict, raising=False)
    return kernel


def reviewed(kernel: Kernel, waited: float, *, thread: int = 77) -> PartnerProcessor:
    """Review twice: the thread had to wait that long in between."""
    caller = PartnerProcessor(is_useful=True)
    caller.partner = thread
    caller.review(100.0)
    assert kernel.restricted == []
    kernel.waited += waited
    caller.review(100.0 + PERIOD)
    return caller


def test_a_thread_that_lacks_processor_time_moves_and_may_leave_again(kernel: Kernel) -> None:
    caller = reviewed(kernel, PERIOD / 10)
    assert kernel.restricted == [{0}, {0, 1, 2}]
    assert caller.due == pytest.approx(100.0 + 2 * PERIOD)


def test_a_thread_with_enough_processor_time_stays(kernel: Kernel) -> None:
    reviewed(kernel, PERIOD / 100)
    assert kernel.restricted == []


def test_a_thread_that_works_in_turn_with_its_partner_moves_at_once(kernel: Kernel) -> None:
    caller = PartnerProcessor(is_useful=True)
    caller.partner = 77
    caller.review(100.0, in_turn=True)
    assert kernel.restricted == [{0}, {0, 1, 2}]


def test_a_thread_that_is_there_already_stays(kernel: Kernel) -> None:
    kernel.engine = kernel.caller
    reviewed(kernel, PERIOD / 2)
    assert kernel.restricted == []


def test_a_thread_moves_nowhere_where_it_may_not_run(kernel: Kernel) -> None:
    kernel.usable = {1, 2}
    reviewed(kernel, PERIOD / 2)
    assert kernel.restricted == []


def test_without_a_thread_that_submits_nothing_moves(kernel: Kernel) -> None:
    reviewed(kernel, PERIOD / 2, thread=0)
    assert kernel.restricted == []


def test_a_thread_that_has_ended_is_passed_over(kernel: Kernel) -> None:
    kernel.missing.add("77/stat")
    caller = reviewed(kernel, PERIOD / 2)
    assert (kernel.restricted, caller.due) == ([], pytest.approx(100.0 + 2 * PERIOD))


def test_a_system_without_these_files_is_asked_once(kernel: Kernel) -> None:
    kernel.missing.add("thread-self/schedstat")
    caller = PartnerProcessor(is_useful=True)
    caller.review(100.0)
    assert caller.due == float("inf")


def test_with_one_processor_there_is_no_review() -> None:
    assert PartnerProcessor(is_useful=False).due == float("inf")
