"""`AgentProcess`: an agent as a child process of a cluster engine's worker, which starts it, watches it and ends it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from dragonfly_executor.protocol.parent import MARKER, VARIABLE
from dragonfly_executor.runner import process_tree

TAIL = 4096
"""Bytes at the end of an agent's output that are kept for an error."""
LAST_OUTPUT = 1.0
"""Seconds that the output of an agent which has ended may take to arrive."""


class AgentProcess:
    """An agent that dials back, and ends with this process, even if this process is killed.

    What it writes goes to this process's stderr.

    Args:
        parent: the encoded description of the parent, with the token.
        python: the interpreter; None for this process's own.
        options: options for the interpreter.
        env: environment variables, in addition to this process's own.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, parent: str, *, python: str | None, options: Sequence[str], env: Mapping[str, str]) -> None:
        marker = os.urandom(8).hex()
        environment = {**os.environ, **env, VARIABLE: parent, MARKER: marker}
        # This process may be a call of another pool.
        environment.pop("DRAGONFLY_PARENT_PID", None)
        runner = ["-m", "dragonfly_executor.runner", "--end-with", str(os.getpid())]
        read, write = os.pipe()
        try:
            self._process = subprocess.Popen(
                [python or sys.executable, "-P", *options, *runner],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                # Signals to this process's group are the engine's business.
                start_new_session=True,
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self._marker = f"{MARKER}={marker}".encode()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._tail = b""
        self._reader = threading.Thread(target=self._read, args=(read,), name="dragonfly-agent-output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Return the agent's process id."""
        return self._process.pid

    def wait(self) -> tuple[int, str]:
        """Wait until the agent has ended. Return its exit code, negative for a signal, and its last output."""
        # The process stays a zombie until `end` cannot signal it any more, so that its process id is not reused.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            code = self._process.wait()
        # A process that outlives its runner may keep the output open.
        self._reader.join(LAST_OUTPUT)
        self._ended.set()
        return code, self._tail.decode(errors="replace").strip()

    def terminate(self) -> None:
        """Send SIGTERM: the agent takes no more calls, and gives the running ones some seconds to finish."""
        with self._lock:
            self._process.terminate()

    def end(self, grace: float, sessions: Collection[int] = ()) -> None:
        """Wait until the agent has ended by itself, or kill it. Then kill what outlived it. `wait` must run meanwhile.

        Args:
            grace: seconds that the agent has to end.
            sessions: process session ids of its slots.
        """
        if not self._ended.wait(grace):
            with self._lock:
                if self._process.returncode is None:
                    process_tree.kill_tree(self._process.pid)
            self._ended.wait()
        if self._process.returncode != 0:
            process_tree.kill_members([self._process.pid, *sessions], self._marker)

    def _read(self, output: int) -> None:
        while data := os.read(output, 65536):
            self._tail = (self._tail + data)[-TAIL:]
            with suppress(OSError):  # the engine may have closed it
                os.write(2, data)
        os.close(output)
