"""The files of /proc that `CallerProcessor` reads have what it looks for."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from dragonfly_executor.engine import caller_processor
from dragonfly_executor.engine.caller_processor import PERIOD, CallerProcessor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these files")


def test_a_thread_ends_up_on_the_processor_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        pytest.skip("there is one processor")
    caller = CallerProcessor(is_useful=True)
    caller.thread = threading.get_native_id()
    moves: list[set[int]] = []
    places: list[int] = []
    restrict = os.sched_setaffinity

    def note(thread: int, processors: set[int]) -> None:
        restrict(thread, processors)
        moves.append(processors)
        places.append(caller_processor._processor_of("thread-self"))

    def engine() -> None:
        restrict(0, {usable[1]})
        restrict(0, set(usable))
        monkeypatch.setattr(os, "sched_setaffinity", note)
        caller.review(100.0)
        monkeypatch.setattr(caller_processor, "_waited", lambda: 3600.0)
        caller.review(100.0 + PERIOD)

    restrict(0, {usable[0]})
    try:
        assert caller_processor._waited() >= 0.0
        thread = threading.Thread(target=engine, name="engine-of-a-test")
        thread.start()
        thread.join()
    finally:
        monkeypatch.undo()
        restrict(0, set(usable))
    # The kernel may have moved the thread there before.
    assert moves in ([{usable[0]}, set(usable)], [])
    if moves:
        assert places[0] == usable[0]
