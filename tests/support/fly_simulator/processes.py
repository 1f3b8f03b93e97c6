"""A machine's process: started with what a machine has, watched, and ended with all that came out of it."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

COMMAND_NOT_FOUND = 127
COMMAND_NOT_EXECUTABLE = 126
PATIENCE = 5.0
KERNEL_THREAD = 0x00200000


class MachineProcess:
    """The process of one start of a machine, and whatever descends from it.

    Args:
        marker: an entry of the environment by which every process of the machine is known, whatever session it is in.
        ended: called on the loop with exit code and signal (-1 if none) when the first process has ended. By then the
            others have been ended as well, as a machine ends with its first process.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        command: Sequence[str],
        environment: dict[str, str],
        workdir: str,
        log: Path,
        marker: str,
        ended: Callable[[int, int], None],
    ) -> None:
        self._loop = loop
        self._marker = marker.encode()
        self._ended = ended
        self._pidfd = -1
        self.pid: int | None = None
        with log.open("ab") as output:
            try:
                self._process = subprocess.Popen(
                    # execvpe looks along the PATH that it is given, not this process's.
                    [_found(command[0], environment), *command[1:]],
                    env=environment,
                    cwd=workdir,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            except OSError as error:
                output.write(f"{command[0]}: {error.strerror}\n".encode())
                code = COMMAND_NOT_FOUND if isinstance(error, FileNotFoundError) else COMMAND_NOT_EXECUTABLE
                loop.call_soon(ended, code, -1)
                return
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._reap)

    def signal(self, number: int) -> None:
        """Send its first process a signal."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """End everything in it. `ended` is called soon."""
        if self.pid is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._kill_others()

    def _reap(self) -> None:
        status = self._process.wait()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.pid = None
        self._kill_others()
        code, number = (status, -1) if status >= 0 else (128 - status, -status)
        self._ended(code, number)

    def _kill_others(self) -> None:
        # Again and again: what is killed may have just forked.
        while pids := [pid for pid in marked(self._marker) if pid != self.pid]:
            for pid in pids:
                _end(pid)


def marked(marker: bytes) -> list[int]:
    """Living processes in whose environment this entry is."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            with suppress(OSError):
                if marker in environment_of(int(name)).split(b"\0"):
                    found.append(int(name))
    return found


def environment_of(pid: int) -> bytes:
    """A process's environment. In the middle of its exec it seems to have none: then this waits for the rest of it."""
    deadline = time.monotonic() + PATIENCE
    while not (found := _read_environment(pid)):
        if not _is_in_exec(pid) or time.monotonic() > deadline:
            # It may have come through since.
            return _read_environment(pid)
        time.sleep(0.001)
    return found


def _read_environment(pid: int) -> bytes:
    with open(f"/proc/{pid}/environ", "rb") as environ:
        return environ.read()


def _is_in_exec(pid: int) -> bool:
    """Whether it has its new memory already, and the kernel has not yet laid out its environment there."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
    state, flags, start_of_code = fields[0], int(fields[6]), int(fields[23])
    return start_of_code == 0 and state not in {b"Z", b"X"} and not flags & KERNEL_THREAD


def _end(pid: int) -> None:
    """Kill a process and wait until it has ended."""
    with suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(PATIENCE * 1000)
        finally:
            os.close(fd)


def _found(name: str, environment: dict[str, str]) -> str:
    """Where a command is, for who has this environment."""
    if "/" in name:
        return name
    for folder in environment["PATH"].split(":"):
        path = f"{folder}/{name}"
        if os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(2, "No such file or directory", name)
