"""`EventLog`: the events of a pool in a file, one JSON object a line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic, time

from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

PAUSE = 5.0
"""Seconds without an attempt after a write has failed, for example because the disk is full."""


class EventLog:
    """A file to which the events of a pool are appended. Only the callback thread uses it.

    Several pools and processes may append to one file: each event is one write. If a write fails, the events of the
    next seconds are dropped, and the next line that can be written says how many.

    Args:
        path: the file. It is made, if there is none, with the first event.
        warn: gets the text of the first failure.
    """

    def __init__(self, path: str, warn: Callable[[str], object]) -> None:
        self._path = path
        self._warn = warn
        self._fd = -1
        self._lost = 0
        self._is_torn = False
        """True if the file may end in the middle of a line."""
        self._has_warned = False
        self._retry_at = 0.0

    def write(self, event: Mapping[str, Any]) -> None:
        """Append an event."""
        if self._lost and monotonic() < self._retry_at:
            self._lost += 1
            return
        lines = [json.dumps(event, default=str, separators=(",", ":"))]
        if self._lost:
            dropped = {"event": "events dropped", "time": time(), "name": event.get("name"), "count": self._lost}
            lines.insert(0, json.dumps(dropped))
        data = (("\n" if self._is_torn else "") + "\n".join(lines) + "\n").encode(errors="backslashreplace")
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._is_torn = True
            if os.write(self._fd, data) < len(data):
                raise OSError("the disk is full")
        except OSError as error:
            self._failed(error)
        else:
            self._lost, self._is_torn = 0, False

    def _failed(self, error: OSError) -> None:
        self.close()
        self._lost += 1
        self._retry_at = monotonic() + PAUSE
        if not self._has_warned:
            self._has_warned = True
            self._warn(f"the event log {self._path} cannot be written, so events are dropped: {error}")

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # the data of a file on a network may be refused only now
                os.close(fd)
