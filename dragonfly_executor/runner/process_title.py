"""What ``ps`` shows for the processes of a runner: pool, runner, role and call.

The kernel reads it from the memory in which the arguments of a process lie, so the title is written there (Linux;
elsewhere nothing changes). A slot is forked from its agent and has the same addresses, so the agent can write the title
of a busy slot. It does so for calls that run for some milliseconds: a cheap call costs no title.
"""

from __future__ import annotations

import ctypes
import os

from dragonfly_executor.protocol.parent import Parent

PR_SET_NAME = 15
ARG_START, ARG_END = 45, 46
"""Fields of /proc/PID/stat, counted from the one after the name."""


class _Piece(ctypes.Structure):
    """C's ``struct iovec``."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class Title:
    """Writes titles over the arguments of this process, and of those that it has forked."""

    def __init__(self) -> None:
        self._start, self._size = _arguments()
        parent = Parent.get()
        self._where = "" if parent is None else f"pool {parent.pool}, runner {parent.runner_id}"

    def set(self, role: str) -> None:
        """Show what this process is: its name, and its title."""
        if not self._size:
            return
        # The name that `top` shows has room for 15 characters.
        name = f"dragonfly-{role.partition(' ')[0]}"
        _library().prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
        ctypes.memmove(self._start, self._text(role), self._size)

    def set_in(self, pid: int, role: str) -> None:
        """Show what a forked process does. It shows nothing new if that is forbidden here."""
        if not self._size:
            return
        text = ctypes.create_string_buffer(self._text(role), self._size)
        here = _Piece(ctypes.addressof(text), self._size)
        there = _Piece(self._start, self._size)
        _library().process_vm_writev(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)

    def _text(self, role: str) -> bytes:
        """Return a title of exactly the size that there is, with a zero at its end."""
        text = f"dragonfly {role}: {self._where}" if self._where else f"dragonfly {role}"
        encoded = text.encode(errors="replace")[: self._size - 1]
        return encoded.ljust(self._size, b"\0")


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _arguments() -> tuple[int, int]:
    """Return where the arguments of this process lie, and their size; 0 if that is not known."""
    try:
        with open(f"/proc/{os.getpid()}/stat", "rb") as status:
            fields = status.read().rpartition(b")")[2].split()
        start, end = int(fields[ARG_START]), int(fields[ARG_END])
    except (OSError, ValueError, IndexError):
        return 0, 0
    return (start, end - start) if start else (0, 0)
