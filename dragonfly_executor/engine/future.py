"""The Future that a submit returns: decodes its result where it is asked for, cancels for real."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import Future as BaseFuture

from dragonfly_executor.core.call_table import Call, CallState
from dragonfly_executor.errors import ForkedExecutorError
from dragonfly_executor.util.condition import Condition

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from dragonfly_executor.engine.context import FutureContext
    from dragonfly_executor.engine.output.router import Captured
    from dragonfly_executor.serialization import CallCodec

    T = TypeVar("T")
else:
    T = object


CANCELLED_STATES = ("CANCELLED", "CANCELLED_AND_NOTIFIED")
"""The standard library's, to be looked at without its lock."""


class Outcome:
    """What came back for a call, still in bytes, until somebody asks for it."""

    __slots__ = ("_codec", "_data", "_opened", "is_error")

    def __init__(self, codec: CallCodec, data: bytes | bytearray | memoryview, is_error: bool) -> None:
        self._codec = codec
        self._data: bytes | bytearray | memoryview | None = data
        self._opened: list[tuple[Any, BaseException | None]] = []
        self.is_error = is_error

    @classmethod
    def failed(cls, error: BaseException) -> Outcome:
        """Return the outcome of a call that ran, and of which nothing but this error can be had here."""
        outcome = cls.__new__(cls)
        outcome._data = None  # noqa: SLF001  # of this class
        outcome._opened = [(None, error)]  # noqa: SLF001
        outcome.is_error = True
        return outcome

    def open(self) -> tuple[Any, BaseException | None]:
        """The value, or the error in its place; opened once, in the thread that asks first."""
        if not self._opened:
            data = self._data
            if data is not None:
                self._opened.append(self._decode(data))
                self._data = None
        # Threads that ask at the same time may each open it: the first to finish wins, so that all see one object.
        return self._opened[0]

    def described(self) -> str:
        """Return what it is in the standard library's words, without opening it: ``returned int``. It never raises.

        The type of a value that is not opened yet is told if that is cheap to know; else it is "object".
        """
        if self._opened:
            value, error = self._opened[0]
            return f"returned {type(value).__name__}" if error is None else f"raised {type(error).__name__}"
        name = self._glanced()
        return f"raised {name or 'Exception'}" if self.is_error else f"returned {name or 'object'}"

    def _glanced(self) -> str | None:
        data = self._data or b"."
        try:
            from dragonfly_executor.serialization import result_type

            return result_type.error_type(data) if self.is_error else result_type.result_type(data)
        except Exception:
            # There is no memory or no descriptor for the import. What says so to the user may hold this very text.
            return None

    def _decode(self, data: bytes | bytearray | memoryview) -> tuple[Any, BaseException | None]:
        if self.is_error:
            return None, self._codec.decode_error(data)
        try:
            return self._codec.decode_result(data), None
        except Exception as error:
            if isinstance(error.__cause__, MemoryError):
                # The frames of its traceback hold the bytes, which are what there is no room for.
                error.__cause__.__traceback__ = error.__traceback__ = None
            return None, error


class Unopened(Exception):
    """Stands for a remote error in the base class's eyes, until somebody asks for it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class Deferred:
    """A done callback. It is called on the callback thread where the engine thread would call it.

    That is once, unless an interrupt comes into it: then `Future.cancel` has it called again.
    """

    __slots__ = ("_engine", "_fn", "_is_called")

    def __init__(self, engine: FutureContext, fn: Callable[[Any], object]) -> None:
        self._engine = engine
        self._fn = fn
        self._is_called = False

    def __call__(self, future: BaseFuture[Any]) -> None:
        """Call it, unless that was done."""
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
    """A call's future. To the base class it stays pending until the call has ended; the ledger answers `running`.

    So `cancel` stops a call that is running already: its process group is killed, and the slot is replaced. With the
    option ``cancel_running=False`` it gives the standard library's answers instead.
    """

    cancels_running = True
    _handed_over = False

    # On the class, where it costs the many futures nothing that are never cancelled.
    _told = False
    captured: Captured | None = None
    """What the call has written; the engine sets it."""
    _callbacks: tuple[Deferred, ...] = ()

    def __init__(self, engine: FutureContext) -> None:
        super().__init__()
        # The standard library's own is left locked by an interrupt that comes as it is entered or left. Then the engine
        # would wait for it for ever.
        self._condition: Condition = Condition()  # type: ignore[assignment]
        self._engine = engine
        self.call: Call | None = None
        """Its record in the ledger; the engine sets it once."""

    def cancel(self) -> bool:
        """Cancel the call, and stop it where it runs. False if it has ended."""
        try:
            if not super().cancel():
                return False
            if self.call is not None:
                self._engine.cancel(self.call)
        except BaseException:
            self._finish_cancel()
            raise
        return True

    def _finish_cancel(self) -> None:
        """An interrupt has ended `cancel`. If the future is cancelled, whoever is to hear of it does."""
        self._condition.let_go()
        if self.call is None or not self.cancelled():
            return
        self._condition.tell_all()
        self._engine.cancel(self.call)
        for callback in self._callbacks:
            self._engine.call_back(callback, self)

    def hand_over(self) -> bool:
        """The call goes to a runner, the first time or again; False if it was cancelled before. On the engine thread.

        The engine may not have heard of the cancel yet. As in the standard library a call that is handed over counts as
        running, and cannot be cancelled, where ``cancel_running`` is off.
        """
        if self.cancels_running:
            return self._state not in CANCELLED_STATES
        if self._handed_over:
            return True
        if not self._told:
            self._condition.enter_surely()
            try:
                self._handed_over = self.set_running_or_notify_cancel()
            finally:
                self._condition.release()
            self._told = not self._handed_over
        return self._handed_over

    def cancel_by_engine(self) -> None:
        """Settle as cancelled, and tell whoever waits; on the engine thread."""
        if not super().cancel():
            if not self.done():
                # It was handed over for good, and came back unstarted in a shutdown.
                self.set_exception(CancelledError())
        elif not self._told:
            self._told = True
            self.set_running_or_notify_cancel()

    def running(self) -> bool:
        """Whether the call is running on a slot now."""
        if super().running():
            return True
        call = self.call
        return call is not None and call.state is CallState.STARTED and not self.done()

    def result(self, timeout: float | None = None) -> T:
        """What the call returned; raises what it raised.

        Args:
            timeout: seconds to wait; None for as long as it takes.

        Raises:
            TimeoutError: it is not there yet.
            CancelledError: the future was cancelled.
            ResultDeserializationError: it came, and cannot be opened here.
            RunnerLostError, CallTimeoutError, BootError, ...: the call did not end by itself.
        """
        self._refuse_in_forked_child()
        try:
            outcome: Any = super().result(timeout)
        except Unopened as unopened:
            error = unopened.outcome.open()[1]
        except KeyboardInterrupt:
            self._condition.let_go()
            raise
        else:
            if type(outcome) is not Outcome:
                return outcome  # type: ignore[no-any-return]  # set by other hands than the engine's
            value, error = outcome.open()
            if error is None:
                return value  # type: ignore[no-any-return]
        try:
            raise error from error.__cause__  # type: ignore[misc, union-attr]  # no value, so an error
        finally:
            # A traceback holds this frame, and this frame the error: without this the two would keep each other alive.
            del error, self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised, None if it returned; waits and raises as `result` does."""
        self._refuse_in_forked_child()
        try:
            error = super().exception(timeout)
        except KeyboardInterrupt:
            self._condition.let_go()
            raise
        if type(error) is Unopened:
            return error.outcome.open()[1]
        outcome: Any = super().result(0) if error is None else None
        return outcome.open()[1] if type(outcome) is Outcome else error

    def output(self) -> str:
        """What the call has written so far to stdout and stderr, in a pool with ``output="capture"``.

        That is all that came through its descriptors 1 and 2, what its children and C libraries write there included,
        in the order in which it was read. The last 1,048,576 characters are kept; a first line says how many were
        dropped. Once the call is done it is complete. Where the future was cancelled, or was given up at its
        ``timeout``, the last of it may come a moment later. Of a call that was tried again it is the last attempt's.

        Raises:
            RuntimeError: the pool does not capture.
        """
        option = self._engine.options.output
        if option != "capture":
            raise RuntimeError(f"only a pool made with output='capture' keeps what calls write; this has {option!r}")
        return "" if self.captured is None else self.captured.text()

    def add_done_callback(self, fn: Callable[[BaseFuture[T]], object]) -> None:
        """Call ``fn(future)`` when the future is done: at once if it is, else on the pool's callback thread."""
        callback = Deferred(self._engine, fn)
        try:
            super().add_done_callback(callback)
            self._callbacks += (callback,)
        except KeyboardInterrupt:
            self._condition.let_go()
            raise

    def _standing(self) -> str:
        """Return how the call stands, in the standard library's words: "finished returned int", say."""
        if not self.done():
            return "running" if self.running() else "pending"
        try:
            error = super().exception(0)
            outcome: Any = error if error is not None else super().result(0)
        except CancelledError:
            return "cancelled"
        outcome = outcome.outcome if type(outcome) is Unopened else outcome
        if type(outcome) is Outcome:
            return f"finished {outcome.described()}"
        return f"finished {'returned' if error is None else 'raised'} {type(outcome).__name__}"

    def __repr__(self) -> str:
        try:
            standing = self._standing()
        except Exception:
            # The standard library logs this text of a future whose callback failed. Nothing may fail beside that.
            standing = "unknown"
        return f"<{type(self).__name__} at {id(self):#x} state={standing}>"

    def _repr_html_(self) -> str:
        from dragonfly_executor.engine.notebook import table

        word, _, what = self._standing().partition(" ")
        return table(type(self).__name__, {"state": word, **({"outcome": what} if what else {})})

    def _refuse_in_forked_child(self) -> None:
        if self._engine.forked and not self.done():
            raise ForkedExecutorError("this call belongs to the process that forked; its result arrives only there")
