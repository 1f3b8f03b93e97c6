"""Carries out the core's actions: on runners, and on the futures of calls that have ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.core import actions
from dragonfly_executor.engine.future import Future
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.call_table import Call
    from dragonfly_executor.engine.notifications import Notifications
    from dragonfly_executor.engine.output.router import OutputRouter
    from dragonfly_executor.engine.runner_links import RunnerLinks
    from dragonfly_executor.transport.loop import Loop


class ActionRunner:
    """The action_runner of actions on runners. It belongs to the engine thread.

    Args:
        loop: the engine's loop; it is stopped when the pool has closed.
        runners: the runners to boot, to send to, and to stop.
        outputs: the output of calls.
        notifications: emits log lines and hooks.
        syncs: whether there are runners that need files of this machine.
    """

    def __init__(
        self,
        loop: Loop,
        runner_links: RunnerLinks,
        outputs: OutputRouter,
        notifications: Notifications,
        *,
        syncs: bool,
    ) -> None:
        self._loop = loop
        self._runner_links = runner_links
        self._outputs = outputs
        self._syncs = syncs
        self._notifications = notifications
        self.do: dict[type, Callable[[Any], None]] = {
            actions.Send: self._send,
            actions.Kill: self._kill,
            actions.Boot: self._boot,
            actions.Stop: self._stop,
            actions.Drain: self._drain,
            actions.CheckIdle: self._check_idle,
            actions.Warn: self._warn,
            actions.Closed: self._closed,
        }
        """The method for each type of action. For `actions.Settle` see `settle`."""

    def _send(self, action: actions.Send) -> None:
        runner = self._runner_links.get(action.runner_id)
        if self._syncs:
            runner.file_updates.send_ahead_of(action.calls)
        if self._outputs.has_records:
            runner.follow_log_level(self._outputs.log_level())
        now = self._loop.time()
        for call in action.calls:
            # A call that was just cancelled is not sent. The core will emit KILL for it, and the agent will answer
            # GONE.
            if call.token is None or call.token.hand_over():
                runner.send_call(call, now)
        # Now, not at the end of the pass, so that the calls start sooner.
        runner.flush()

    def _kill(self, action: actions.Kill) -> None:
        call = action.call
        if isinstance(call.token, Future):
            self._outputs.keep(call.token, call.id)
        self._runner_links.get(action.runner_id).kill_call(call)

    def _boot(self, action: actions.Boot) -> None:
        self._runner_links.boots.boot(action.runner_id, action.requirements, action.tier)

    def _stop(self, action: actions.Stop) -> None:
        self._runner_links.stop(action.runner_id, action.grace, action.reason)

    def _drain(self, action: actions.Drain) -> None:
        runner = self._runner_links.get(action.runner_id)
        self._notifications.warn(f"{runner.name} drains: it ends in {action.seconds:.0f} s")
        runner.drain(action.seconds)

    def _check_idle(self, action: actions.CheckIdle) -> None:
        self._runner_links.get(action.runner_id).check_idle(self._runner_links.idle_check)

    def _warn(self, action: actions.Warn) -> None:
        self._notifications.warn(action.text)

    def _closed(self, action: actions.Closed) -> None:
        self._runner_links.close()
        self._loop.stop()


def broken_by(bug: BaseException) -> errors.PoolBrokenError | errors.StartError:
    """Return the error for a bug, or a shortage, that has ended the engine.

    If the shortage came before the other errors were loaded, and lasts, that is a `StartError`.
    """
    if isinstance(bug, errors.StartError):
        return bug
    try:
        what = repr(bug)
    except BaseException as failure:  # the bug's class may be the user's own
        what = f"{type(bug).__name__}, whose repr() raised {type(failure).__name__}"
    try:
        error = errors.PoolBrokenError(f"the pool's engine failed, which is a bug: {what}")
    except errors.StartError as shortage:
        return shortage
    error.__cause__ = bug
    return error


def fail_each(calls: deque[Call], error: Exception) -> None:
    """Fail the futures of these calls. Each call leaves the queue as soon as its future is done."""
    while calls:
        settle(actions.Settle([(calls[0], error)]))
        calls.popleft()


def settle(action: actions.Settle) -> None:
    """Settle the futures of these calls."""
    for call, outcome in action.outcomes:
        future = call.token
        if future is not None:
            future.settle(outcome)
            call.token, call.payload = None, b""
