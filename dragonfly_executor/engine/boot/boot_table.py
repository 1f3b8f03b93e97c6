"""The table of a pool's pending boots. The path of one boot is in `pending_boot`. Both run on the engine thread."""

from __future__ import annotations

from dragonfly_executor import errors
from dragonfly_executor.core import events
from dragonfly_executor.core.capacity import Capacity, Requirements
from dragonfly_executor.engine.boot.pending_boot import PendingBoot
from dragonfly_executor.util.backoff import delay, prepare
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol
from dragonfly_executor.util.validation import dollars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragonfly_executor.backends.base import Node
    from dragonfly_executor.engine.boot.boot_helpers import BootHelpers
    from dragonfly_executor.engine.context import EngineContext
    from dragonfly_executor.engine.notifications import Notifications
    from dragonfly_executor.engine.runner_connection import RunnerLink


class RunnerOwner(Protocol):
    """The table of runners."""

    @property
    def count(self) -> int:
        """The number of runners that are up or boot."""
        ...

    def start_heartbeat(self) -> None:
        """Start the heartbeat: a runner was admitted, and expects it from now on."""

    def on_boot_succeeded(self, runner: RunnerLink) -> None:
        """Add a runner whose boot has succeeded."""


class BootTable:
    """The pending boots of a pool, by the runner's number: the `BootOwner` of each.

    Args:
        engine: gets the outcome of each boot as events.
        notifications: reports boots.
        helpers: the helpers of each tier's boots.
        owner: takes the runners that are up.
    """

    def __init__(
        self,
        engine: EngineContext,
        *,
        notifications: Notifications,
        helpers: Sequence[BootHelpers],
        owner: RunnerOwner,
    ) -> None:
        self._engine = engine
        self._options = engine.options
        self._owner = owner
        self._notifications = notifications
        self._pending: dict[int, PendingBoot] = {}
        self._helpers = helpers
        prepare(engine.options.boot_wait)

    def __contains__(self, runner_id: int) -> bool:
        return runner_id in self._pending

    def __len__(self) -> int:
        return len(self._pending)

    def links(self) -> list[RunnerLink]:
        """Return the links of the booting runners that have a node."""
        return [boot.link for boot in self._pending.values() if boot.link is not None]

    def syncing(self) -> list[RunnerLink]:
        """Return the links of the booting runners that were admitted and receive files."""
        return [boot.link for boot in self._pending.values() if boot.link is not None and boot.is_syncing]

    def waiting_nodes(self) -> list[Node]:
        """Return the nodes that wait in a queue of their platform, the oldest boot first."""
        nodes = [boot.waiting_node for boot in self._pending.values()]
        return [node for node in nodes if node is not None]

    def descriptors(self) -> list[int]:
        """Return the descriptors that a forked child must close."""
        found = [fd for boot in self._pending.values() for fd in boot.descriptors()]
        return [*found, *(fd for helpers in self._helpers for fd in helpers.descriptors())]

    # -- one boot -----------------------------------------------------------------------------------------------------

    def boot(self, runner_id: int, requires: Requirements | None, tier: int) -> None:
        """Boot a runner of this tier that fits these requirements. The core gets the outcome as an event."""
        boot = self._pending[runner_id] = PendingBoot(runner_id, requires, self._helpers[tier], self)
        boot.start()

    def abort(self, runner_id: int, reason: str) -> None:
        """Abort a boot whose runner is not needed any more. The core gets `RunnerGone` when its node is released."""
        self._pending[runner_id].abort(reason)

    def link_broke(self, runner: RunnerLink, error: Exception) -> None:
        """Fail the boot of a runner whose link has ended, or must end."""
        self._pending[runner.id].link_broke(runner, error)

    # -- its outcome: see `BootOwner` -------------------------------------------------------------------------------

    def boot_began(self, boot: PendingBoot) -> None:
        """Report that a boot begins, unless that was reported."""
        if not boot.is_reported:
            boot.is_reported = True
            self._notifications.grow_started(boot.id, boot.helpers.tier.name, self._owner.count)

    def sync_began(self) -> None:
        """Start the heartbeat, which the runner expects while it gets its files."""
        self._owner.start_heartbeat()

    def boot_waits(self, boot: PendingBoot, progress: str) -> None:
        """Report the progress of a boot that waits in a queue."""
        self._notifications.boot_waits(boot.id, boot.helpers.tier.name, self._owner.count, progress)

    def boot_succeeded(self, boot: PendingBoot, runner: RunnerLink) -> None:
        """Move the runner to the table of runners that are up, and tell the core."""
        self._owner.on_boot_succeeded(runner)
        # Last, because until now no other table has the runner.
        del self._pending[boot.id]
        runner.ping()
        boot.helpers.failures = 0
        self._notifications.runner_up(
            boot.id, runner.backend, self._owner.count, boot.seconds, runner.node.facts, boot.capacity
        )
        self._owner.start_heartbeat()
        self._engine.handle(events.BootSucceeded(boot.id, runner.slots, self._price_of(boot, runner), boot.capacity))
        # The first calls are on their way before this waits.
        runner.flush()
        _load_errors()
        boot.tell_lifetime(runner.node)

    def _price_of(self, boot: PendingBoot, runner: RunnerLink) -> float | None:
        """Return the runner's own price in US dollars per second; None if that of the tier's other runners holds."""
        if boot.helpers.tier.has_fixed_price:
            return None
        try:
            return dollars(runner.node.price, f"the price of {runner.name}")
        except (TypeError, ValueError) as error:
            others = f"the price of other runners of the {runner.backend} backend counts for it"
            self._notifications.warn(f"{error}; {others}")
            return None

    def serves_others(self, boot: PendingBoot, capacity: Capacity, error: errors.BootError) -> bool:
        """Have a runner that is too small for the calls it was booted for serve other calls that wait, if any fit."""
        kind = self._engine.ask(lambda machine: machine.use_of(capacity))
        if kind is None:
            return False
        boot.helpers.failures += 1
        self._notifications.warn(f"{error.args[0]}. It runs other calls, which fit there")
        retry_in = delay(self._options.boot_wait, boot.helpers.failures)
        self._engine.handle(events.BootReassigned(boot.id, kind, error, retry_in))
        return True

    def boot_ended(self, boot: PendingBoot, error: errors.BootError | None) -> None:
        """Tell the core that a boot has failed, or was aborted."""
        del self._pending[boot.id]
        helpers, backend = boot.helpers, boot.helpers.tier.name
        if boot.hangs:
            helpers.boot_hangs(boot.id)
        if boot.abort_reason or error is None:
            if boot.is_reported:
                # A boot that never began is not reported.
                self._notifications.growth_given_up(boot.id, backend, self._owner.count, boot.abort_reason or "")
            self._engine.handle(events.RunnerGone(boot.id, boot.hangs))
            return
        helpers.failures += not boot.shares_failure
        self.boot_began(boot)
        self._notifications.boot_failed(boot.id, backend, self._owner.count, error)
        retry_in = delay(self._options.boot_wait, max(1, helpers.failures))
        self._engine.handle(events.BootFailed(boot.id, error, retry_in, boot.hangs, boot.shares_failure))

    def backend_returned(self, boot: PendingBoot) -> None:
        """Record that the backend has returned from a boot that was over."""
        boot.helpers.boot_returned(boot.id)
        self._engine.handle(events.BootReturned(boot.id))

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Accept no more runners, and release nodes that were not taken yet or that come later."""
        for boot in self._pending.values():
            boot.close()
        for helpers in self._helpers:
            helpers.close()


def _load_errors() -> None:
    """Load all errors before a result is read: from then on, each call can fail with the error that belongs to it.

    A boot worker loads them already. Only the first runner of a process comes so early that this waits.

    Raises:
        StartError: there is no memory or no descriptor for them. The pool fails with it.
    """
    try:
        errors.load()
    except errors.StartError as shortage:
        raise errors.StartError(f"{shortage}. Calls on its first runner may have begun") from shortage
