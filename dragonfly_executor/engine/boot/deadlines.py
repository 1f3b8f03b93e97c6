"""Start times and timeouts of boots. A boot's time counts from when its backend asks for the node."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sized

from dragonfly_executor import errors
from dragonfly_executor.core import events
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.engine.boot.dialback import DialBack
    from dragonfly_executor.engine.boot.pending_boot import Booting, BootOwner
    from dragonfly_executor.engine.context import EngineContext
    from dragonfly_executor.engine.notifications import Notifications
    from dragonfly_executor.transport.loop import Loop


class BootTimes:
    """The times of a pool's boots. They belong to the engine thread.

    Args:
        engine: gets an event when a node is asked for, and when a boot waits for its turn.
        loop, notifications, host: the pool's.
        booting: the pending boots, by the runner's number.
        backend: the backend's name.
        dial_back: accepts runners for as long as their boots have time; None if they do not dial back.
        on_timeout: gets the number of a runner whose boot has timed out, and the error.
    """

    def __init__(
        self,
        engine: EngineContext,
        loop: Loop,
        notifications: Notifications,
        host: BootOwner,
        booting: Mapping[int, Booting],
        backend: str,
        dial_back: DialBack | None,
        *,
        on_timeout: Callable[[int, errors.BootError], object],
    ) -> None:
        self._engine = engine
        self._loop = loop
        self._notifications = notifications
        self._host = host
        self._booting = booting
        self._backend = backend
        self._dial_back = dial_back
        self._on_timeout = on_timeout
        self._timeout = engine.options.boot_timeout

    def clock_of(self, runner_id: int) -> Clock:
        """Return the clock that the backend starts when it asks for this runner's node."""
        on_engine = self._loop.call_soon_threadsafe
        return Clock(on_engine, lambda: self._started(runner_id), lambda: self._queued(runner_id))

    def taken(self, boot: Booting) -> float:
        """Return the seconds since the backend asked for the node."""
        return 0.0 if boot.began is None else self._loop.time() - boot.began

    def tell(self, runner_id: int, boot: Booting) -> None:
        """Report that a boot begins, unless that was reported."""
        if not boot.is_told:
            boot.is_told = True
            self._notifications.grow_started(runner_id, self._host.count)

    def wait_to_begin(self, runner_id: int, hung: Sized) -> None:
        """Set a timer for a boot that has no thread yet. `hung`: the boots in which the backend blocks without end."""
        boot = self._booting.get(runner_id)
        if boot is None or boot.is_entered or boot.aborted or boot.ending:
            return

        def check() -> None:
            """Wait again if only a thread is missing and no boot hangs. Otherwise fail the boot."""
            if boot.has_listener and not hung:
                self.wait_to_begin(runner_id, hung)
            elif not boot.has_listener:
                text = f"the parent did not listen for runners within {self._timeout:g} s"
                self._on_timeout(runner_id, errors.BootTimeoutError(text))
            elif boot.drop():
                text = f"no thread was free within {self._timeout:g} s: the backend blocks in {len(hung)} other boots"
                self._on_timeout(runner_id, errors.BootTimeoutError(text))

        boot.timer = self._loop.call_later(self._timeout, check)

    def entered(self, runner_id: int) -> None:
        """Start the timeout of a boot that a thread has taken. It covers the scan of this machine's files."""
        boot = self._booting.get(runner_id)
        if boot is not None:
            self.tell(runner_id, boot)
            self._set_timer(runner_id, boot)

    def _started(self, runner_id: int) -> None:
        """Start the boot's timeout and its cost: the backend asks for the node now."""
        boot = self._booting.get(runner_id)
        if boot is None:
            return
        boot.began = self._loop.time()
        self._set_timer(runner_id, boot)
        if self._dial_back is not None:
            self._dial_back.extend(runner_id, self._timeout)
        self._engine.handle(events.BootStarted(runner_id))

    def _queued(self, runner_id: int) -> None:
        """Stop the boot's timeout while the backend waits for its turn."""
        boot = self._booting.get(runner_id)
        if boot is None:
            return
        boot.began = None
        if not boot.aborted:
            boot.stop_timer()
        self._engine.handle(events.BootQueued(runner_id))

    def _set_timer(self, runner_id: int, boot: Booting) -> None:
        if not (boot.aborted or boot.ending):
            boot.stop_timer()
            boot.timer = self._loop.call_later(self._timeout, lambda: self._timed_out(runner_id))

    def _timed_out(self, runner_id: int) -> None:
        refusal = None if self._dial_back is None else self._dial_back.last_refusal
        self._on_timeout(runner_id, too_slow(self._booting[runner_id], self._backend, self._timeout, refusal))


class Clock:
    """The `BootClock` of one boot. It tells the engine thread when the backend asks for the node.

    Args:
        on_engine: runs a function on the engine thread. The functions run in the order of these requests.
        started, queued: run there.
    """

    def __init__(
        self,
        on_engine: Callable[[Callable[[], object]], object],
        started: Callable[[], object],
        queued: Callable[[], object],
    ) -> None:
        self._on_engine = on_engine
        self._started = started
        self._queued = queued
        self._lock = threading.Lock()
        self._runs = False

    def started(self) -> None:
        """See `BootClock`. Does nothing if the clock runs."""
        with self._lock:
            if not self._runs:
                self._runs = True
                self._on_engine(self._started)

    def queued(self) -> None:
        """See `BootClock`. Does nothing if the clock is stopped."""
        with self._lock:
            if self._runs:
                self._runs = False
                self._on_engine(self._queued)


def too_slow(
    boot: Booting, backend: str, timeout: float, refusal: errors.RunnerAuthError | None
) -> errors.BootTimeoutError:
    """Return the error of a boot that has timed out.

    Args:
        boot: the boot.
        backend: the backend's name.
        timeout: seconds that the boot had.
        refusal: why the last connection was refused; perhaps it came from this runner.
    """
    link = boot.link
    if link is not None and link.sender is not None:
        phase, how_far = link.sender.progress
        return errors.BootTimeoutError(f"{link.name} was not ready within {timeout:g} s: {how_far}", phase)
    if link is not None:
        what, phase = ("say hello", "handshake") if link.descriptor() >= 0 else ("dial back", "connect")
        error = errors.BootTimeoutError(f"{link.name} did not {what} within {timeout:g} s", phase)
        error.__cause__ = refusal
        return error
    if boot.began is None:
        text = f"what a runner needs of this machine's files was not read within {timeout:g} s"
        return errors.BootTimeoutError(text, "sync")
    return errors.BootTimeoutError(f"the {backend} backend did not come back with a node within {timeout:g} s")
