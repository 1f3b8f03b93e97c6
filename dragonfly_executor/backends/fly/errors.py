"""Errors of the Machines API and of the connection to it."""

from __future__ import annotations

from dragonfly_executor.backends.fly.responses import APIResponse, ResponseKind
from dragonfly_executor.errors import DragonflyError


class FlyAPIError(DragonflyError):
    """A failed request to the Machines API: it was refused, or its response is unusable.

    Attributes:
        status: the HTTP status; 0 if there was no response.
        verdict: the class of the response.
        request_id: Fly's id of the request, for Fly's support; "" if there is none.
        final: whether every retry fails until a person changes something.
    """

    final: bool = False

    def __init__(
        self, message: str, status: int = 0, verdict: ResponseKind = ResponseKind.FATAL, request_id: str = ""
    ) -> None:
        super().__init__(message, status, verdict, request_id)
        self.status = status
        self.verdict = verdict
        self.request_id = request_id

    def __str__(self) -> str:
        return str(self.args[0])


class RetryableAPIError(FlyAPIError):
    """A failed request for which a retry may succeed.

    Attributes:
        after: seconds to wait before the retry, as the response demands; None if it does not.
    """

    after: float | None = None


class OutOfTimeError(FlyAPIError):
    """A request that was not sent: its turn comes too late, or its response is not wanted any more."""


def describe(reply: APIResponse, doing: str) -> str:
    """Return a failed request and its response as text."""
    status = f"HTTP {reply.status}: " if reply.status else ""
    named = f" (fly-request-id {reply.request_id})" if reply.request_id else ""
    return f"{doing}: {status}{reply.text()}{named}"
