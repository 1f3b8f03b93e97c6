"""`Future`: decodes its result in the thread that asks for it, and its `cancel` stops a running call."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import Future as BaseFuture

from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.core.call_table import Call, CallState
from dragonfly_executor.engine.outcome import Outcome, UndecodedError
from dragonfly_executor.errors import ForkedExecutorError
from dragonfly_executor.util.condition import Condition, holding
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Generator
    from typing import Any, TypeVar

    from dragonfly_executor.engine.context import FutureContext
    from dragonfly_executor.engine.loop_waker import LoopWaker
    from dragonfly_executor.engine.outcome import Unopened
    from dragonfly_executor.engine.output.router import CapturedOutput
    from dragonfly_executor.engine.progress_relay import ProgressRelay
    from dragonfly_executor.protocol.call_progress import CallProgress
    from dragonfly_executor.serialization import CallCodec

    T = TypeVar("T")
else:
    T = object


PENDING, FINISHED = "PENDING", "FINISHED"
OPEN_STATES = (PENDING, "RUNNING")
CANCELLED_STATES = ("CANCELLED", "CANCELLED_AND_NOTIFIED")
"""The standard library's states of a future, for checks without its lock."""


class DeferredCallback:
    """A done callback. If the engine thread calls it, it runs on the callback thread instead.

    It runs once, unless an interrupt stops it: then `Future.cancel` runs it again.
    """

    __slots__ = ("_engine", "_fn", "_is_called")

    def __init__(self, engine: FutureContext, fn: Callable[[Any], object]) -> None:
        self._engine = engine
        self._fn = fn
        self._is_called = False

    def __call__(self, future: BaseFuture[Any]) -> None:
        """Run the callback, unless it has run."""
        if self._is_called:
            return
        if self._engine.is_this_thread:
            self._engine.call_back(self, future)
            return
        returned: object = self
        try:
            self._is_called = True
            returned = self._fn(future)
        except KeyboardInterrupt:
            self._is_called = returned is not self
            raise


class Future(BaseFuture[T]):
    """The future of a call. The base class sees it as PENDING until the call settles; `running` asks the core's record.

    So `cancel` also stops a running call: its process group is killed, and the slot is replaced. With the option
    ``cancel_running=False``, `cancel` answers as the standard library's does.
    """

    cancels_running = True
    _handed_over = False

    # On the class, because these cost time and memory, and most futures never set them. The base class's `__init__`,
    # which sets some of them for each future, is not called: it also makes a condition, a deque and two lists.
    call: Call | None = None
    """The core's record of the call; set once, by the engine."""
    captured: CapturedOutput | None = None
    """The output of the call; set by the engine."""
    on_progress: Callable[[CallProgress], object] | None = None
    """The user's callback for the progress of the call; set by the engine."""
    _relay: ProgressRelay | None = None
    _progress: CallProgress | None = None
    _told = False
    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _waiter_list: list[Any] | None = None
    _callback_list: list[Any] | None = None

    def __init__(self, engine: FutureContext) -> None:
        self._engine = engine
        # An interrupt during enter or exit leaves the standard library's own condition locked. Then the engine would
        # wait for it without end.
        self._condition: Condition = Condition()  # type: ignore[assignment]

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        """The base class's list of waiters. `concurrent.futures.wait` and `as_completed` use it under the lock."""
        if self._waiter_list is None:
            self._waiter_list = []
        return self._waiter_list

    @property
    def _done_callbacks(self) -> list[Any]:
        """The base class's list of callbacks, which it uses under the lock until the future is done."""
        if self._callback_list is None:
            self._callback_list = []
        return self._callback_list

    def cancel(self) -> bool:
        """Cancel the call, and stop it if it runs. Returns False if it has ended."""
        try:
            if not super().cancel():
                return False
            if self.call is not None:
                self._engine.cancel((self.call,))
        except BaseException:
            self._finish_cancel()
            raise
        return True

    def _finish_cancel(self) -> None:
        """Finish a `cancel` that an interrupt stopped: notify the waiters, the engine and the callbacks."""
        self._condition.release_fully()
        if self.call is None or not self.cancelled():
            return
        self._condition.acquire_and_notify_all()
        self._engine.cancel((self.call,))
        for callback in self._done_callbacks:
            self._engine.call_back(callback, self)

    def hand_over(self) -> bool:
        """Accept that the call is sent to a runner, the first time or again, on the engine thread.

        The engine may not have processed a cancel yet. With ``cancel_running=False``, a call that is handed over counts
        as running and cannot be cancelled, as in the standard library.

        Returns:
            False if the future was cancelled before.
        """
        if self.cancels_running:
            return self._state not in CANCELLED_STATES
        if self._handed_over:
            return True
        if not self._told:
            self._condition.acquire_surely()
            try:
                self._handed_over = self.set_running_or_notify_cancel()
            finally:
                self._condition.release()
            self._told = not self._handed_over
        return self._handed_over

    def settle(self, outcome: object) -> None:
        """Settle the future with the outcome of its call. Runs on the engine thread.

        Args:
            outcome: an `Outcome`, an exception, or `CANCELLED`.
        """
        lock = self._condition
        if not lock.acquire(False):
            lock.acquire_surely()
        try:
            if type(outcome) is Outcome and self._state in OPEN_STATES:
                # Threads read the state without the lock, so it is set last.
                if outcome.is_error:
                    self._exception = UndecodedError(outcome)
                else:
                    self._result = outcome  # `result` opens it
                self._state = FINISHED
                if self._waiter_list:
                    self._notify_waiters(is_error=outcome.is_error)
                if lock.waiting:
                    lock.notify_all()
            else:
                self._settle_unrun(outcome)
                return
        finally:
            lock.release()
        if self._callback_list:
            self._invoke_callbacks()  # type: ignore[attr-defined]  # the base class has it

    def _notify_waiters(self, *, is_error: bool) -> None:
        for waiter in self._waiters:
            if is_error:
                waiter.add_exception(self)
            else:
                waiter.add_result(self)

    def _settle_unrun(self, outcome: object) -> None:
        """Settle the future with anything but the outcome of a call that ran; or the future was cancelled before."""
        if outcome is CANCELLED or self._state not in OPEN_STATES:
            # A future that was just cancelled has not notified the threads that wait for it.
            self._cancel_by_engine()
        elif isinstance(outcome, BaseException):
            self.set_exception(outcome)
        else:
            raise TypeError(f"no outcome of a call: {outcome!r}")

    def _cancel_by_engine(self) -> None:
        """Settle the future as cancelled, and notify the threads that wait for it."""
        if not super().cancel():
            if not self.done():
                # It was handed over for good, and a shutdown returned it unstarted.
                self.set_exception(CancelledError())
        elif not self._told:
            self._told = True
            self.set_running_or_notify_cancel()

    # The state is one attribute, so these need no lock.

    def done(self) -> bool:
        """Return whether the call has ended, or was cancelled."""
        return self._state not in OPEN_STATES

    def cancelled(self) -> bool:
        """Return whether the future was cancelled."""
        return self._state in CANCELLED_STATES

    def running(self) -> bool:
        """Return whether a slot runs the call now."""
        if self._state == "RUNNING":
            return True
        call = self.call
        return call is not None and call.state is CallState.STARTED and self._state in OPEN_STATES

    def result(self, timeout: float | None = None) -> T:
        """Return the call's value, or raise its exception.

        Args:
            timeout: seconds to wait; None for no limit.

        Raises:
            TimeoutError: the call has not ended yet.
            CancelledError: the future was cancelled.
            ResultDeserializationError: the result has arrived, and cannot be opened here.
            RunnerLostError, CallTimeoutError, BootError, ...: the call was stopped or lost.
        """
        if self._state != FINISHED:
            self._wait(timeout)
        outcome: Any = self._result
        value: T
        # Without `_end`, because this is the hot path.
        value, error = outcome.open() if type(outcome) is Outcome else self._end()
        if error is None:
            return value
        try:
            raise error from error.__cause__
        finally:
            # The traceback holds this frame, and this frame holds the error. Without this the two would keep each other
            # alive.
            del error, outcome, self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the call's exception, or None if it returned a value. Waits and raises as `result` does."""
        if self._state != FINISHED:
            self._wait(timeout)
        return self._end()[1]

    def _wait(self, timeout: float | None) -> None:
        """Wait until the future is done.

        Raises:
            TimeoutError, CancelledError: as `result` does.
        """
        self._check_process()
        self._condition.wait_unless(self.done, timeout)
        if self._state in CANCELLED_STATES:
            raise CancelledError
        if self._state != FINISHED:
            raise TimeoutError

    def _check_process(self) -> None:
        if self._engine.forked and not self.done():
            raise ForkedExecutorError(
                "this call belongs to the process that this one was forked from: its result arrives only there"
            )

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in a task of an asyncio event loop, and return the call's value or raise its exception.

        No thread waits. If the task is cancelled, the call is cancelled too, unless it is unlinked.
        """
        from dragonfly_executor.engine.awaiting import await_future

        return await_future(self)

    def waker_of(self, loop: AbstractEventLoop) -> LoopWaker:
        """Return what wakes a loop when calls of this future's pool have ended.

        Raises:
            ForkedExecutorError: the call belongs to the process that this one was forked from.
        """
        self._check_process()
        return self._engine.wakers.of(loop)

    def add_waiter(self, waiter: object) -> bool:
        """Add a waiter like those of `concurrent.futures.wait`. Returns False if the future is done."""
        return holding(self._condition, lambda: self._add_waiter(waiter))

    def _add_waiter(self, waiter: object) -> bool:
        if self._state not in OPEN_STATES:
            return False
        self._waiters.append(waiter)
        return True

    def remove_waiter(self, waiter: object) -> None:
        """Remove a waiter. Does nothing if it is not there."""
        holding(self._condition, lambda: self._remove_waiter(waiter))

    def _remove_waiter(self, waiter: object) -> None:
        self._waiter_list = [each for each in self._waiters if each is not waiter]

    def cancel_linked(self) -> None:
        """Cancel the call because the thread or task that waited for it was interrupted, unless it is unlinked."""
        if self not in self._engine.unlinked:
            self.cancel()

    @property
    def has_value(self) -> bool:
        """True if the call has ended with a value. This does not open the value."""
        return self._state == FINISHED and self._exception is None

    def unopened(self, codec: CallCodec) -> Unopened | None:
        """Return the value as its slot has sent it, with the number and the attempt of the call. Internal.

        Args:
            codec: the codec of the pool that needs the value.

        Returns:
            None if a thread has asked for the value, or if another pool has run the call.
        """
        outcome, call = self._result, self.call
        data = outcome.encoded_for(codec) if type(outcome) is Outcome else None
        return None if data is None else (data, (0, 0) if call is None else (call.id, call.attempt))

    @property
    def error_type(self) -> str | None:
        """The name of the type of the call's error, without opening it; None if there is none, or not yet."""
        if self._state in CANCELLED_STATES:
            return CancelledError.__name__
        error = self._exception
        if error is None:
            return None
        return (
            error.outcome.described().removeprefix("raised ") if type(error) is UndecodedError else type(error).__name__
        )

    def as_argument(self) -> T:
        """Return this future, which type checkers then take for its value.

        So it can be passed to a function whose parameter has the value's type. As an argument of a call it stands for
        its value: see docs/submitting.md.
        """
        return self  # type: ignore[return-value]  # it stands for its value in calls

    def __reduce_ex__(self, protocol: object) -> Any:
        from dragonfly_executor.serialization.pending_call import FuturePicklingError

        raise FuturePicklingError(
            "a future stands for its value in the arguments of calls that this program submits, and not with a "
            "serializer object of your own. In other places, pass or return its value, .result()"
        )

    def _end(self) -> tuple[Any, BaseException | None]:
        """Return the value and None, or None and the error, of a future that is finished."""
        outcome, error = self._result, self._exception
        if type(error) is UndecodedError:
            outcome = error.outcome
        return outcome.open() if type(outcome) is Outcome else (outcome, error)  # the engine did not set it

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        """Return whether the future is done, whether it was cancelled, its value and its error.

        From Python 3.14 on, the base class has this method, and asyncio uses it.
        """
        if self._state != FINISHED:
            return self.done(), self.cancelled(), None, None
        return True, False, *self._end()

    def progress(self) -> CallProgress | None:
        """Return how far the call is, as it has reported last by `dragonfly_executor.progress`; None before that.

        Once the call is done, this is its last report.
        """
        return self._progress

    def progressed(self, progress: CallProgress) -> None:
        """Keep a report of the call, and have the callback called. Runs on the engine thread."""
        self._progress = progress
        if self.on_progress is not None:
            if self._relay is None:
                from dragonfly_executor.engine.progress_relay import ProgressRelay

                self._relay = ProgressRelay(self.on_progress, self._engine.call_back)
            self._relay.add(progress)

    def output(self) -> str:
        """Return the call's output so far to stdout and stderr, in a pool with ``output="capture"``.

        That is all text from file descriptors 1 and 2, in the order in which it was read. The output of child processes
        and C libraries is included. The last 1,048,576 characters are kept; if some were dropped, the first line says
        how many. Once the call is done, the output is complete. If the future was cancelled, or reached its
        ``timeout``, the last output may arrive a moment later. If a call was retried, this is the output of the last
        attempt.

        Raises:
            RuntimeError: the pool does not capture.
        """
        option = self._engine.options.output
        if option != "capture":
            raise RuntimeError(
                f"only a pool made with output='capture' keeps the output of calls; this pool has {option!r}"
            )
        return "" if self.captured is None else self.captured.text()

    def add_done_callback(self, fn: Callable[[BaseFuture[T]], object]) -> None:
        """Call ``fn(future)`` when the future is done: at once if it is, otherwise on the pool's callback thread."""
        try:
            super().add_done_callback(DeferredCallback(self._engine, fn))
        except KeyboardInterrupt:
            self._condition.release_fully()
            raise

    def _standing(self) -> str:
        """Return the state of the call in the standard library's words, such as "finished returned int"."""
        if not self.done():
            return "running" if self.running() else "pending"
        if self.cancelled():
            return "cancelled"
        error = self._exception
        outcome = self._result if error is None else error
        outcome = outcome.outcome if type(outcome) is UndecodedError else outcome
        if type(outcome) is Outcome:
            return f"finished {outcome.described()}"
        return f"finished {'returned' if error is None else 'raised'} {type(outcome).__name__}"

    def __repr__(self) -> str:
        try:
            standing = self._standing()
        except Exception:
            # The standard library logs this text for a future whose callback failed, so it must not raise.
            standing = "unknown"
        return f"<{type(self).__name__} at {id(self):#x} state={standing}>"

    def _repr_html_(self) -> str:
        from dragonfly_executor.engine.notebook import table

        word, _, what = self._standing().partition(" ")
        return table(type(self).__name__, {"state": word, **({"outcome": what} if what else {})})
