"""Places in which calls use shared objects, and calls that do."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

import pytest

from dragonfly_executor.engine import shared_contents
from tests.support.helpers import TamperingBackend, all_ended, watching

SIZE = 3 * 1024 * 1024
"""Bytes of an object that has memory of its own."""
MIDDLE = 100 * 1024
"""Bytes of an object that neither stands in a payload nor has memory of its own."""
SIZES = {"small": 100, "middle": MIDDLE, "large": SIZE}


def kill_when_stalled(program: str) -> None:
    """Run a parent that prints the numbers of its processes, kill it when it says "stalled", and see them end."""
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout
    with parent, watching(*map(int, parent.stdout.readline().split())) as watches:
        assert parent.stdout.readline() == "stalled\n"
        parent.kill()
        assert all_ended(watches)


def without_sealed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no slot map the parent's memory: each gets objects from its agent, as on another machine."""

    def none_left(parts: object) -> None:
        raise OSError("no memory here that others can map")

    monkeypatch.setattr(shared_contents, "SealedMemory", none_left)


def blobs(cache: Path) -> list[Path]:
    """The files of the cache in this folder, those that are not complete included."""
    folder = cache / "blobs"
    return sorted(folder.iterdir()) if folder.is_dir() else []


class CountingBackend(TamperingBackend):
    """Local runners. `sent` is the number of bytes that went to them."""

    def __init__(self) -> None:
        self.sent = 0
        super().__init__(to_runner=lambda: self.count)

    def count(self, data: bytes) -> bytes:
        self.sent += len(data)
        return data


@dataclass
class Holder:
    """A dataclass with a shared object in it."""

    value: Any


class Opened:
    """An object that says in a file each time that it is unpickled, and in which process."""

    def __init__(self, path: str, filler: bytes) -> None:
        self.path = path
        self.filler = filler

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        with open(self.path, "a") as file:
            file.write(f"{os.getpid()}\n")


class Block:
    """Bytes that are pickled as a buffer beside the pickle, as arrays are."""

    def __init__(self, data: Any) -> None:
        self.data = memoryview(data)

    def __reduce_ex__(self, protocol: object) -> Any:
        return Block, (PickleBuffer(self.data),)


class Unopenable:
    """An object that cannot be unpickled."""

    def __init__(self, filler: bytes) -> None:
        self.filler = filler

    def __setstate__(self, state: object) -> None:
        raise ValueError("it stays closed")


def size_of(value: Any) -> int:
    return len(value)


def sum_of(*values: Any) -> int:
    return sum(map(len, values))


def opened_by(value: Opened) -> tuple[int, int]:
    return os.getpid(), len(value.filler)


def identity(value: Any) -> tuple[int, int]:
    return os.getpid(), id(value)


def change(value: bytearray) -> tuple[int, int]:
    value[0] += 1
    return os.getpid(), value[0]


def open_files(word: str) -> list[str]:
    """Return what the descriptors of this process refer to, if this word is in it."""
    return open_files_of("self", word)


def open_files_of(pid: int | str, word: str) -> list[str]:
    """Return what the descriptors of a process refer to, if this word is in it."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # the descriptor that lists the folder is closed by now
            found.append(str(path.readlink()))
    return [name for name in found if word in name]


def mapped(value: Any) -> tuple[int, str]:
    """Return the process id, and what the process maps of shared objects."""
    with open("/proc/self/maps") as maps:
        return os.getpid(), "".join(line for line in maps if "dragonfly-shared" in line or "/blobs/" in line)
