"""The slot's side of the calls that its calls submit to the pool: requests, replies, and the loan of the slot."""

from __future__ import annotations

import logging
import threading
from _queue import SimpleQueue  # `queue` has the same class, and loads more
from concurrent.futures import InvalidStateError
from contextlib import suppress

from dragonfly_executor.protocol.child_outcome import CALLER, ChildOutcome
from dragonfly_executor.protocol.frames import POOL
from dragonfly_executor.runner.reply_reader import ReplyTarget
from dragonfly_executor.runner.slot_loan import SlotLoan
from dragonfly_executor.serialization.context_call import carried, headers_of_caller
from dragonfly_executor.serialization.payload_parts import joined
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from dragonfly_executor.runner.agent_stream import AgentStream
    from dragonfly_executor.runner.child_options import ChildOptions
    from dragonfly_executor.runner.object_client import ObjectClient
    from dragonfly_executor.serialization.parent_codec import CallCodec


class Settled(Protocol):
    """The future of a child call, as its outcome is set."""

    def set_result(self, value: Any, /) -> None:
        """Set the value."""

    def set_exception(self, error: BaseException, /) -> None:
        """Set the error."""

    def set_cancelled(self) -> None:
        """Note that the pool has cancelled the call."""


class ChildReply(ReplyTarget):
    """The receiver of the outcome of a child call."""

    __slots__ = ("_arrived", "future")

    def __init__(self, future: Settled, arrived: Callable[[ChildReply], object]) -> None:
        super().__init__()
        self.future = future
        self._arrived = arrived

    def wake(self) -> None:
        """See `ReplyTarget`."""
        self._arrived(self)


class ChildCalls:
    """Submits calls to the pool that runs this slot.

    Results are opened on a thread of their own, because that runs the user's code: the thread that reads replies must
    not wait. Done callbacks run on a second one, because a callback may wait for a child call.

    Args:
        agent: the stream to the agent.
        client: sends requests.
        codec: encodes calls, and opens their results.
    """

    def __init__(self, agent: AgentStream, client: ObjectClient, codec: CallCodec) -> None:
        self.loan = SlotLoan(agent)
        self._agent = agent
        self._client = client
        self._codec = codec
        self._replies: SimpleQueue[ChildReply | None] = SimpleQueue()
        self._callbacks: SimpleQueue[Callable[[], object] | None] | None = None
        self._lock = threading.Lock()
        self._has_submitted = False
        """True if the running call has submitted calls."""
        client.on_call_end = self._end_call
        threading.Thread(target=self._settle, name="dragonfly-child-results", daemon=True).start()

    def submit(
        self,
        future: Settled,
        options: ChildOptions,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> int:
        """Submit a call whose outcome `future` gets, and return its number.

        Raises:
            CallSerializationError: a part of the call cannot be pickled.
            TypeError: `fn` is a generator function.
            FrameTooLargeError: the call is larger than ``max_payload``.
            RuntimeError: this is a process that a call has started.
        """
        name = getattr(fn, "__qualname__", None)
        name = name if type(name) is str else type(fn).__qualname__
        plain, caller = options.plain, headers_of_caller()
        if caller is not None:
            plain, fn = {**plain, CALLER: caller}, carried(fn, caller)
        payload = joined(self._codec.encode_call(fn, args, kwargs, options.retry_on))
        reply = ChildReply(future, self._replies.put)
        self._has_submitted = True
        return self._client.begin(
            reply, POOL, "submit", self._agent.running[0], name, plain, options.retries_timeouts, payload
        )

    def cancel(self, number: int) -> bool:
        """Stop a call. Returns False if its outcome is here."""
        if not self._client.forget(number):
            return False
        self._client.tell(POOL, "cancel", number)
        return True

    def call_back(self, callback: Callable[[], object]) -> None:
        """Run a done callback on the callback thread."""
        with self._lock:
            if self._callbacks is None:
                self._callbacks = SimpleQueue()
                threading.Thread(
                    target=_run_callbacks, args=(self._callbacks,), name="dragonfly-child-callbacks", daemon=True
                ).start()
        self._callbacks.put(callback)

    def close(self) -> None:
        """End the threads, after the outcomes that are here. A slot's threads end with its process."""
        self._replies.put(None)
        with self._lock:
            if self._callbacks is not None:
                self._callbacks.put(None)

    def _end_call(self) -> None:
        """Let the child calls go on that the call has left behind, whatever becomes of the slot."""
        if self._has_submitted:
            self._has_submitted = False
            self._client.tell(POOL, "detach")

    def _settle(self) -> None:
        while (reply := self._replies.get()) is not None:
            with suppress(InvalidStateError):  # it was cancelled at this very moment
                self._settle_one(reply.future, *pickle.loads(reply.data or b""))
            del reply

    def _settle_one(self, future: Settled, how: int, data: bytes) -> None:
        if how == ChildOutcome.CANCELLED:
            future.set_cancelled()
            return
        value, error = None, None
        try:
            if how == ChildOutcome.VALUE:
                value = self._codec.decode_result(data)
            elif how == ChildOutcome.ERROR:
                error = self._codec.decode_error(data)
            else:
                error = pickle.loads(data)
        except BaseException as exc:  # what a pickle calls is user code
            error = exc
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def _run_callbacks(queue: SimpleQueue[Callable[[], object] | None]) -> None:
    while (callback := queue.get()) is not None:
        try:
            callback()
        except Exception:
            logging.getLogger("concurrent.futures").exception("a done callback of a child call has failed")
        del callback
