"""The carrying out of what the core decides: on runners, and on the futures of calls that have ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import InvalidStateError

from dragonfly_executor import errors
from dragonfly_executor.core import actions
from dragonfly_executor.engine.future import Outcome, Unopened

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.call_table import Call
    from dragonfly_executor.engine.notifications import Narrator
    from dragonfly_executor.engine.output.router import Outputs
    from dragonfly_executor.engine.runner_table import Runners
    from dragonfly_executor.sync import Keeper
    from dragonfly_executor.transport.loop import Loop


class Performer:
    """Carries out, on the engine thread, what is to be done with runners.

    Args:
        loop: the engine's; it is stopped when the pool has closed.
        runners: those to be booted, spoken to and stopped.
        outputs: what calls write.
        keeper: knows what of this machine's files runners need; None where they see them.
        narrator: tells what is to be told.
    """

    def __init__(
        self, loop: Loop, runners: Runners, outputs: Outputs, keeper: Keeper | None, narrator: Narrator
    ) -> None:
        self._loop = loop
        self._runners = runners
        self._outputs = outputs
        self._keeper = keeper
        self._narrator = narrator
        self.do: dict[type, Callable[[Any], None]] = {
            actions.Send: self._send,
            actions.Kill: self._kill,
            actions.Boot: self._boot,
            actions.Stop: self._stop,
            actions.CheckIdle: self._check_idle,
            actions.Warn: self._warn,
            actions.Closed: self._closed,
        }
        """By type of action, what carries it out; for `actions.Settle` see `settle`."""

    def _send(self, action: actions.Send) -> None:
        runner = self._runners.get(action.runner_id)
        if self._keeper is not None:
            self._runners.update(runner, action.calls)
        if self._outputs.has_records:
            runner.follow_log_level(self._outputs.log_level())
        now = self._loop.time()
        for call in action.calls:
            # One that was cancelled an instant ago stays here: the core says KILL next, and hears that it is gone.
            if _hand_over(call):
                runner.send_call(call, now)
        # Now, not at the end of the pass: the calls start that much sooner.
        runner.flush()

    def _kill(self, action: actions.Kill) -> None:
        call = action.call
        self._outputs.keep(call.token, call.id)  # type: ignore[arg-type]  # the core does not look at it
        self._runners.get(action.runner_id).kill_call(call)

    def _boot(self, action: actions.Boot) -> None:
        self._runners.boot(action.runner_id)

    def _stop(self, action: actions.Stop) -> None:
        self._runners.stop(action.runner_id, action.grace, action.reason)

    def _check_idle(self, action: actions.CheckIdle) -> None:
        self._runners.check_idle(action.runner_id)

    def _warn(self, action: actions.Warn) -> None:
        self._narrator.warn(action.text)

    def _closed(self, action: actions.Closed) -> None:
        self._runners.close()
        self._loop.stop()


def _hand_over(call: Call) -> bool:
    future: Any = call.token
    return future is None or bool(future.hand_over())


def broken_by(bug: BaseException) -> errors.PoolBrokenError | errors.StartError:
    """Return the error that tells of a bug, or of a shortage, by which the engine has ended.

    That is a `StartError` if the shortage came so early that the other errors are not loaded, and lasts.
    """
    if isinstance(bug, errors.StartError):
        return bug
    try:
        what = repr(bug)
    except BaseException as failure:  # its class may be the user's own
        what = f"{type(bug).__name__}, whose repr() raised {type(failure).__name__}"
    try:
        error = errors.PoolBrokenError(f"the pool's engine failed, which is a bug: {what}")
    except errors.StartError as shortage:
        return shortage
    error.__cause__ = bug
    return error


def fail_each(calls: deque[Call], error: Exception) -> None:
    """Make the futures of these calls done. Each call leaves the queue as soon as its future is."""
    while calls:
        settle(actions.Settle([(calls[0], error)]))
        calls.popleft()


def settle(action: actions.Settle) -> None:
    """Make the futures of calls done."""
    for call, outcome in action.outcomes:
        future: Any = call.token
        if future is None:
            continue
        lock = future._condition  # noqa: SLF001
        if not lock.acquire(blocking=False):
            lock.enter_surely()
        try:
            _settle(future, outcome)
        finally:
            lock.release()
        call.token = call.payload = None


def _settle(future: Any, outcome: object) -> None:
    try:
        if type(outcome) is Outcome:
            if outcome.is_error:
                future.set_exception(Unopened(outcome))
            else:
                future.set_result(outcome)
        elif outcome is actions.CANCELLED:
            future.cancel_by_engine()
        else:
            future.set_exception(outcome)
    except InvalidStateError:
        # It was cancelled an instant ago, and whoever waits for it has not been told.
        future.cancel_by_engine()
