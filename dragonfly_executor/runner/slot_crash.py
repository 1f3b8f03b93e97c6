"""Describes the death of a slot: how it died, where in the user's code, and whether memory ran out."""

from __future__ import annotations

import os
import signal

from dragonfly_executor.core.slot_records import SlotCall
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.runner.oom_kills import MemoryWatch
from dragonfly_executor.runner.slot_handle import Slot


def describe(call: SlotCall, slot: Slot, status: int, memory: MemoryWatch | None, stopped_after: float | None) -> bytes:
    """Return the payload of a LOST frame."""
    code = os.waitstatus_to_exitcode(status)
    number = -code if code < 0 else 0
    out_of_memory = number == signal.SIGKILL and memory is not None and memory.has_killed()
    said = {
        "code": None if number else code,
        "signal": number or None,
        "pid": slot.pid,
        # A large call does not start before its whole payload has arrived.
        "started": slot.record.is_ready and call.missing <= 0 and slot.progress.may_have_begun(call.cell),
        "output": slot.output.last_output(),
        "stack": slot.stack.read(number),
        "out_of_memory": out_of_memory,
        "stopped_after": stopped_after,
        "memory_limit": memory.limit() if out_of_memory and memory is not None else None,
    }
    return json.dumps(said).encode()


def told(slot: Slot, status: int) -> str:
    """Return a text on how a slot without a call ended: with its Python stack, if a fault ended it."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"the last exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    stack = slot.stack.read(-code).rstrip()
    return f"the last was killed by {name}" + (f"\n{stack}" if stack else "")
