"""`MethodDispatch`: sends the method calls of one placed worker, and settles them. It belongs to the engine thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.engine.placed.method_frames import WorkerLink
from dragonfly_executor.engine.placed.method_queue import MethodQueue
from dragonfly_executor.errors import CallTimeoutError
from dragonfly_executor.protocol.placed_messages import EndFlag
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.calls import Payload
    from dragonfly_executor.engine.context import WorkerContext
    from dragonfly_executor.engine.placed.method_call import MethodCall
    from dragonfly_executor.serialization import CallCodec

DROP_GRACE = 0.5
"""Seconds in which a slot must drop calls that have not begun. Then it counts as stuck in the method that it runs."""


class MethodDispatch:
    """The method calls of one worker.

    Args:
        engine: the pool's.
        name: the worker's name, for errors.
        concurrency: number of methods that run at once.
        on_idle: called when no call is left.
        on_overrun: called with the error of a call that must be stopped and runs: only the end of the slot stops it.
    """

    def __init__(
        self,
        engine: WorkerContext,
        name: str,
        concurrency: int,
        on_idle: Callable[[], object],
        on_overrun: Callable[[Exception], object],
    ) -> None:
        self._engine = engine
        self._name = name
        self._on_idle = on_idle
        self._on_overrun = on_overrun
        self.queue: MethodQueue[MethodCall] = MethodQueue(concurrency)
        self._link: WorkerLink | None = None
        self._overrun: Exception | None = None
        """Set while the slot is about to be ended because of a call that ran too long: it gets no calls."""
        self._recalled: list[MethodCall] = []
        """Calls that the slot has dropped meanwhile, in order."""
        self._retrying: list[MethodCall] = []
        """Calls that wait for their next attempt."""

    @property
    def is_idle(self) -> bool:
        """True if no call is left."""
        return not (self.queue or self._recalled or self._retrying)

    # -- the slot ------------------------------------------------------------------------------------------------------

    def connect(self, link: WorkerLink) -> None:
        """Send calls over this link from now on."""
        self._link = link
        self.send()

    def disconnect(self, *, in_order: bool) -> list[MethodCall]:
        """Send no more calls, because the slot has ended. Returns the calls that may have begun; the others wait again.

        Args:
            in_order: see `MethodQueue.lost`.
        """
        if self._link is None:
            return []
        doubtful, fresh = self.queue.lost(in_order=in_order)
        for call in (*doubtful, *fresh):
            self._link.answered(call.payload)
        for call in (*self._recalled, *fresh, *doubtful):
            if call.is_abandoned:
                call.forget()
            elif call.expired is not None:
                call.settle(call.expired)
                call.is_abandoned = True
        self.queue.put_back([call for call in (*self._recalled, *fresh) if not call.is_abandoned])
        self._recalled.clear()
        self._link = self._overrun = None
        return [call for call in doubtful if not call.is_abandoned]

    def begin_again(self, calls: list[MethodCall]) -> None:
        """Put calls in front that may have begun, and may begin again."""
        for call in calls:
            call.attempt += 1
        self.queue.put_back(calls)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def add(self, call: MethodCall) -> None:
        """Accept a call, behind all others."""
        limits = call.limits
        if limits.timeout is not None:
            self._limit(call, limits.timeout, f"its timeout of {limits.timeout:g} s")
        if call.has_arguments:
            self._limit_wait(call)
        self.queue.add(call)

    def arguments_came(self, call: MethodCall, payload: Payload) -> None:
        """Let a call go on that has waited for futures."""
        if call.future.done():
            return
        call.complete(payload)
        self._limit_wait(call)
        self.send()

    def arguments_failed(self, call: MethodCall, outcome: object) -> None:
        """End a call whose futures have failed. The calls behind it go on."""
        if self.queue.remove(call):
            call.settle(outcome)
            self.send()
            self._after_end()

    def send(self) -> None:
        """Send the calls for which there is room in the slot."""
        if self._link is None or self._overrun is not None:
            return
        while (call := self.queue.next()) is not None:
            if not call.future.hand_over():
                self.cancelled(call)
                continue
            self._link.send(self.queue.sent(), call.payload, reports=call.limits.run_timeout is not None)

    def drop(self, calls: Sequence[MethodCall]) -> None:
        """Drop calls whose futures were cancelled, if they were not sent."""
        for call in calls:
            self.cancelled(call)
        # They may have waited for futures, in front of others.
        self.send()

    def cancelled(self, call: MethodCall) -> None:
        """Drop a call whose future was cancelled, if it was not sent."""
        if self.queue.remove(call):
            call.settle(CANCELLED)
            self._after_end()

    def cancel_waiting(self) -> None:
        """Cancel all calls that were not sent."""
        for call in self.queue.take_waiting():
            call.settle(CANCELLED)

    def take_all(self) -> list[MethodCall]:
        """Remove and return all calls, of a worker without a slot."""
        calls = [*self.queue.take_waiting(), *self._retrying]
        self._retrying.clear()
        return calls

    def _after_end(self) -> None:
        if self.is_idle:
            self._on_idle()

    # -- what the slot says --------------------------------------------------------------------------------------------

    def began(self, number: int) -> None:
        """Begin the time of a call with a `run_timeout`."""
        call = self.queue.find(number)
        if call is not None and call.limits.run_timeout is not None:
            self._limit(call, call.limits.run_timeout, f"its run_timeout of {call.limits.run_timeout:g} s")

    def leaving(self, number: int) -> None:
        """Note that a call has ended, and that its result follows."""
        self.queue.leaving(number)

    def ended(self, number: int, flags: int, seconds: float, payload: Any, codec: CallCodec | None) -> None:
        """Settle a call, or put it back if the slot has dropped it.

        Args:
            number, flags, seconds, payload: see `SlotReports.method_ended`.
            codec: opens the result; None for the pool's codec.
        """
        call = self.queue.answered(number, None if flags & EndFlag.DROPPED else seconds)
        if call is None or self._link is None:
            return
        self._link.answered(call.payload)
        if not flags & EndFlag.DROPPED:
            self._settle(call, flags, payload, codec)
        elif call.is_abandoned:
            call.forget()
        elif call.expired is not None:
            call.settle(call.expired)
        else:
            self._recalled.append(call)
        if self._overrun is not None and not self.queue.ahead_of_time():
            self._end_overrun()
        self.send()
        self._after_end()

    def _settle(self, call: MethodCall, flags: int, payload: Any, codec: CallCodec | None) -> None:
        is_error = bool(flags & EndFlag.ERROR)
        try:
            if flags & EndFlag.SHARED:
                memory = self._engine.payloads.shared_memory()
                number, index, length = payload
                payload = b"" if memory is None else memory.result(number, index, length)
            outcome = Outcome(codec or self._engine.codec, payload, is_error)
        except Exception as error:  # there is no such memory, or none is left here
            outcome = Outcome.failed(error)
        # After that: an outcome that is dropped gives its shared memory back.
        if flags & EndFlag.RETRYABLE and call.attempt <= call.limits.retries and not call.is_abandoned:
            delays = call.limits.retry_delays
            delay = delays[min(call.attempt, len(delays)) - 1] if delays else 0.0
            call.attempt += 1
            self._retrying.append(call)
            call.timers.append(self._engine.loop.call_later(delay, lambda: self._retry(call)))
            return
        call.settle(outcome)

    def _retry(self, call: MethodCall) -> None:
        self._retrying.remove(call)
        self.queue.add(call)
        self.send()

    def bytes_wanted(self, number: int) -> None:
        """Send the bytes of a call whose shared memory the slot cannot have."""
        call = self.queue.find(number)
        if call is not None and self._link is not None and not isinstance(call.payload, bytes):
            self._link.send_bytes(number, call.payload)

    # -- limits of time ------------------------------------------------------------------------------------------------

    def _limit(self, call: MethodCall, seconds: float, limit: str) -> None:
        call.timers.append(self._engine.loop.call_later(seconds, lambda: self._expired(call, limit)))

    def _limit_wait(self, call: MethodCall) -> None:
        seconds = call.limits.queue_timeout
        if seconds is not None:
            call.timers.append(self._engine.loop.call_later(seconds, lambda: self._waited(call, seconds)))

    def _waited(self, call: MethodCall, seconds: float | None) -> None:
        if self.queue.remove(call):
            text = f"the call of {self._name}.{call.name} was not begun within its queue_timeout of {seconds:g} s"
            self._end_unsent(call, CallTimeoutError(text))

    def _expired(self, call: MethodCall, limit: str) -> None:
        """Stop a call at its limit, wherever it is."""
        text = f"the call of {self._name}.{call.name} did not end within {limit}"
        number = self.queue.number_of(call)
        if not number:
            for held in (self._retrying, self._recalled):
                if call in held:
                    held.remove(call)
            self.queue.remove(call)
            self._end_unsent(call, CallTimeoutError(f"{text}: it waited for the worker"))
            return
        stopped = CallTimeoutError(f"{text}: the worker was stopped, because it ran the method")
        if number in self.queue.begun():
            call.abandon(stopped)
            self._begin_overrun(stopped)
        else:
            # It fails once the slot has dropped it: until then it may begin.
            call.expired = CallTimeoutError(f"{text}: it waited for the worker")
            if self._link is not None:
                self._link.cancel(number)
            self._engine.loop.call_later(DROP_GRACE, lambda: self._check_dropped(call, stopped))
        self._engine.wakers.flush()

    def _end_unsent(self, call: MethodCall, error: Exception) -> None:
        call.settle(error)
        # It may have waited for futures, in front of others.
        self.send()
        self._after_end()
        self._engine.wakers.flush()

    def _check_dropped(self, call: MethodCall, error: Exception) -> None:
        """Stop a call that has begun just before it was to be dropped, or that the slot does not drop."""
        number = self.queue.number_of(call)
        if not number:
            return
        if not call.is_abandoned:
            call.abandon(call.expired or error)
            self._engine.wakers.flush()
        if number in self.queue.begun():
            self._begin_overrun(error)
        else:
            self._engine.loop.call_later(DROP_GRACE, lambda: self._check_dropped(call, error))

    def _begin_overrun(self, error: Exception) -> None:
        """End the slot, once it has dropped the calls that have not begun: they are not to be lost with it."""
        if self._overrun is not None or self._link is None:
            return
        self._overrun = error
        waiting = self.queue.ahead_of_time()
        for number in waiting:
            self._link.cancel(number)
        if not waiting:
            self._end_overrun()
        else:
            self._engine.loop.call_later(DROP_GRACE, self._end_overrun)

    def _end_overrun(self) -> None:
        error = self._overrun
        if error is not None and self._link is not None:
            self._on_overrun(error)
