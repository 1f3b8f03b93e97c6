"""Calls that calls submit to the pool that runs them."""

from __future__ import annotations

import pickle

from dragonfly_executor.core import events
from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.core.calls import ChildCall
from dragonfly_executor.engine.call_name import MAX_NAME
from dragonfly_executor.engine.objects.replies import send_reply
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.errors import CallTimeoutError, ProtocolError, RunnerLostError
from dragonfly_executor.protocol.child_outcome import CALLER, ChildOutcome
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.core.calls import CallLimits
    from dragonfly_executor.engine.objects.request import ChildContext, Session

OPTIONS = frozenset({"timeout", "queue_timeout", "run_timeout", "retries", "requires", "priority", "key"})
"""The options of calls that a child call may have."""
MAX_HEADERS = 16 * 1024
"""Maximum number of characters of a call's trace context."""
MAX_CHILDREN = 1_000_000
"""Maximum number of calls of one slot's calls that are not settled."""


class ChildToken:
    """The receiver of a child call's outcome, which it sends to the slot. It belongs to the engine thread.

    Args:
        session: the slot.
        number: the number of the slot's request.
        engine: the pool's.

    Attributes:
        call: the core's record of the call; None until it is accepted.
        caller: the trace context of the call that has submitted it, as the W3C's headers; None if it has none.
        is_detached: whether the call that has submitted it has returned. It goes on even if the slot ends.
    """

    call: ChildCall | None = None
    is_detached = False
    caller: dict[str, str] | None = None

    def __init__(self, session: Session, number: int, engine: ChildContext) -> None:
        self._session = session
        self._number = number
        self._engine = engine
        self._is_cancelled = False
        session.children[number] = self

    def hand_over(self) -> bool:
        """See `CallToken.hand_over`."""
        return not self._is_cancelled

    def cancel(self) -> None:
        """Stop the call: nothing waits for it any more."""
        self._is_cancelled = True
        self._session.children.pop(self._number, None)
        if self.call is not None:
            self._engine.cancel((self.call,))

    def settle(self, outcome: object) -> None:
        """See `CallToken.settle`."""
        if self._is_cancelled:
            return
        self._session.children.pop(self._number, None)
        if not self._session.is_gone:
            send_reply(self._session, self._number, _reply(outcome))

    @property
    def is_cancelled(self) -> bool:
        """True if nothing waits for the call any more."""
        return self._is_cancelled


class ChildCallServer:
    """Accepts the calls that calls submit. It belongs to the engine thread.

    Args:
        engine: runs the calls.
        on_engine: runs a callback on the engine thread, after what it does now.
    """

    def __init__(self, engine: ChildContext, on_engine: Callable[[Callable[[], object]], object]) -> None:
        self._engine = engine
        self._on_engine = on_engine
        self._latest: tuple[dict[str, Any], CallLimits] | None = None
        """The options of the last call that has no pauses of its own, and the limits that they make."""

    def requested(self, session: Session, number: int, method: str, args: tuple[Any, ...]) -> None:
        """Handle a request of a slot.

        Raises:
            ProtocolError: it is no such request.
        """
        types = tuple(map(type, args))
        if method == "submit" and types == (int, str, dict, bool, bytes):
            if number in session.children:
                raise ProtocolError(f"two child calls with the number {number}")
            if len(session.children) >= MAX_CHILDREN:
                raise ProtocolError(f"{MAX_CHILDREN} child calls of one slot")
            token = ChildToken(session, number, self._engine)
            # Not at once: the frames that are being read may have more to say of this runner.
            self._on_engine(lambda: self._begin(session, token, *args))
        elif method == "cancel" and types == (int,):
            if (child := session.children.get(args[0])) is not None:
                child.cancel()
        elif method == "detach" and not args:
            for child in session.children.values():
                child.is_detached = True
        else:
            raise ProtocolError(f"a request for {method!r} of the pool")

    def _begin(
        self, session: Session, token: ChildToken, outer_id: int, name: str, given: dict[str, Any],
        retries_timeouts: bool, data: bytes,
    ) -> None:  # fmt: skip
        if token.is_cancelled:
            return
        outer = session.runner.call(outer_id) if outer_id else None
        if outer is not None:
            given.setdefault("priority", outer.limits.priority)
        try:
            token.caller = _headers(given.pop(CALLER, None))
            limits = self._limits(given, retries_timeouts)
            payload = self._engine.payloads.snapshot([data])
        except Exception as error:  # a value is out of range, or the payload is too large
            token.settle(error.with_traceback(None))
            return
        depth = 1 if outer is None else outer.depth + 1
        call = token.call = ChildCall(next(self._engine.ids), payload, token, limits, depth)
        call.name = name[:MAX_NAME]
        self._engine.handle(events.ChildrenSubmitted((call,)))

    def _limits(self, given: dict[str, Any], retries_timeouts: bool) -> CallLimits:
        """Return the limits of a call with these options; the pool's limits for the rest.

        Raises:
            TypeError, ValueError: an option is unknown, or its value is not allowed.
        """
        if retries_timeouts:
            given["retry_on"] = (CallTimeoutError,)
        if self._latest is not None and self._latest[0] == given:
            return self._latest[1]
        if not given.keys() <= OPTIONS | {"retry_on"}:
            raise TypeError(f"child calls have no such options: {sorted(given.keys() - OPTIONS)}")
        changes: Any = {"retry_on": (), **given}
        options = self._engine.options.call.change(changes)
        limits = options.limits()
        # Each call with retries draws pauses of its own.
        self._latest = None if options.retries else (given, limits)
        return limits


def _headers(given: object) -> dict[str, str] | None:
    """Return a trace context that a slot has sent.

    Raises:
        TypeError: it is none.
    """
    if given is None:
        return None
    if type(given) is not dict or any(type(text) is not str for pair in given.items() for text in pair):
        raise TypeError("a trace context is a dict of texts")
    if sum(map(len, (*given, *given.values()))) > MAX_HEADERS:
        return None  # such as very long baggage: the call is not traced
    return given


def _reply(outcome: object) -> bytes:
    """Return the outcome of a call in the form that a slot gets. The value stays as the other slot has pickled it."""
    if outcome is CANCELLED:
        return pickle.dumps((ChildOutcome.CANCELLED, b""), 5)
    error = outcome
    if isinstance(outcome, Outcome):
        data = outcome.encoded
        if data is not None:
            return pickle.dumps((ChildOutcome.ERROR if outcome.is_error else ChildOutcome.VALUE, bytes(data)), 5)
        error = outcome.open()[1]
    try:
        return pickle.dumps((ChildOutcome.FAILED, pickle.dumps(error, 5)), 5)
    except Exception as unpicklable:  # the cause of an error may be of the user's own type
        text = f"{type(error).__name__}: {error} ({unpicklable})"
        return pickle.dumps((ChildOutcome.FAILED, pickle.dumps(RunnerLostError(text), 5)), 5)
