"""The memory of a slot's ring of results is in the agent and in that slot, and in no other process."""

from __future__ import annotations

import os
import signal

import pytest

from dragonfly_executor.runner.result_ring import ResultRing


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="the ring needs an eventfd")
def test_a_process_that_is_forked_later_does_not_have_the_memory() -> None:
    ring = ResultRing()
    try:
        assert status_of_a_read(ring) == 0
        ring.set_inherited(inherited=False)
        assert status_of_a_read(ring) == -signal.SIGSEGV
        ring.set_inherited(inherited=True)
        assert status_of_a_read(ring) == 0
    finally:
        ring.close()


def status_of_a_read(ring: ResultRing) -> int:
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os._exit(ring._memory[0])
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
