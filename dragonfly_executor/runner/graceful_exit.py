"""The orderly end of a runner: drain, wait for its calls, end its slots, say BYE, exit."""

from __future__ import annotations

import os

from dragonfly_executor.protocol.frames import Kind, encode
from dragonfly_executor.runner.slot_handle import EXIT_TIMEOUT
from dragonfly_executor.util import plain_signal as signal
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.runner.dispatch import Dispatcher
    from dragonfly_executor.transport.link import Link
    from dragonfly_executor.transport.loop import Loop, Timer

GRACE = 25.0
"""Seconds that calls have to finish after a SIGTERM: most senders kill after 30 s."""
UNKNOWN_GRACE = 1.0
"""Seconds that the parent has to react to a SIGTERM if it has not admitted the runner yet."""
NOTICE_INTERVAL = 1.0
"""Seconds between two signals to the calls of a runner that drains."""
DRAIN_SLACK = 2.0
"""Seconds beyond the end that the parent has set. The parent stops the runner at that end, and says why."""
EXIT_SLACK = 0.5
"""Seconds between the deadline of the last slots and the exit of the agent."""


class GracefulExit:
    """The orderly end of an agent. If there are several deadlines, the earliest counts.

    Args:
        loop: the agent's event loop.
        link: the link to the parent.
        dispatcher: knows the calls and the slots that are here.
        exit_now: kills every process of this runner, and exits.

    Attributes:
        grace: seconds that calls have to finish after a SIGTERM.
        is_stopping: True once the parent sends no more calls, or the time is over.
    """

    def __init__(self, loop: Loop, link: Link, dispatcher: Dispatcher, exit_now: Callable[[], object]) -> None:
        self.grace = GRACE
        self.is_stopping = False
        self._loop = loop
        self._link = link
        self._dispatcher = dispatcher
        self._exit_now = exit_now
        self._is_draining = False
        self._was_terminated = False
        self._timer: Timer | None = None

    def stop(self, grace: float) -> None:
        """Exit when all calls have ended, or at the latest after `grace` seconds."""
        self.is_stopping = True
        self._exit_within(grace)
        self.exit_if_done()

    def terminate(self, *, is_admitted: bool) -> None:
        """Handle a SIGTERM: ask the parent to send no more calls, and return the calls that have not started.

        The parent may be sending calls at this moment, so it has to say when none come. It may also just have admitted
        the runner, so this holds before the WELCOME too.
        """
        self._was_terminated = True
        self._drain(self.grace if is_admitted else min(self.grace, UNKNOWN_GRACE))

    def drain(self, seconds: float) -> None:
        """Return the calls that have not started: the parent stops this runner in `seconds`."""
        self._drain(seconds + DRAIN_SLACK)

    def _drain(self, grace: float) -> None:
        # A notice may come before the platform's signal.
        self._exit_within(grace)
        if self._is_draining:
            return
        self._is_draining = True
        self._link.send(encode(Kind.STOP))
        self._dispatcher.close()
        self._notify_calls()

    def _notify_calls(self) -> None:
        """Tell the calls that this runner ends soon, and again for calls that listen later: see `on_drain`."""
        for pid in self._dispatcher.slots:
            os.kill(pid, signal.SIGURG)
        self._loop.call_later(NOTICE_INTERVAL, self._notify_calls)

    def _exit_within(self, grace: float) -> None:
        when = self._loop.time() + grace
        if self._timer is None or when < self._timer.when:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(when, self._end_slots)

    def exit_if_done(self) -> None:
        """End the slots if the runner stops and no call is left."""
        if self.is_stopping and self._dispatcher.is_idle:
            self._end_slots()

    def _end_slots(self) -> None:
        """End every slot, then exit. Slots that still run a call are killed, the others end by themselves."""
        self.is_stopping = True
        self._dispatcher.stopped_after = self.grace if self._was_terminated else None
        self._dispatcher.end_slots()
        self._loop.call_later(EXIT_TIMEOUT + EXIT_SLACK, self._say_bye)
        self.exit_if_alone()

    def exit_if_alone(self) -> None:
        """Exit if the runner stops, and neither a call nor a slot is left."""
        if self.is_stopping and not self._dispatcher.slots and self._dispatcher.is_idle:
            self._say_bye()

    def _say_bye(self) -> None:
        self._link.send(encode(Kind.BYE))
        self._link.flush()
        self._exit_now()
