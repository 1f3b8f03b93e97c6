"""Describes the death of a slot: how it died, where in the user's code, and whether memory ran out."""

from __future__ import annotations

import os

from dragonfly_executor.core.slot_records import SlotCall
from dragonfly_executor.protocol.frames import CALL_OPTIONS, HEADER, HEADER_SIZE, Flag
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.runner.oom_kills import MemoryWatch
from dragonfly_executor.runner.slot_handle import Slot
from dragonfly_executor.util import plain_signal as signal
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.runner.memory_cgroups import MemoryCgroups


def describe(
    call: SlotCall,
    slot: Slot,
    status: int,
    memory: MemoryWatch | None,
    groups: MemoryCgroups | None,
    stopped_after: float | None,
) -> bytes:
    """Return the payload of a LOST frame.

    Args:
        call: the call that the slot had begun.
        slot: the slot.
        status: its wait status.
        memory: counts kills by the OOM killer in the runner's cgroup.
        groups: the cgroups that limit the memory of calls; None if there are none.
        stopped_after: seconds that calls had to finish after an external stop of the runner; None if there was none.
    """
    code = os.waitstatus_to_exitcode(status)
    number = -code if code < 0 else 0
    required = None
    if number == signal.SIGKILL and groups is not None and groups.has_killed(slot.pid):
        required = required_memory(call)
        if memory is not None:
            memory.skip()
    out_of_memory = required is not None or (number == signal.SIGKILL and memory is not None and memory.has_killed())
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
        "required_memory": required,
        "memory_limit": memory.limit() if out_of_memory and memory is not None else None,
    }
    return json.dumps(said).encode()


def required_memory(call: SlotCall) -> int:
    """Return the bytes of memory that a call requires, 0 for none, from its packet."""
    if not HEADER.unpack_from(call.packet)[1] & Flag.OPTIONS:
        return 0
    required: int = CALL_OPTIONS.unpack_from(call.packet, HEADER_SIZE)[3]
    return required


def told(slot: Slot, status: int) -> str:
    """Return a text on how a slot without a call ended: with its Python stack, if a fault ended it."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"the last exited with status {code}"
    name = signal.name_of(-code) or f"signal {-code}"
    stack = slot.stack.read(-code).rstrip()
    return f"the last was killed by {name}" + (f"\n{stack}" if stack else "")
