"""What goes wrong between here and Fly."""

from __future__ import annotations

from dragonfly_executor.backends.fly.responses import Reply, Verdict
from dragonfly_executor.errors import DragonflyError


class FlyAPIError(DragonflyError):
    """The Machines API said no, or nothing that could be understood.

    Attributes:
        status: of HTTP; 0 where there was no answer.
        verdict: what the answer was taken for.
        request_id: Fly's name for the request, which its support asks for; "" where there is none.
        final: whether the answer will be the same until a person has changed something.
    """

    final: bool = False

    def __init__(self, message: str, status: int = 0, verdict: Verdict = Verdict.FATAL, request_id: str = "") -> None:
        super().__init__(message, status, verdict, request_id)
        self.status = status
        self.verdict = verdict
        self.request_id = request_id

    def __str__(self) -> str:
        return str(self.args[0])


class Again(FlyAPIError):
    """It may do better when it is tried again.

    Attributes:
        after: seconds that the answer asked to wait for, or None.
    """

    after: float | None = None


class OutOfTimeError(FlyAPIError):
    """It would have been this request's turn too late, so it was not made."""


def describe(reply: Reply, doing: str) -> str:
    """What was answered to what, in words."""
    status = f"HTTP {reply.status}: " if reply.status else ""
    named = f" (fly-request-id {reply.request_id})" if reply.request_id else ""
    return f"{doing}: {status}{reply.text()}{named}"
