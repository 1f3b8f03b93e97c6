"""One boot, from the request for a node to a runner that is up, or to an error.

`PendingBoot` is the whole path. Its methods stand in the order of the path; each hands its work to a helper, and the
helper calls the next method. All of them run on the engine thread.
"""

from __future__ import annotations

from dragonfly_executor import errors
from dragonfly_executor.backends.base import BootRequest, CancelToken, Signal
from dragonfly_executor.core import events
from dragonfly_executor.core.capacity import Capacity, Requirements
from dragonfly_executor.engine import first_runner
from dragonfly_executor.engine.boot import boot_errors
from dragonfly_executor.engine.boot.node_booter import BootJob, PendingBootClock
from dragonfly_executor.engine.boot.runner_capacity import capacity_of
from dragonfly_executor.protocol.parent import Parent
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.backends.base import Node
    from dragonfly_executor.engine.boot.boot_helpers import BootHelpers
    from dragonfly_executor.engine.runner_connection import RunnerLink
    from dragonfly_executor.protocol import handshake
    from dragonfly_executor.transport.loop import Timer
    from dragonfly_executor.transport.tls_socket import TlsSocket

INFINITY = float("inf")
PROGRESS_LOG_INTERVAL = 600.0
"""Minimum seconds between two progress reports of a boot that waits in a queue."""
GIVE_UP = 5.0
"""Seconds that a backend has to return from an aborted boot. After that the pool does not wait for it.

Backends promise 2 s.
"""


class BootOwner(Protocol):
    """The table of pending boots, which gets the outcome of each."""

    def boot_began(self, boot: PendingBoot) -> None:
        """Report that a boot begins."""

    def sync_began(self) -> None:
        """Start the heartbeat: a runner was admitted, and expects it while it gets its files."""

    def boot_waits(self, boot: PendingBoot, progress: str) -> None:
        """Report the progress of a boot that waits in a queue."""

    def boot_succeeded(self, boot: PendingBoot, runner: RunnerLink) -> None:
        """Move the runner to the table of runners that are up."""

    def serves_others(self, boot: PendingBoot, capacity: Capacity, error: errors.BootError) -> bool:
        """Have a runner that is too small for the calls it was booted for serve other calls that wait, if any fit."""
        ...

    def boot_ended(self, boot: PendingBoot, error: errors.BootError | None) -> None:
        """Report a failed boot, or one that was aborted: its node is released."""

    def backend_returned(self, boot: PendingBoot) -> None:
        """Record that the backend has returned from a boot that was over."""


class PendingBoot:
    """A pending boot. It belongs to the engine thread.

    Attributes:
        id: the runner's number.
        helpers: the helpers of its tier's boots.
        link: the link to the runner; None until there is a node.
        abort_reason: why the pool aborted the boot, or None.
        is_reported: whether the begin of the boot was reported.
        shares_failure: whether another boot of the same request has failed with the same error.
        is_syncing: whether the runner was admitted and receives files.
        capacity: what the runner has; None until it has said HELLO, and if it is unknown.
    """

    def __init__(self, runner_id: int, requires: Requirements | None, helpers: BootHelpers, owner: BootOwner) -> None:
        self.id = runner_id
        self._requires = requires
        self.link: RunnerLink | None = None
        self.abort_reason: str | None = None
        self.is_reported = False
        self.shares_failure = False
        self.is_syncing = False
        self.capacity: Capacity | None = None
        self.helpers = helpers
        self._owner = owner
        self._loop = helpers.loop
        self._timeout = helpers.tier.boot_timeout
        self._timer: Timer | None = None
        self._asked_at: float | None = None
        """The time of the request for the node. None before that, and while the backend waits for its turn."""
        self._clock = PendingBootClock(self._loop.call_soon_threadsafe, self._clock_changed, self._end_known)
        self._progress_due = -INFINITY
        self._job = BootJob(helpers.node_booter, self)
        self._may_begin = False
        """True once the listener is open for the runner, or if the runner need not dial back."""
        self._backend_has_returned = False
        self._is_releasing = False
        self._is_over = False
        """True once the outcome was reported."""
        self._given_up = CancelToken()
        self._dialed_in = Signal()
        self._connection: TlsSocket | None = None
        """The connection of a runner that has dialed back before the backend returned its node."""

    @property
    def hangs(self) -> bool:
        """True if the backend's `boot` was called and has not returned."""
        return self._job.has_begun and not self._backend_has_returned

    @property
    def seconds(self) -> float:
        """The seconds since the backend asked for the node."""
        return 0.0 if self._asked_at is None else self._loop.time() - self._asked_at

    def descriptors(self) -> list[int]:
        """Return the descriptors that a forked child must close."""
        waiting = [] if self._connection is None else [self._connection.fileno()]
        return waiting if self.link is None else [*waiting, *self.link.descriptors()]

    # -- to a node ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the listener if the runner dials back, then ask the backend for a node."""
        helpers = self.helpers
        parent = Parent.new(helpers.engine.options.name, self.id, helpers.backend.name)
        clock, requires = self._clock, self._requires
        request = BootRequest(self.id, parent, self._timeout, self._given_up, clock, requires=requires)
        self._wait_for_thread()
        if helpers.dial_back is None:
            self.listener_opened(request)
        else:
            helpers.dial_back.expect(request._replace(dialed_in=self._dialed_in), self)

    def listener_opened(self, request: BootRequest) -> None:
        """Have a boot worker call the backend. A runner that has to dial back may do so from now on."""
        self._may_begin = True
        self.helpers.batches.add(self._job, request)

    def listener_failed(self, error: errors.BootError) -> None:
        """Fail, because listening failed."""
        self._end(error)

    def thread_started(self) -> None:
        """Report the boot, and start its timeout, which covers the scan of this machine's files."""
        if not self._is_over:
            self._owner.boot_began(self)
            self._start_timeout()

    def node_arrived(self, node: Node) -> None:
        """Open a link to the node's runner. If the boot is over, release the node."""
        helpers = self.helpers
        if self._is_over:
            helpers.releaser.stop(node)
            self._owner.backend_returned(self)
            return
        self._backend_has_returned = True
        try:
            self.link = first_runner.RunnerLink(
                self.id, helpers.tier.name, node, self._loop, helpers.engine, helpers.handler, self.said_hello
            )
        except boot_errors.SHORTAGES as error:
            helpers.releaser.stop(node)
            self._end(boot_errors.as_boot_error(error, "connect"))
            return
        self._use_connection()
        if helpers.node_watcher is not None:
            helpers.node_watcher.watch(node, self)
        if self.abort_reason:
            self._end()

    def backend_raised(self, error: errors.BootError, *, is_shared: bool) -> None:
        """Fail, because the backend raised an error. `is_shared`: another boot of the same request reports it too."""
        if self._is_over:
            self._owner.backend_returned(self)
            return
        self._backend_has_returned = True
        self.shares_failure = is_shared
        self._end(error)

    # -- to a runner that is up ---------------------------------------------------------------------------------------

    def runner_joined(self, connection: TlsSocket) -> None:
        """Use the connection of a runner that has authenticated. Its HELLO is still to come."""
        self._connection = connection
        # The node runs, even if its backend has yet to see that.
        self._clock.started()
        # The runner may dial back before its backend has returned the node.
        self._dialed_in.set()
        if self.link is not None:
            self._use_connection()

    def _use_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self.link is not None:
            self.link.attach(connection)

    @property
    def awaits_runner(self) -> bool:
        """True if there is a node, and its runner has not dialed back."""
        is_pending = not (self._is_over or self._is_releasing)
        return is_pending and self.link is not None and self.link.descriptor() < 0

    @property
    def waiting_node(self) -> Node | None:
        """The node, if it waits in a queue of its platform."""
        return self.link.node if self.awaits_runner and self.link is not None and self._asked_at is None else None

    def node_waits(self, progress: str) -> None:
        """Report the node's progress in its queue: at once, then once in `PROGRESS_LOG_INTERVAL` seconds at most."""
        now = self._loop.time()
        if now >= self._progress_due and self.waiting_node is not None:
            self._progress_due = now + PROGRESS_LOG_INTERVAL
            self._owner.boot_waits(self, progress)

    def node_ended(self, error: errors.BootError) -> None:
        """Fail, because the node has ended before its runner dialed back."""
        error.__cause__ = error.__cause__ or self._last_refusal()
        self._end(boot_errors.as_boot_error(error, "connect"))

    def said_hello(self, runner: RunnerLink, hello: handshake.Hello) -> None:
        """Admit the runner, unless the boot is over. If it does not see the parent's files, send them first."""
        helpers = self.helpers
        if self._is_over or self._is_releasing:
            return
        self.capacity = capacity_of(runner, helpers.backend, helpers.warn)
        if self._requires is not None and self.capacity is not None and not self._requires.fit(self.capacity):
            error = boot_errors.too_small(runner.name, self._requires, self.capacity)
            if not self._owner.serves_others(self, self.capacity, error):
                self._end(error)
            # The pool may have aborted the boot meanwhile.
            if self._is_over or self._is_releasing:
                return
        if runner.node.shares_disk:
            helpers.session_setup.admit(runner, hello)
            self._came_up(runner)
        elif helpers.file_sync is None:
            name = helpers.backend.name
            text = f"nodes of the {name} backend do not share this machine's disk, and it has no `sync`"
            self._end(errors.BootError(text, "sync"))
        else:
            helpers.session_setup.admit(runner, hello)
            self.is_syncing = True
            sender = helpers.file_sync.start(runner, lambda: self._synced(runner))
            self._owner.sync_began()
            sender.update()

    def _synced(self, runner: RunnerLink) -> None:
        """Succeed, because the runner has all files. A runner that is up already got a later update."""
        if not (self._is_over or self._is_releasing):
            self._came_up(runner)

    def _came_up(self, runner: RunnerLink) -> None:
        self._stop_timer()
        self._is_over = True
        self._owner.boot_succeeded(self, runner)

    # -- to an error --------------------------------------------------------------------------------------------------

    def abort(self, reason: str) -> None:
        """Abort the boot, because its runner is not needed any more."""
        self.abort_reason = reason
        self._given_up.set()
        if self.link is not None:
            self._end()
        elif self._job.cancel():
            # Not at once, because the core is handling another event.
            self._loop.call_soon(self._end)
        elif self._timer is None or self._timer.when > self._loop.time() + GIVE_UP:
            self._set_timer(GIVE_UP, self._end)

    def link_broke(self, runner: RunnerLink, error: Exception) -> None:
        """Fail, because the link has ended, or must end."""
        phase, _ = runner.file_updates.progress or ("handshake", "")
        self._end(boot_errors.as_boot_error(error, phase))

    def _end(self, error: errors.BootError | None = None) -> None:
        """End a boot that has failed or was aborted: release its node, once, and then report the outcome."""
        helpers = self.helpers
        if self._is_over or self._is_releasing:
            return
        self._is_releasing = True
        self._job.cancel()
        self._given_up.set()
        self._stop_timer()
        if helpers.dial_back is not None:
            helpers.dial_back.forget(self.id)
        self.close()
        if self.link is None:
            self._report_end(error)
            return
        if error is not None:
            error.output = error.output or boot_errors.output_of(self.link.node)
        helpers.releaser.release(self.link, lambda: self._report_end(error))

    def _report_end(self, error: errors.BootError | None) -> None:
        self._is_over = True
        if error is not None and self.link is not None and not self.abort_reason:
            # Some nodes can say how they ended only after they are released.
            error.output = error.output or boot_errors.output_of(self.link.node)
        self._owner.boot_ended(self, error)

    def close(self) -> None:
        """Close a connection that no link uses."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- time ---------------------------------------------------------------------------------------------------------

    def _wait_for_thread(self) -> None:
        """Limit the time until a boot worker takes the boot."""
        if not (self._job.has_begun or self.abort_reason or self._is_releasing):
            self._set_timer(self._timeout, self._is_without_thread)

    def _is_without_thread(self) -> None:
        """Wait again if only a thread is missing and no boot hangs. Otherwise fail."""
        hung = len(self.helpers.hung)
        if not self._may_begin:
            self._end(boot_errors.no_listener(self._timeout))
        elif not hung:
            self._wait_for_thread()
        elif self._job.cancel():
            self._end(boot_errors.no_thread(self._timeout, hung))

    def _clock_changed(self, runs: bool) -> None:
        """Start the boot's timeout and its cost when the backend asks for the node; stop both while it queues."""
        helpers = self.helpers
        if self._is_over:
            return
        if not runs:
            self._asked_at = None
            if not self.abort_reason:
                self._stop_timer()
            if helpers.dial_back is not None:
                # A runner may dial back before its backend sees that the queue is over.
                helpers.dial_back.extend(self.id, INFINITY)
            helpers.engine.handle(events.BootQueued(self.id))
            return
        self._asked_at = self._loop.time()
        self._start_timeout()
        if helpers.dial_back is not None:
            helpers.dial_back.extend(self.id, self._timeout)
        helpers.engine.handle(events.BootStarted(self.id))

    def _end_known(self, seconds: float, ended_by: str) -> None:
        """Tell the core when the platform ends the node. The runner may be up by now, or gone."""
        self.helpers.engine.handle(events.RunnerEnding(self.id, self._loop.time() + seconds, ended_by))

    def tell_lifetime(self, node: Node) -> None:
        """Tell the core when the node of a runner that is up ends, if the node knows its lifetime."""
        if node.lifetime is not None:
            self._end_known(node.lifetime, node.ended_by)

    def _start_timeout(self) -> None:
        if not (self.abort_reason or self._is_releasing):
            self._set_timer(self._timeout, self._timed_out)

    def _timed_out(self) -> None:
        if self.link is not None:
            error = boot_errors.no_runner(self.link, self._timeout, self._last_refusal())
        else:
            asked = self._asked_at is not None
            error = boot_errors.no_node(self.helpers.backend.name, self._timeout, is_requested=asked)
        self._end(error)

    def _last_refusal(self) -> errors.RunnerAuthError | None:
        """Return why the last connection to the listener was refused; perhaps it came from this runner."""
        dial_back = self.helpers.dial_back
        return None if dial_back is None else dial_back.last_refusal

    def _set_timer(self, seconds: float, then: Callable[[], object]) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
