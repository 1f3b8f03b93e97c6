"""The parent's side of a worker as its slot sees it: what the slot says of the worker and its methods."""

from __future__ import annotations

from dragonfly_executor.engine.objects.request import ServedObject
from dragonfly_executor.protocol.placed_messages import SlotSays
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.engine.objects.request import Request, Session


class SlotReports(Protocol):
    """Handles the reports of the slot, on the engine thread."""

    def is_current(self, session: Session) -> bool:
        """Return whether this slot has the worker now, and not one before it."""
        ...

    def opened(self, session: Session, token: int, call_id: int) -> None:
        """Note that the slot has begun with this call, and expects messages as answers to `token`."""

    def made(self, pid: int | None) -> None:
        """Note that the worker's object is made, or that its process is started, with its id."""

    def exited(self, status: int) -> None:
        """Note that the process has ended."""

    def method_ended(self, number: int, flags: int, seconds: float, payload: Any, stay: tuple[int, ...]) -> None:
        """Handle the end of a method. `stay`: the numbers of the objects of its result that stay in the slot."""


class MethodReports(Protocol):
    """Handles the reports of methods that have not ended, on the engine thread."""

    def began(self, number: int) -> None:
        """Note that a method begins whose call has a `run_timeout`."""

    def leaving(self, number: int) -> None:
        """Note that a method has ended, and that its result follows."""

    def bytes_wanted(self, number: int) -> None:
        """Send the bytes of a call: the slot cannot have its shared memory."""


class ServedWorker(ServedObject):
    """Hands what the slot says to the worker. Values of the wrong type fail the request, which has no reply.

    Args:
        worker: the worker.
        methods: its methods.
    """

    METHODS = frozenset(
        {
            SlotSays.OPEN, SlotSays.READY, SlotSays.EXITED, SlotSays.BEGAN, SlotSays.LEAVING, SlotSays.DONE,
            SlotSays.AGAIN,
        }
    )  # fmt: skip

    def __init__(self, worker: SlotReports, methods: MethodReports) -> None:
        self._worker = worker
        self._methods = methods

    def now(self, request: Request) -> None:
        """See `ServedObject`."""
        worker, args = self._worker, request.args
        if request.method == SlotSays.OPEN:
            worker.opened(request.session, *map(int, args))
        elif not worker.is_current(request.session):
            return
        elif request.method == SlotSays.DONE:
            number, flags, microseconds, payload, *stay = args
            worker.method_ended(int(number), int(flags), microseconds * 1e-6, payload, tuple(map(int, stay)))
        elif request.method == SlotSays.BEGAN:
            self._methods.began(int(args[0]))
        elif request.method == SlotSays.LEAVING:
            self._methods.leaving(int(args[0]))
        elif request.method == SlotSays.AGAIN:
            self._methods.bytes_wanted(int(args[0]))
        elif request.method == SlotSays.READY:
            worker.made(int(args[0]) if args else None)
        elif request.method == SlotSays.EXITED:
            worker.exited(int(args[0]))
