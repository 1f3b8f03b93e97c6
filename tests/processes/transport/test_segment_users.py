"""Blocks of shared memory in forked processes and on several threads."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from dragonfly_executor.transport.segment_file import ABANDONED
from dragonfly_executor.transport.segment_pool import SegmentPool
from tests.unit.transport.test_segments import Maker, pattern, received

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="there is no memfd")


def test_a_block_in_use_at_a_fork_is_never_used_again() -> None:
    pool = SegmentPool(Maker(room=1), {os.getpid()})
    block = pool.take([b"x" * 5000], 5000)
    assert block is not None
    view = received(block.segment).lend(block.index, 5000, os.getpid())
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    del view
    assert block.user == ABANDONED
    fd = os.dup(block.segment.fd)
    pool.put(block)
    del block
    assert not pool.trim()
    os.close(fd)


def test_a_forked_child_gives_nothing_back() -> None:
    pool = SegmentPool(Maker(), {os.getpid()})
    block = pool.take([b"x" * 5000], 5000)
    assert block is not None
    views = [received(block.segment).lend(block.index, 5000, os.getpid())]
    pid = os.fork()
    if pid == 0:
        views.clear()
        pool.clear()
        os._exit(0)
    os.waitpid(pid, 0)
    assert block.user == os.getpid()
    views.clear()
    pool.clear()


def test_threads_never_share_a_block() -> None:
    pool = SegmentPool(Maker(limit=64 << 20), {os.getpid()})
    wrong = []

    def work(number: int) -> None:
        for _ in range(200):
            block = pool.take([pattern(number, 70_000)], 70_000)
            if block is None or bytes(block.view()[:70_000]) != pattern(number, 70_000):
                wrong.append(number)
            else:
                pool.put(block)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert not wrong
    pool.clear()
