"""One boot that is under way, as the engine and the backend's thread see it; and what `Boots` knows of its host."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.backends.base import GivenUp, Signal
from dragonfly_executor.engine.runner_connection import RunnerHandler, RunnerLink
from dragonfly_executor.util.validation import dollars

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Protocol

    from dragonfly_executor.engine.options import Budget
    from dragonfly_executor.protocol import handshake
    from dragonfly_executor.transport.loop import Timer
else:
    Protocol = object


class BootOwner(RunnerHandler, Protocol):
    """Where runners belong. It hears what each says from its first word on, and passes on what concerns its boot."""

    @property
    def count(self) -> int:
        """How many runners are up or boot."""

    def beat_on(self) -> None:
        """A runner has been let in: from now on it expects heartbeats."""

    def adopt(self, runner: RunnerLink) -> None:
        """Its boot has succeeded: it is the host's from now on."""


class Booting:
    """A boot that is under way. It belongs to the engine thread, except for `enter`.

    Attributes:
        began: when the backend began to ask for the node, in seconds of the loop's clock; None if it has not, or waits
            for its turn.
        aborted: why the pool gave it up, or None.
        ending: whether it is being cleared away.
        has_returned: whether the backend has come back from its `boot`.
        timer: ends the boot when its time is over.
        link: speaks with the runner; None until there is a node.
        given_up: tells the backend that the pool does not want the runner any more.
        dialed_in: tells the backend that the runner is there.
        hello: what the runner said first; None until it did.
    """

    def __init__(self) -> None:
        self.began: float | None = None
        self.aborted: str | None = None
        self.ending = False
        self.has_door = False
        """Whether its runner has somewhere to dial, or need not dial back."""
        self.is_told = False
        """Whether whoever runs this has heard that it began."""
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
        """Begin, on the backend's thread; False if the boot was dropped before."""
        with self._lock:
            self._is_entered = not self._is_dropped
            return self._is_entered

    def drop(self) -> bool:
        """Have it never begin; False if it has begun."""
        with self._lock:
            self._is_dropped = not self._is_entered
            return self._is_dropped

    @property
    def is_entered(self) -> bool:
        """Whether it has begun."""
        return self._is_entered

    @property
    def hangs(self) -> bool:
        """Whether the backend has begun, and has not come back."""
        return self._is_entered and not self.has_returned

    def stop_timer(self) -> None:
        """Let it take any time."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Syncing:
    """Hears for one runner how its sync goes, while it boots and later.

    Args:
        runner: whose sync it is.
        synced: called when the runner has all files.
        broke: called when it never will.
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
        """It has said so itself: what it held has not started, and will not."""
        runner = self._runner
        runner.never_left |= runner.held
        self._broke(runner, errors.BootError(f"{runner.name}: {text}", phase))


def price_of(runner: RunnerLink, budget: Budget | None, warn: Callable[[str], object]) -> float | None:
    """What is known of a runner's price beyond the price of the pool's runners, in US dollars for a second."""
    if budget is not None and budget.price is not None:
        # What the user says that runners cost holds for all of them.
        return None
    try:
        return dollars(runner.node.price, f"the price of {runner.name}")
    except (TypeError, ValueError) as error:
        warn(f"{error}; it counts as the pool's others do")
        return None
