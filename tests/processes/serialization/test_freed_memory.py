"""Freed memory stays with the process: a new object of the same size meets no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep freed memory or not")

ALLOCATE = """
import resource, sys
from dragonfly_executor.util.freed_memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    objects = [bytes(bytearray(1 << 20)) for _ in range(20)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print([faults() for _ in range(4)][-1])
"""

ECHO = """
import resource
from dragonfly_executor import DragonflyExecutor

def echo(value):
    return value

if __name__ == "__main__":
    with DragonflyExecutor(1) as ex:
        for _ in range(4):
            values = [bytes([k]) * (1 << 20) for k in range(20)]
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            results = [call.result() for call in [ex.submit(echo, value) for value in values]]
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            assert results == values
            del results, values
        print(faults)
"""


def number_from(program: str, *args: str, **environment: str) -> int:
    command = [sys.executable, "-c", program, *args]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment or None).stdout)


def test_objects_of_a_freed_size_meet_no_page_faults() -> None:
    # 20 MiB are 5,120 pages.
    assert number_from(ALLOCATE, "keep") < 500
    assert number_from(ALLOCATE, "default") > 4_000


def test_a_program_that_has_set_the_threshold_keeps_it() -> None:
    assert number_from(ALLOCATE, "keep", MALLOC_TRIM_THRESHOLD_="131072") > 4_000


def test_large_results_meet_no_page_faults() -> None:
    assert number_from(ECHO) < 1_500
