"""The parent's side of task slots, as the slots see it: what they say of themselves and of their calls."""

from __future__ import annotations

from dragonfly_executor.engine.objects.request import ServedObject
from dragonfly_executor.protocol.call_progress import MOST_TEXT, CallProgress
from dragonfly_executor.protocol.placed_messages import SlotSays
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.engine.objects.request import Request, Session
    from dragonfly_executor.engine.task_slots.task_slot import TaskSlot


class ServedSlots(ServedObject):
    """Hands what slots say to their `TaskSlot`. Values of the wrong type fail the request, which has no reply.

    Args:
        by_call: returns the task slot whose call of the pool has this number.
    """

    METHODS = frozenset(
        {
            SlotSays.OPEN, SlotSays.READY, SlotSays.BEGAN, SlotSays.LEAVING, SlotSays.DONE, SlotSays.AGAIN,
            SlotSays.CANCELLED, SlotSays.PROGRESS,
        }
    )  # fmt: skip

    def __init__(self, by_call: Callable[[int], TaskSlot | None]) -> None:
        self._by_call = by_call
        self._slots: dict[Session, TaskSlot] = {}

    def forget(self, slot: TaskSlot) -> None:
        """Hand nothing more to this slot."""
        self._slots = {session: each for session, each in self._slots.items() if each is not slot}

    def now(self, request: Request) -> None:
        """See `ServedObject`."""
        args = request.args
        if request.method == SlotSays.OPEN:
            token, call_id = map(int, args)
            opened = self._by_call(call_id)
            if opened is not None:
                self._slots[request.session] = opened
                opened.opened(request.session, token)
            return
        slot = self._slots.get(request.session)
        if slot is None:
            return
        if request.method == SlotSays.DONE:
            number, flags, microseconds, payload = args
            slot.ended(int(number), int(flags), microseconds * 1e-6, payload)
        elif request.method == SlotSays.BEGAN:
            slot.began(int(args[0]))
        elif request.method == SlotSays.CANCELLED:
            slot.cancelled(int(args[0]))
        elif request.method == SlotSays.AGAIN:
            slot.bytes_wanted(int(args[0]))
        elif request.method == SlotSays.PROGRESS:
            number, done, total, text = args
            report = CallProgress(float(done), None if total is None else float(total), str(text)[:MOST_TEXT], None)
            slot.progressed(int(number), report)
        elif request.method == SlotSays.READY:
            slot.ready()
