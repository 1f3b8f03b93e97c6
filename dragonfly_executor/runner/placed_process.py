"""`SupervisedProcess`: an operating system's process in a slot, as long as it runs."""

from __future__ import annotations

import os
from _thread import allocate_lock
from contextlib import suppress

from dragonfly_executor.protocol.placed_messages import SlotSays
from dragonfly_executor.serialization.process_result import ProcessResult
from dragonfly_executor.util import plain_signal as signal
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from subprocess import Popen
    from threading import Thread, Timer
    from typing import IO, Any

    class ProcessChannel(Protocol):
        """The messages between the process and its parent, as `MethodChannel` has them."""

        on_signal: Callable[[int], object] | None
        on_stop: Callable[[], object] | None

        def say(self, what: str, *args: Any) -> None: ...


READ_SIZE = 64 * 1024


class OutputTail:
    """The end of what a process writes to a pipe.

    Args:
        pipe: the pipe, which is read on a thread of its own.
        most: maximum number of bytes that are kept; None for all.
    """

    def __init__(self, pipe: IO[bytes], most: int | None) -> None:
        # Imported here, because a slot without a process does not need it.
        from threading import Thread

        self._pipe = pipe
        self._most = most
        self._data = bytearray()
        self._thread: Thread = Thread(target=self._read, name="dragonfly-process-output", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe as pipe:
            while piece := os.read(pipe.fileno(), READ_SIZE):
                self._data += piece
                if self._most is not None and len(self._data) > 2 * self._most + READ_SIZE:
                    del self._data[: -self._most or None]

    def end(self) -> bytes:
        """Return the end of the output, once all that holds the pipe has ended."""
        self._thread.join()
        data = bytes(self._data)
        return data if self._most is None else data[max(0, len(data) - self._most) :]


class SupervisedProcess:
    """One process. It leads a process group of its own, which is killed when the process has ended.

    Args:
        channel: the messages to and from its parent.
        argv: the command.
        settings: see `PoolCalls.place_process`.
    """

    def __init__(self, channel: ProcessChannel, argv: list[str], settings: Mapping[str, Any]) -> None:
        self._channel = channel
        self._argv = argv
        self._settings = settings
        self._process: Popen[bytes]
        self._lock = allocate_lock()
        self._is_over = False
        self._timer: Timer | None = None

    def run(self) -> ProcessResult:
        """Run the process to its end."""
        # Imported here, because a slot without a process does not need it.
        from subprocess import DEVNULL, PIPE, Popen

        settings = self._settings
        captures, given = settings["output"] == "capture", settings["input"]
        env = None if settings["env"] is None else {**os.environ, **settings["env"]}
        process = self._process = Popen(
            self._argv,
            cwd=settings["cwd"],
            env=env,
            stdin=DEVNULL if given is None else PIPE,
            stdout=PIPE if captures else None,
            stderr=PIPE if captures else None,
            process_group=0,
        )
        try:
            tails = [OutputTail(pipe, settings["max_output"]) for pipe in (process.stdout, process.stderr) if pipe]
            self._channel.on_signal, self._channel.on_stop = self._send, self._stop
            self._channel.say(SlotSays.READY, process.pid)
            if process.stdin is not None and given is not None:
                self._write(process.stdin, given)
            # Not `wait`: until the process is reaped, no other one gets its number, which is that of the group.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        finally:
            self._channel.on_signal = self._channel.on_stop = None
            self._kill_group(is_over=True)
            process.wait()
        self._channel.say(SlotSays.EXITED, process.returncode)
        stdout, stderr = [tail.end() for tail in tails] or (b"", b"")
        return ProcessResult(self._argv, process.returncode, stdout, stderr)

    def _write(self, stdin: IO[bytes], given: bytes) -> None:
        with suppress(BrokenPipeError), stdin:  # it need not read its input
            stdin.write(given)

    # -- the reading thread --------------------------------------------------------------------------------------------

    def _send(self, number: int) -> None:
        with self._lock:
            if not self._is_over:
                # Not `Popen.send_signal`: that reaps the process if it has ended, and `run` waits for it.
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(self._process.pid, number)

    def _stop(self) -> None:
        """Ask the process to end, and kill it if it does not."""
        from threading import Timer

        self._send(int(signal.SIGTERM))
        with self._lock:
            if not self._is_over and self._timer is None:
                self._timer = Timer(self._settings["stop_timeout"], self._kill_group)
                self._timer.daemon = True
                self._timer.start()

    def _kill_group(self, *, is_over: bool = False) -> None:
        """Kill the process and its group. With `is_over` for the last time."""
        with self._lock:
            if not self._is_over:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, int(signal.SIGKILL))
            if is_over:
                self._is_over = True
                if self._timer is not None:
                    self._timer.cancel()
