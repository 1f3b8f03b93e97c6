"""The table of a pool's pending boots. The path of one boot is in `pending_boot`. Both run on the engine thread."""

from __future__ import annotations

from dragonfly_executor.core import events
from dragonfly_executor.core.capacity import Capacity, Requirements
from dragonfly_executor.engine.boot.boot_helpers import BootHelpers
from dragonfly_executor.engine.boot.pending_boot import PendingBoot
from dragonfly_executor.engine.runner_connection import RunnerHandler
from dragonfly_executor.util.backoff import delay, prepare
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol
from dragonfly_executor.util.validation import dollars

if TYPE_CHECKING:
    from dragonfly_executor import errors
    from dragonfly_executor.backends.base import Backend, Node
    from dragonfly_executor.engine.boot.node_release import NodeReleaser
    from dragonfly_executor.engine.boot.session_setup import SessionSetup
    from dragonfly_executor.engine.context import EngineContext
    from dragonfly_executor.engine.notifications import Notifications
    from dragonfly_executor.engine.runner_connection import RunnerLink
    from dragonfly_executor.engine.worker_threads import WorkerThreadGroups
    from dragonfly_executor.sync import FileSnapshot
    from dragonfly_executor.transport.loop import Loop


HUNG_JOIN = 0.5
"""Seconds that the end of a pool waits for the boot threads, if one of them is known to hang."""


class RunnerOwner(RunnerHandler, Protocol):
    """The table of runners. It gets all messages of a runner but HELLO, and passes on those that concern its boot."""

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
        backend, loop, worker_groups, notifications: the pool's.
        session_setup: builds the WELCOME and SETUP frames.
        file_snapshot: the files that remote runners need; None if the runners see this machine's files.
        releaser: releases the node of a boot that failed.
        runners: takes the runners that are up.
    """

    def __init__(
        self,
        engine: EngineContext,
        *,
        backend: Backend,
        loop: Loop,
        worker_groups: WorkerThreadGroups,
        notifications: Notifications,
        session_setup: SessionSetup,
        file_snapshot: FileSnapshot | None,
        releaser: NodeReleaser,
        owner: RunnerOwner,
    ) -> None:
        self.hung: set[int] = set()
        self._engine = engine
        self._options = engine.options
        self._owner = owner
        self._notifications = notifications
        self._pending: dict[int, PendingBoot] = {}
        self._failures = 0
        self._helpers = BootHelpers(
            engine,
            backend,
            loop,
            worker_groups,
            session_setup=session_setup,
            file_snapshot=file_snapshot,
            releaser=releaser,
            handler=owner,
            warn=notifications.warn,
        )
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
        return [*found, *self._helpers.descriptors()]

    # -- one boot -----------------------------------------------------------------------------------------------------

    def boot(self, runner_id: int, requires: Requirements | None = None) -> None:
        """Boot a runner that meets these requirements. The core gets the outcome as an event."""
        boot = self._pending[runner_id] = PendingBoot(runner_id, requires, self._helpers, self)
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
            self._notifications.grow_started(boot.id, self._owner.count)

    def sync_began(self) -> None:
        """Start the heartbeat, which the runner expects while it gets its files."""
        self._owner.start_heartbeat()

    def boot_waits(self, boot: PendingBoot, progress: str) -> None:
        """Report the progress of a boot that waits in a queue."""
        self._notifications.boot_waits(boot.id, self._owner.count, progress)

    def boot_succeeded(self, boot: PendingBoot, runner: RunnerLink) -> None:
        """Move the runner to the table of runners that are up, and tell the core."""
        self._owner.on_boot_succeeded(runner)
        # Last, because until now no other table has the runner.
        del self._pending[boot.id]
        runner.ping()
        self._failures = 0
        self._notifications.runner_up(boot.id, self._owner.count, boot.seconds, runner.node.facts, boot.capacity)
        self._owner.start_heartbeat()
        self._engine.handle(events.BootSucceeded(boot.id, runner.slots, self._price_of(runner), boot.capacity))
        boot.tell_lifetime(runner.node)

    def _price_of(self, runner: RunnerLink) -> float | None:
        """Return the runner's own price in US dollars per second; None if that of the pool's other runners holds."""
        budget = self._options.budget
        if budget is not None and budget.price is not None:
            # A price that the user gave holds for all runners.
            return None
        try:
            return dollars(runner.node.price, f"the price of {runner.name}")
        except (TypeError, ValueError) as error:
            self._notifications.warn(f"{error}; the price of the pool's other runners counts for it")
            return None

    def serves_others(self, boot: PendingBoot, capacity: Capacity, error: errors.BootError) -> bool:
        """Have a runner that is too small for the calls it was booted for serve other calls that wait, if any fit."""
        kind = self._engine.ask(lambda machine: machine.use_of(capacity))
        if kind is None:
            return False
        self._failures += 1
        self._notifications.warn(f"{error.args[0]}. It runs other calls, which fit there")
        retry_in = delay(self._options.boot_wait, self._failures)
        self._engine.handle(events.BootReassigned(boot.id, kind, error, retry_in))
        return True

    def boot_ended(self, boot: PendingBoot, error: errors.BootError | None) -> None:
        """Tell the core that a boot has failed, or was aborted."""
        del self._pending[boot.id]
        if boot.hangs:
            self.hung.add(boot.id)
            self._helpers.workers.join_timeout = HUNG_JOIN
        if boot.abort_reason or error is None:
            if boot.is_reported:
                # A boot that never began is not reported.
                self._notifications.growth_given_up(boot.id, self._owner.count, boot.abort_reason or "")
            self._engine.handle(events.RunnerGone(boot.id, boot.hangs))
            return
        self._failures += 1
        self.boot_began(boot)
        self._notifications.boot_failed(boot.id, self._owner.count, error)
        retry_in = delay(self._options.boot_wait, self._failures)
        self._engine.handle(events.BootFailed(boot.id, error, retry_in, boot.hangs))

    def backend_returned(self, runner_id: int) -> None:
        """Record that the backend has returned from a boot that was over."""
        self.hung.discard(runner_id)
        if not self.hung:
            self._helpers.workers.join_timeout = None
        self._engine.handle(events.BootReturned(runner_id))

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Accept no more runners, and release nodes that were not taken yet or that come later."""
        for boot in self._pending.values():
            boot.close()
        self._helpers.close()
