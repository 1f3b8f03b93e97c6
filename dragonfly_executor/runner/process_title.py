"""Sets the title that ``ps`` shows for each process of a runner: pool, runner, role and call.

The kernel reads the title from the memory that holds a process's arguments, so this module writes it there. On systems
other than Linux it does nothing. A slot is forked from its agent and has the same addresses, so the agent can write the
title of a busy slot. It does so only for calls that run for a tenth of a second, so short calls do not pay for titles.
"""

from __future__ import annotations

import ctypes
import os

from dragonfly_executor.protocol.parent import Parent

PR_SET_NAME = 15
ARG_START, ARG_END = 45, 46
"""Fields of /proc/PID/stat with the range of the arguments, counted from the field after the name."""


class _Piece(ctypes.Structure):
    """C's ``struct iovec``."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class ProcessTitle:
    """The titles of this process and of processes that it has forked, written over their arguments."""

    def __init__(self) -> None:
        self._start, self._size = _arguments()
        # Made once: opening the library makes a class, which takes longer than all the rest of setting a title.
        self._library = ctypes.CDLL(None)
        self._buffer = ctypes.create_string_buffer(max(self._size, 1))
        self._here = _Piece(ctypes.addressof(self._buffer), self._size)
        self._there = _Piece(self._start, self._size)
        parent = Parent.get()
        self._where = "" if parent is None else f"pool {parent.pool}, runner {parent.runner_id}"

    def set(self, role: str) -> None:
        """Set the name and the title of this process."""
        self.write(*self.prepare(role))

    def prepare(self, role: str) -> tuple[bytes, bytes]:
        """Return the name and the title for this role."""
        # `top` shows 15 characters of the name.
        return f"dragonfly-{role.partition(' ')[0]}".encode()[:15], self._text(role)

    def write(self, name: bytes, title: bytes) -> None:
        """Set the name and the title of this process, as `prepare` returned them."""
        if self._size:
            self._library.prctl(PR_SET_NAME, name, 0, 0, 0)
            ctypes.memmove(self._start, title, self._size)

    def set_in(self, pid: int, role: str) -> None:
        """Set the title of a forked process. If the system forbids that, the title does not change."""
        if not self._size:
            return
        self._buffer.raw = self._text(role)
        here, there = ctypes.byref(self._here), ctypes.byref(self._there)
        self._library.process_vm_writev(pid, here, 1, there, 1, 0)

    def _text(self, role: str) -> bytes:
        """Return a title of exactly the available size, with a zero byte at its end."""
        text = f"dragonfly {role}: {self._where}" if self._where else f"dragonfly {role}"
        encoded = text.encode(errors="replace")[: self._size - 1]
        return encoded.ljust(self._size, b"\0")


def _arguments() -> tuple[int, int]:
    """Return the address and the size of this process's arguments; zeros if they are unknown."""
    try:
        with open(f"/proc/{os.getpid()}/stat", "rb") as status:
            fields = status.read().rpartition(b")")[2].split()
        start, end = int(fields[ARG_START]), int(fields[ARG_END])
    except (OSError, ValueError, IndexError):
        return 0, 0
    return (start, end - start) if start else (0, 0)
