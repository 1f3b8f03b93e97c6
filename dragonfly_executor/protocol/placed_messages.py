"""The messages between a placed worker and its parent.

They travel in the frames for multiprocessing's objects: the parent serves the worker as such an object. A message of
the slot is the call of a method (`SlotSays`). A message of the parent is an OBJECT_REPLY to the worker's first request,
whose `attempt` is one of `ParentSays`.
"""

from __future__ import annotations

import struct

METHOD = struct.Struct("!QB")
"""Head of a method call: its number, counted from 1 for each slot that has the worker, and `MethodFlag`s."""
NUMBER = struct.Struct("!Q")
"""The payload of a CANCEL: the number of the method call; and that of a SIGNAL: the number of the signal."""


class ParentSays:
    """The messages of the parent. They are plain ints, because the slot compares them at each message."""

    METHOD = 1
    """Run a method call: `METHOD` and the encoded call, or its place in shared memory."""
    CANCEL = 2
    """Drop this method call, unless it has begun."""
    STOP = 3
    """End. No method call is left. A process gets SIGTERM."""
    SIGNAL = 4
    """Send this signal to the process that was placed."""
    END_TASK = 5
    """Drop this call; if it has begun, cancel its task."""


class MethodFlag:
    """Bits of a method call."""

    SHARED = 1
    """The encoded call is in shared memory, and a place follows, as in a CALL frame with `Flag.SHARED`."""
    REPORTS = 2
    """The slot reports the begin of the method."""


class SlotSays:
    """The methods that a slot calls on the parent's side of its worker."""

    OPEN = "open"
    """The worker is here: `(number of the request that the parent's messages answer, number of the worker's call)`."""
    READY = "ready"
    """The object is made: `()`. The process is started: `(its process id,)`."""
    EXITED = "exited"
    """The process has ended: `(exit status,)`, negative for a signal."""
    BEGAN = "began"
    """A method begins: `(number,)`."""
    LEAVING = "leaving"
    """A method has ended, and its long result is on its way, behind other frames: `(number,)`."""
    DONE = "done"
    """A method has ended: `(number, EndFlags, microseconds, payload)`, and the numbers of the objects that stay."""
    CANCELLED = "cancelled"
    """The loop has cancelled the task of a call, which has yet to end: `(number,)`."""
    PROGRESS = "progress"
    """A call reports how far it is: `(number, done, total or None, text)`."""
    AGAIN = "again"
    """The slot cannot open the shared memory of this method call, and wants the bytes: `(number,)`."""


class EndFlag:
    """Bits of the end of a method call."""

    ERROR = 1
    """The payload is an exception."""
    RETRYABLE = 2
    """The caller wants the exception retried."""
    SHARED = 4
    """The payload is in shared memory: `(segment, block, size)` in its place."""
    DROPPED = 8
    """The call had not begun, and was dropped."""
