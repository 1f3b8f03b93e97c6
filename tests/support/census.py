"""Finds what a test leaves behind: threads, descriptors, processes and temporary files.

Two snapshots, one before a test and one after it, take well under 2 ms together. If the second one has more, the census
collects garbage, joins threads and waits for processes through their pidfd, all within one timeout. It then describes
what is still left, each thread with its stack.

A process counts as ours if it descends from this process, or if its environment has the mark of this census. The mark
identifies orphans: their parent has died, so nothing else links them to this process.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import threading
import time
import traceback
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

MARK = "DRAGONFLY_TEST_CENSUS"
PATIENCE = 5.0
_PROC = os.path.exists("/proc/self/stat")  # noqa: PTH110
_DESCRIPTORS = "/proc/self/fd" if _PROC else "/dev/fd"


class Process(NamedTuple):
    """A process id with its start time, which distinguishes it from a later process with the same id."""

    pid: int
    started: float


KERNEL_THREADS = "2"
"""The process id of the thread that starts all threads of the kernel, and so is their parent."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of what exists."""

    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, int, int]]  # number, device, inode
    processes: frozenset[Process]
    files: frozenset[str]

    def __sub__(self, before: Snapshot) -> Snapshot:
        return Snapshot(
            self.threads - before.threads,
            self.descriptors - before.descriptors,
            self.processes - before.processes,
            self.files - before.files,
        )

    def __bool__(self) -> bool:
        return bool(self.threads or self.descriptors or self.processes or self.files)


class Census:
    """A counter of what belongs to this process. Temporary files are the files in `folder`."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = str(folder)
        self._mark = uuid.uuid4().hex
        self._marked = f"{MARK}={self._mark}".encode()
        # With the inode: the system gives the number of a process that has ended to another one.
        self._foreign: set[tuple[str, int]] = set()

    def mark(self) -> None:
        """Put the mark into the environment, which all processes started from now on inherit."""
        os.environ[MARK] = self._mark

    def look(self) -> Snapshot:
        """Take a snapshot. Zombies count as processes until they are reaped."""
        return Snapshot(
            frozenset(threading.enumerate()),
            frozenset(_descriptors()),
            frozenset(self.processes()),
            frozenset(os.listdir(self.folder)),  # noqa: PTH208
        )

    def processes(self) -> set[Process]:
        """Return all processes that descend from this one or have the mark, without this process."""
        if not _PROC:
            return {Process(child.pid, child.create_time()) for child in psutil.Process().children(recursive=True)}
        own = str(os.getpid())
        with os.scandir("/proc") as entries:
            listed = {(entry.name, entry.inode()) for entry in entries if entry.name.isdigit()}
        # A foreign process stays foreign, so check only processes that are new since the last snapshot.
        self._foreign &= listed
        new = dict(listed - self._foreign)
        unknown = {pid: stat for pid in new if pid != own and (stat := _stat(pid))}
        environments = {pid: _environment(pid) for pid in unknown}
        ours = {pid for pid, environment in environments.items() if self._marked in environment}
        family = ours | {own}
        while more := {pid for pid, (parent, _) in unknown.items() if parent in family and pid not in ours}:
            ours |= more
            family |= more
        # A program that is just being started has no environment for a moment, so look again at those that have none.
        # Threads of the kernel never have one.
        self._foreign |= {
            (pid, new[pid])
            for pid in unknown.keys() - ours
            if environments[pid] or KERNEL_THREADS in {pid, unknown[pid][0]}
        }
        return {Process(int(pid), unknown[pid][1]) for pid in ours}

    def left_since(self, before: Snapshot, patience: float = PATIENCE) -> Snapshot:
        """Return what exists beyond `before`. What is about to end has `patience` seconds to end."""
        left = self.look() - before
        deadline = time.monotonic() + patience
        while left:
            gc.collect()
            left = self.look() - before
            remaining = deadline - time.monotonic()
            if not left or remaining <= 0:
                break
            _wait_for_one(left, remaining)
            left = self.look() - before
        return left

    def end(self, left: Snapshot) -> None:
        """Kill the processes that are left, so that the next test does not find them."""
        for process in left.processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(process.pid, 0)

    def describe(self, left: Snapshot) -> str:
        """Return a description with one paragraph for each thing that is left."""
        lines = [_describe_thread(thread) for thread in sorted(left.threads, key=lambda thread: thread.name)]
        for number, *_ in sorted(left.descriptors):
            lines.append(f"descriptor {number}: {_target(number)}")
        lines += [_describe_process(process) for process in sorted(left.processes)]
        lines += [f"temporary file {Path(self.folder, name)}" for name in sorted(left.files)]
        return "\n".join(lines)


def _environment(pid: str) -> bytes:
    """Return the environment of a process; empty if it has none, or may not be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            return environ.read()
    except OSError:
        return b""


def _descriptors() -> list[tuple[int, int, int]]:
    found = []
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208
        # The list contains the descriptor that listed the folder, which is closed by now.
        with suppress(OSError):
            status = os.fstat(int(name))
            found.append((int(name), status.st_dev, status.st_ino))
    return found


def _stat(pid: str) -> tuple[str, float] | None:
    """Return parent and start time (clock ticks since boot) of a process; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The name in parentheses may hold anything, so fields are counted from its end.
            fields = stat.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[1].decode(), float(fields[19])


def _wait_for_one(left: Snapshot, seconds: float) -> None:
    """Wait for one thread or process to end. Nothing can wait for descriptors and files."""
    for thread in left.threads:
        return thread.join(seconds)
    for process in left.processes:
        if _has_ended(process, seconds):
            break
    else:
        return None
    # A zombie has ended already, and a thread may be about to reap it, so wait only for a moment.
    select.select([], [], [], min(0.01, seconds))
    return None


def _has_ended(process: Process, seconds: float) -> bool:
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def _describe_thread(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    stack = "".join(traceback.format_stack(frame)) if frame else "  (no stack)\n"
    return f"thread {thread.name}{' (daemon)' if thread.daemon else ''}\n{stack}"


def _describe_process(process: Process) -> str:
    try:
        described = psutil.Process(process.pid)
        with described.oneshot():
            command = " ".join(described.cmdline()) or described.name()
            return f"process {process.pid} ({described.status()}, parent {described.ppid()}): {command}"
    except psutil.Error:
        return f"process {process.pid} (gone meanwhile)"


def _target(number: int) -> str:
    try:
        return str(Path(f"{_DESCRIPTORS}/{number}").readlink())
    except OSError:
        return "closed meanwhile"
