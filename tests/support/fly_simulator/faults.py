"""What goes wrong between a client and Fly, programmed by the test (reference 5.3).

fly.faults.on("create", nth=2, reply=rate_limited("3600"))
fly.faults.on("create", commit=True, cut=True)                 # carried out, and nobody is told
fly.faults.on("*", nth=k, before=kill)                         # the parent dies, its request is carried out
fly.faults.on("*", nth=k, before=kill, commit=False, cut=True) # it dies before its request arrives
fly.faults.on("*", nth=k, after=kill)                          # it dies before it is answered
fly.faults.on("get", times=math.inf, change=lambda body: body | {"state": "limbo"})
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from tests.support.fly_simulator import errors
from tests.support.fly_simulator.calls import Call, Reply

Hook = Callable[[Call], object]


@dataclass(slots=True)
class Fault:
    """What happens to some requests. The steps come in this order.

    Attributes:
        before: called in a thread of its own before anything else; the request waits for it.
        delay: seconds until it is carried out.
        commit: it is carried out.
        after: called like `before`, when it has been carried out, and before it is answered.
        late: seconds until it is answered.
        reply: the answer; None for the true one.
        change: makes another body out of the true answer's.
        truncate: so many bytes of the answer's body are sent, then the connection is cut.
        cut: the connection is cut instead of an answer.
        reset: the same, with a reset.
        hang: it is never answered; the connection stays until the client ends it.
        cut_after: the connection is cut after the answer, unannounced: the next request finds it dead.
    """

    action: str = "*"
    nth: int = 1
    times: float = 1
    where: Callable[[Call], bool] | None = None
    before: Hook | None = None
    delay: float = 0.0
    commit: bool = True
    after: Hook | None = None
    late: float = 0.0
    reply: Reply | None = None
    change: Callable[[Any], Any] | None = None
    truncate: int | None = None
    cut: bool = False
    reset: bool = False
    hang: bool = False
    cut_after: bool = False
    seen: int = 0
    used: int = 0

    def wants(self, call: Call) -> bool:
        """Whether this request is one of its own. Counts it if it fits."""
        if self.action not in {"*", call.action} or not (self.where is None or self.where(call)):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


class Faults:
    """The faults to come. At most one meets a request: of those that want it, the one that was added first.

    Attributes:
        drawn: asked for a fault where none was added for a request.
    """

    def __init__(self) -> None:
        self.drawn: Callable[[Call], Fault | None] = lambda call: None
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def on(
        self,
        action: str = "*",
        *,
        nth: int = 1,
        times: float = 1,
        reply: Reply | errors.ApiError | None = None,
        commit: bool | None = None,
        **what: Any,
    ) -> Fault:
        """Let something happen to the `nth` fitting request from now on, and the `times - 1` after it.

        Args:
            action: as in `Call.action`; "*" for any.
            reply: is answered; such a request is not carried out, unless `commit` says so.
            commit: whether the request is carried out. Unless given: where nothing is answered in its place.
            what: see `Fault`.
        """
        if isinstance(reply, errors.ApiError):
            reply = Reply(reply.status, reply.body, reply.headers)
        carried_out = reply is None if commit is None else commit
        fault = Fault(action, nth, times, reply=reply, commit=carried_out, **what)
        with self._lock:
            self._faults.append(fault)
        return fault

    def take(self, call: Call) -> Fault | None:
        """What happens to this request."""
        with self._lock:
            wanting = [fault for fault in self._faults if fault.wants(call)]
            if not wanting:
                return self.drawn(call)
            wanting[0].used += 1
            return wanting[0]

    def clear(self) -> None:
        """Nothing happens any more."""
        with self._lock:
            self._faults.clear()


def rate_limited(retry_after: str | None = None) -> errors.ApiError:
    """429. `retry_after` is sent as that header: seconds, or a date of HTTP."""
    return errors.rate_limited({"Retry-After": retry_after} if retry_after is not None else None)


def http_date(at: float) -> str:
    """A moment as HTTP writes it."""
    return formatdate(at, usegmt=True)
