"""`CallProgress`: a report of a call about its progress, and its form in a PROGRESS frame."""

from __future__ import annotations

from collections import namedtuple
from math import isfinite
from struct import Struct

from dragonfly_executor.errors.base import ProtocolError
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    Buffer = bytes | bytearray | memoryview

_NUMBERS = Struct("!dd")
"""The amount that is done, and the total, which is not a number if it is unknown. The text follows."""
MOST_TEXT = 1000
"""Maximum number of characters of a text."""
UNKNOWN = float("nan")


class CallProgress(namedtuple("CallProgress", "done total text item", defaults=(None,))):  # noqa: PYI024  # see `Frame`
    """The progress of a call, as it has reported last.

    Attributes:
        done: how much is done, in any unit.
        total: how much there is to do, in the same unit; None if that is unknown.
        text: what the call does, in words.
        item: the number of the call's item, from 0, if the call is one of a map; otherwise None.
    """

    __slots__ = ()
    done: float
    total: float | None
    text: str
    item: int | None

    @property
    def fraction(self) -> float | None:
        """Return `done` as a fraction of `total`, from 0 to 1; None if that is unknown."""
        return min(max(self.done / self.total, 0.0), 1.0) if self.total else None


def pack_progress(done: float, total: float | None, text: str) -> bytes:
    """Return the payload of a PROGRESS frame."""
    return _NUMBERS.pack(done, UNKNOWN if total is None else total) + text[:MOST_TEXT].encode(errors="replace")


def read_progress(payload: Buffer, item: int | None = None) -> CallProgress:
    """Read the payload of a PROGRESS frame.

    Raises:
        ProtocolError: it cannot be read.
    """
    if not _NUMBERS.size <= len(payload) <= _NUMBERS.size + 4 * MOST_TEXT:
        raise ProtocolError(f"a report of progress of {len(payload)} bytes")
    done, total = _NUMBERS.unpack_from(payload)
    text = bytes(payload[_NUMBERS.size :]).decode(errors="replace")
    return CallProgress(done if isfinite(done) else 0.0, total if isfinite(total) else None, text, item)
