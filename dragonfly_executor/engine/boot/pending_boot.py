"""One pending boot, as the engine and the backend's thread share it; and the interface of the host of `Boots`."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.backends.base import GivenUp, Signal
from dragonfly_executor.engine.runner_connection import RunnerHandler, RunnerLink
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol
from dragonfly_executor.util.validation import dollars

if TYPE_CHECKING:
    from dragonfly_executor.engine.options import Budget
    from dragonfly_executor.protocol import handshake
    from dragonfly_executor.transport.loop import Timer


class BootOwner(RunnerHandler, Protocol):
    """The table of runners. It gets all messages of a runner, and passes on those that concern its boot."""

    @property
    def count(self) -> int:
        """The number of runners that are up or boot."""

    def start_heartbeat(self) -> None:
        """Start the heartbeat: a runner was admitted, and expects it from now on."""

    def on_boot_succeeded(self, runner: RunnerLink) -> None:
        """Add a runner whose boot has succeeded."""


class Booting:
    """A pending boot. It belongs to the engine thread, except for `enter`.

    Attributes:
        began: when the backend began to ask for the node, in seconds of the loop's clock; None before that, and while
            the backend waits for its turn.
        aborted: why the pool aborted the boot, or None.
        ending: whether its node is being released.
        has_returned: whether the backend's `boot` has returned.
        timer: the boot's timeout.
        link: the link to the runner; None until there is a node.
        given_up: tells the backend that the boot was aborted.
        dialed_in: tells the backend that the runner has dialed back.
        hello: the runner's HELLO; None before it.
    """

    def __init__(self) -> None:
        self.began: float | None = None
        self.aborted: str | None = None
        self.ending = False
        self.has_listener = False
        """True if the listener is open for its runner, or the runner need not dial back."""
        self.is_told = False
        """True once the begin of the boot was reported."""
        self.has_returned = False
        self.timer: Timer | None = None
        self.link: RunnerLink | None = None
        self.given_up = GivenUp()
        self.dialed_in = Signal()
        self.hello: handshake.Hello | None = None
        self._lock = threading.Lock()
        self._is_entered = False
        self._is_dropped = False

    def enter(self) -> bool:
        """Begin the boot, on the backend's thread. Returns False if the boot was dropped before."""
        with self._lock:
            self._is_entered = not self._is_dropped
            return self._is_entered

    def drop(self) -> bool:
        """Prevent the boot from beginning. Returns False if it has begun."""
        with self._lock:
            self._is_dropped = not self._is_entered
            return self._is_dropped

    @property
    def is_entered(self) -> bool:
        """True if the boot has begun."""
        return self._is_entered

    @property
    def hangs(self) -> bool:
        """True if the backend's `boot` was called and has not returned."""
        return self._is_entered and not self.has_returned

    def stop_timer(self) -> None:
        """Cancel the boot's timeout."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Syncing:
    """A receiver of the sync events of one runner, during its boot and later.

    Args:
        runner: the runner.
        synced: called when the runner has all files.
        broke: called when the sync has failed.
    """

    def __init__(
        self,
        runner: RunnerLink,
        synced: Callable[[RunnerLink], object],
        broke: Callable[[RunnerLink, Exception], object],
    ) -> None:
        self._runner = runner
        self._synced = synced
        self._broke = broke

    def synced(self) -> None:
        """See `sync.sender.RunnerHandler`."""
        self._runner.held.clear()
        self._synced(self._runner)

    def sync_failed(self, phase: str, text: str) -> None:
        """Report a failed sync. The calls that the runner held back have not started, and will not."""
        runner = self._runner
        runner.never_left |= runner.held
        self._broke(runner, errors.BootError(f"{runner.name}: {text}", phase))


def price_of(runner: RunnerLink, budget: Budget | None, warn: Callable[[str], object]) -> float | None:
    """Return the runner's own price in US dollars per second; None if the price of the pool's other runners holds."""
    if budget is not None and budget.price is not None:
        # A price that the user gave holds for all runners.
        return None
    try:
        return dollars(runner.node.price, f"the price of {runner.name}")
    except (TypeError, ValueError) as error:
        warn(f"{error}; it counts as the pool's others do")
        return None
