"""The rate at which a stream carries large payloads, measured while it carries them."""

from __future__ import annotations

LEAST_TIME = 0.02
"""Seconds of full load after which the rate is known: a socket takes bytes in bursts."""
MEMORY = 1.0
"""Seconds of full load after which an earlier measurement counts half."""


class BulkRate:
    """A measurement of bytes per second under full load.

    Bytes that a socket's empty buffer takes at once say nothing about the link. So only time in which the writer waits
    for the stream counts, with the bytes that leave in it.
    """

    __slots__ = ("_bytes", "_seconds", "is_high")

    def __init__(self) -> None:
        self.is_high = False
        """True if the rate is unknown, because much has left without compression, and the writer hardly waited."""
        self._bytes = 0.0
        self._seconds = 0.0

    def add(self, size: int, seconds: float) -> None:
        """Count `size` bytes that took `seconds` under full load."""
        if self._seconds > MEMORY:
            self._bytes /= 2
            self._seconds /= 2
        self._bytes += size
        self._seconds += seconds

    def per_second(self) -> float | None:
        """Return the bytes per second; None if too little was measured."""
        return self._bytes / self._seconds if self._seconds >= LEAST_TIME else None
