"""Large new memory is mapped in large pages."""

from __future__ import annotations

import mmap
import resource
import sys
from collections.abc import Iterator

import pytest

from dragonfly_executor.util import large_pages

SIZES = [large_pages.LARGE, large_pages.LARGE + 4097, 3 * large_pages.LARGE + 1]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such calls")


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> Iterator[memoryview]:
    fresh = mmap.mmap(-1, request.param, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with memoryview(fresh) as view:
        yield view
    fresh.close()


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


@pytest.mark.parametrize("memory", SIZES, indirect=True)
@pytest.mark.parametrize("offset", [0, 1, 40, 4096])
def test_prepared_memory_is_as_it_was(memory: memoryview, offset: int) -> None:
    memory[0], memory[-1], memory[-5000] = 1, 2, 3
    large_pages.prepare(memory[offset:])
    assert (memory[0], memory[-1], memory[-5000], sum(memory[100:10_000])) == (1, 2, 3, 0)


@pytest.mark.parametrize("memory", [large_pages.LARGE - 1], indirect=True)
def test_small_memory_is_left_alone(memory: memoryview) -> None:
    large_pages.prepare(memory)
    before = faults()
    memory[0] = memory[-1] = 1
    assert faults() - before >= 2
