"""A pump: two threads that move bytes between a blocking stream and a socket."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from dragonfly_executor.transport.sockets import SHUT_RDWR, SHUT_WR, Socket

PUMP_SIZE = 256 * 1024
"""Bytes that are moved at a time, and that the kernel may buffer.

With smaller steps a large payload costs more thread switches.
"""


class ByteStream(Protocol):
    """See `dragonfly_executor.backends.base.ByteStream`."""

    def recv(self, size: int, /) -> bytes:
        """Return at least one byte; no bytes at the end."""
        ...

    def sendall(self, data: bytes, /) -> None:
        """Write all of `data`."""

    def close(self) -> None:
        """Close the stream."""


class Pump:
    """Two threads, one for each direction. They end when either side ends, and close both.

    Args:
        stream: the blocking stream.
        sock: the socket.

    Raises:
        RuntimeError: a thread cannot be started. Both `stream` and the socket are closed.
    """

    def __init__(self, stream: ByteStream, sock: Socket) -> None:
        self._stream = stream
        self._sock = sock
        self._threads = [
            threading.Thread(target=pump, name=f"dragonfly-pump-{name}", daemon=True)
            for name, pump in (("in", self._pump_in), ("out", self._pump_out))
        ]
        try:
            # Start the writing thread first: it ends with the socket, whatever the stream does.
            for thread in reversed(self._threads):
                thread.start()
        except BaseException:
            # A thread could not be started. The running thread, if any, closes socket and stream.
            self._shut_down(SHUT_RDWR)
            if self._threads[1].ident is None:
                stream.close()
                sock.close()
            raise

    def fileno(self) -> int:
        """Return the socket's descriptor, which a forked child must not keep; -1 once it is closed."""
        return self._sock.fileno()

    def join(self, timeout: float) -> list[str]:
        """Wait for the threads for at most `timeout` seconds, and return the names of those that still run."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]

    def _pump_in(self) -> None:
        """Copy from the stream to the socket, until either ends."""
        try:
            while data := self._stream.recv(PUMP_SIZE):
                self._sock.sendall(data)
        except (OSError, EOFError):
            return  # the shutdown below reports this to the link
        finally:
            self._shut_down(SHUT_WR)

    def _pump_out(self) -> None:
        """Copy from the socket to the stream, until either ends."""
        try:
            while data := self._sock.recv(PUMP_SIZE):
                self._stream.sendall(data)
        except (OSError, EOFError):
            return  # the other pump sees the stream's end
        finally:
            try:
                self._stream.close()
            finally:
                # Shut down even if closing the stream raises: otherwise the link waits for ever, and descriptors leak.
                self._shut_down(SHUT_RDWR)
                # The reading thread may be about to write: it must not find a different file under the same number.
                if self._threads[0].is_alive():
                    self._threads[0].join()
                self._sock.close()

    def _shut_down(self, how: int) -> None:
        try:
            self._sock.shutdown(how)
        except OSError:
            return  # it is closed already
