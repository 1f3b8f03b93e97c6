"""The frames of a parent to the slot that has a placed worker."""

from __future__ import annotations

from collections.abc import Sequence

from dragonfly_executor.engine.large_payloads import SharedPayload
from dragonfly_executor.protocol.frames import CHUNK_SIZE, HEADER, Flag, Kind, encode
from dragonfly_executor.protocol.placed_messages import METHOD, NUMBER, MethodFlag, ParentSays
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.calls import Payload
    from dragonfly_executor.engine.objects.request import Session
    from dragonfly_executor.transport.sockets import Buffer


class WorkerLink:
    """The way to the slot that has a worker. It belongs to the engine thread.

    Args:
        session: the slot.
        token: the number of the slot's request that all messages answer.
    """

    def __init__(self, session: Session, token: int) -> None:
        self.session = session
        self._token = token
        self._runner: Any = session.runner

    def tell(self, kind: int, payload: bytes = b"") -> None:
        """Send a short message."""
        self._runner.say(encode(Kind.OBJECT_REPLY, self._token, payload, attempt=kind, detail=self.session.pid))

    def cancel(self, number: int) -> None:
        """Have a method call dropped, unless it has begun."""
        self.tell(ParentSays.CANCEL, NUMBER.pack(number))

    def send(self, number: int, payload: Payload, *, reports: bool) -> None:
        """Send a method call.

        Args:
            number: its number.
            payload: the encoded call.
            reports: whether the slot reports its begin.
        """
        flags = MethodFlag.REPORTS if reports else 0
        if isinstance(payload, bytes):
            self.tell(ParentSays.METHOD, METHOD.pack(number, flags) + payload)
        elif isinstance(payload, SharedPayload) and self._runner.node.memory is not None:
            payload.unanswered += 1
            self.tell(ParentSays.METHOD, METHOD.pack(number, flags | MethodFlag.SHARED) + payload.location())
        else:
            self.send_bytes(number, payload, flags)

    def send_bytes(self, number: int, parts: Sequence[Buffer], flags: int = 0) -> None:
        """Send a long method call in pieces, behind all short frames."""
        views = [memoryview(METHOD.pack(number, flags)), *(memoryview(part).cast("B") for part in parts if len(part))]
        for place, view in enumerate(views):
            for start in range(0, len(view), CHUNK_SIZE):
                piece = view[start : start + CHUNK_SIZE]
                is_last = place == len(views) - 1 and start + CHUNK_SIZE >= len(view)
                head = (Kind.OBJECT_REPLY, Flag.LARGE | (0 if is_last else Flag.MORE), ParentSays.METHOD)
                self._runner.say_bulk(HEADER.pack(*head, self.session.pid, self._token, len(piece)), piece)

    def answered(self, payload: Payload) -> None:
        """Note that the slot does not read the shared memory of a call any more."""
        if isinstance(payload, SharedPayload) and payload.unanswered:
            payload.unanswered -= 1
