"""Memory that no longer changes: another process maps it, and nothing that a process does to it shows elsewhere."""

from __future__ import annotations

import os
import sys
from mmap import mmap

import pytest

from dragonfly_executor.transport.sealed_memory import SealedMemory, is_reachable, map_sealed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has sealed memory")
SIZE = 3 * 4096 + 5
DATA = os.urandom(SIZE)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # the number is wanted


def test_another_process_maps_it_copy_on_write() -> None:
    memory = SealedMemory([DATA[:10], memoryview(DATA)[10:]])
    child = os.fork()
    if child == 0:
        mapped = map_sealed(os.getppid(), memory.descriptor, memory.inode, SIZE)
        same = mapped[:] == DATA
        mapped[0] = (DATA[0] + 1) % 256
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bytes(memory.view()) == DATA
    assert is_reachable()


def test_nobody_changes_it() -> None:
    memory = SealedMemory([DATA])
    for change in (
        lambda: os.ftruncate(memory.descriptor, 1),
        lambda: os.ftruncate(memory.descriptor, SIZE + 1),
        lambda: os.pwrite(memory.descriptor, b"x", 0),
        lambda: mmap(memory.descriptor, SIZE),
    ):
        with pytest.raises(PermissionError):
            change()


def test_a_descriptor_that_is_another_file_by_now_is_refused(tmp_path: object) -> None:
    memory, other = SealedMemory([DATA]), SealedMemory([DATA])
    with pytest.raises(OSError, match="another file"):
        map_sealed(os.getpid(), other.descriptor, memory.inode, SIZE)
    with pytest.raises(OSError, match="another file"):
        map_sealed(os.getpid(), memory.descriptor, memory.inode, SIZE - 1)
    with open("/dev/null") as plain, pytest.raises(OSError, match=r"."):
        map_sealed(os.getpid(), plain.fileno(), memory.inode, SIZE)


def test_it_is_gone_with_its_descriptor_and_its_views() -> None:
    before = open_descriptors()
    memory = SealedMemory([DATA])
    view = memory.view()
    assert memory.view() is view
    memory.close()
    memory.close()
    assert bytes(view) == DATA
    with pytest.raises(ValueError, match="closed"):
        memory.view()
    del view
    assert open_descriptors() == before
    SealedMemory([DATA])
    assert open_descriptors() == before


def test_a_failure_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        SealedMemory([DATA])
    assert open_descriptors() == before
