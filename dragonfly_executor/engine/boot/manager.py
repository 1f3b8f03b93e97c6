"""The pending boots of a pool: from the request for a runner to a runner that is up, or to an error.

Everything runs on the engine thread, except for the backend's `boot`, which blocks: it runs on the boot workers.
"""

from __future__ import annotations

from dragonfly_executor import errors
from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.core import events
from dragonfly_executor.engine.boot.deadlines import BootTimes
from dragonfly_executor.engine.boot.node_booter import SHORTAGES, NodeBooter, as_boot_error
from dragonfly_executor.engine.boot.node_watcher import NodeWatcher
from dragonfly_executor.engine.boot.pending_boot import Booting, Syncing, price_of
from dragonfly_executor.engine.runner_connection import RunnerLink
from dragonfly_executor.protocol import handshake
from dragonfly_executor.protocol.parent import Parent
from dragonfly_executor.util.backoff import delay, prepare
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Backend, Node
    from dragonfly_executor.engine.boot.dialback import DialBack
    from dragonfly_executor.engine.boot.node_release import Releaser
    from dragonfly_executor.engine.boot.pending_boot import BootOwner
    from dragonfly_executor.engine.boot.session_setup import SessionSetup
    from dragonfly_executor.engine.context import EngineContext
    from dragonfly_executor.engine.notifications import Notifications
    from dragonfly_executor.engine.worker_threads import WorkerThreadGroups
    from dragonfly_executor.sync import FileSnapshot
    from dragonfly_executor.transport.loop import Loop


GIVE_UP = 5.0
"""Seconds that a backend has to return from an aborted boot. After that the pool does not wait for it.

Backends promise 2 s.
"""
HUNG_JOIN = 0.5
"""Seconds that the end of a pool waits for the boot threads, if one of them is known to hang."""
DOOR = 1
"""Number of threads beyond those of the boots: one opens the listener for dial-back."""


class Boots:
    """The pending boots of a pool, by the runner's number.

    Args:
        engine: gets the outcome of each boot as events.
        backend, loop, worker_groups, notifications: the pool's.
        session_setup: builds the WELCOME and SETUP frames.
        file_snapshot: the files that remote runners need; None if the runners see this machine's files.
        releaser: releases the node of a boot that failed.
        host: takes the runners that are up.
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
        releaser: Releaser,
        host: BootOwner,
    ) -> None:
        self._engine = engine
        self._options = engine.options
        self._backend = backend
        self._loop = loop
        self._notifications = notifications
        self._session_setup = session_setup
        self._file_snapshot = file_snapshot
        self._workers = worker_groups.make("boots", backend.max_concurrent_boots + DOOR)
        self._releaser = releaser
        self._host = host
        self._booting: dict[int, Booting] = {}
        self._failures = 0
        self._hung: set[int] = set()
        """Boots that are over, and in which the backend still blocks."""
        prepare(self._options.boot_wait)
        self._node_booter = NodeBooter(
            backend,
            file_snapshot,
            loop,
            enter=self._enter,
            on_node=self._node_arrived,
            on_error=self._came_to_nothing,
            stop=releaser.stop,
        )
        self._dial_back = self._make_dial_back() if backend.dials_back else None
        self._times = BootTimes(
            engine, loop, notifications, host, self._booting, backend.name, self._dial_back, on_timeout=self._end_boot
        )
        if file_snapshot is not None:
            # A group of its own, because files are scanned while backends block.
            self._readers = worker_groups.make("sync", 1)
            # Now, and not when a runner is there: if the import failed then, the engine would fail.
            from dragonfly_executor.sync import Sender

            self._make_sender = Sender
        self._node_watcher: NodeWatcher | None = None
        if self._dial_back is not None:
            self._node_watcher = NodeWatcher(
                loop, worker_groups, is_waited_for=self._is_waited_for, on_end=self._node_ended
            )

    def _make_dial_back(self) -> DialBack:
        # It loads ssl, which no other backend needs.
        from dragonfly_executor.engine.boot.dialback import DialBack

        return DialBack(self._backend, self._loop, self._workers, self)

    def __contains__(self, runner_id: int) -> bool:
        return runner_id in self._booting

    def __len__(self) -> int:
        return len(self._booting)

    def links(self) -> list[RunnerLink]:
        """Return the links of the booting runners that have a node."""
        return [boot.link for boot in self._booting.values() if boot.link is not None]

    def syncing(self) -> list[RunnerLink]:
        """Return the links of the booting runners that were admitted and receive files."""
        return [boot.link for boot in self._booting.values() if boot.link is not None and boot.hello is not None]

    def descriptors(self) -> list[int]:
        """Return the descriptors that a forked child must close."""
        found = [fd for link in self.links() for fd in link.descriptors()]
        return found if self._dial_back is None else [*found, *self._dial_back.descriptors()]

    # -- to a node ----------------------------------------------------------------------------------------------------

    def boot(self, runner_id: int) -> None:
        """Boot a runner. The core gets the outcome as an event."""
        boot = self._booting[runner_id] = Booting()
        timeout = self._options.boot_timeout
        parent = Parent.new(self._options.name, runner_id, self._backend.name)
        request = BootRequest(runner_id, parent, timeout, boot.given_up, self._times.clock_of(runner_id))
        self._times.wait_to_begin(runner_id, self._hung)
        if self._dial_back is None:
            self.boot_is_expected(request)
        else:
            self._dial_back.expect(request._replace(dialed_in=boot.dialed_in))

    def boot_is_expected(self, request: BootRequest) -> None:
        """Start the backend's boot. A runner that has to dial back may do so from now on."""
        boot = self._booting.get(request.runner_id)
        if boot is not None:
            boot.has_listener = True
        self._workers.run(self._node_booter.boot, request)

    def boot_cannot_be_expected(self, runner_id: int, error: errors.BootError) -> None:
        """Fail this boot, because listening failed."""
        self._end_boot(runner_id, error)

    def runner_dialed_in(self, runner_id: int) -> None:
        """Use the connection of a runner that has authenticated. Its HELLO is still to come."""
        boot = self._booting.get(runner_id)
        if boot is not None and boot.link is not None:
            self._let_speak(boot.link)
        elif boot is not None:
            # The runner was faster than its backend, which has not returned the node yet.
            boot.dialed_in.set()

    def _let_speak(self, runner: RunnerLink) -> None:
        sock = None if self._dial_back is None else self._dial_back.take(runner.id)
        if sock is not None:
            runner.attach(sock)

    def warn(self, text: str) -> None:
        """Log a warning."""
        self._notifications.warn(text)

    def _enter(self, runner_id: int) -> bool:
        """Begin the boot on the boot workers. Returns False if the pool aborted it before a thread was free."""
        boot = self._booting.get(runner_id)
        if boot is None or not boot.enter():
            return False
        self._loop.call_soon_threadsafe(lambda: self._times.entered(runner_id))
        return True

    def _node_arrived(self, runner_id: int, node: Node) -> None:
        boot = self._booting.get(runner_id)
        if boot is None:
            # The node came after the boot was over, so it is not needed.
            self._releaser.stop(node)
            self._returned_late(runner_id)
            return
        boot.has_returned = True
        codec, outputs, max_payload = self._engine.codec, self._engine.outputs, self._options.max_payload
        try:
            boot.link = RunnerLink(runner_id, node, self._loop, codec, self._host, outputs, max_payload)
        except SHORTAGES as error:
            self._releaser.stop(node)
            self._end_boot(runner_id, as_boot_error(error, "connect"))
            return
        self._let_speak(boot.link)
        if self._node_watcher is not None:
            self._node_watcher.watch(boot.link)
        if boot.aborted:
            self._end_boot(runner_id)

    def _came_to_nothing(self, runner_id: int, error: errors.BootError) -> None:
        """End a boot in which the backend raised an error."""
        boot = self._booting.get(runner_id)
        if boot is None:
            self._returned_late(runner_id)
            return
        boot.has_returned = True
        self._end_boot(runner_id, error)

    def _returned_late(self, runner_id: int) -> None:
        """Record that the backend has returned from a boot that was over."""
        self._hung.discard(runner_id)
        if not self._hung:
            self._workers.join_timeout = None
        self._engine.handle(events.BootReturned(runner_id))

    def _node_ended(self, runner: RunnerLink, error: errors.BootError) -> None:
        """Fail the boot of a runner whose node has ended before the runner dialed back."""
        error.__cause__ = error.__cause__ or (None if self._dial_back is None else self._dial_back.last_refusal)
        self._end_boot(runner.id, as_boot_error(error, "connect"))

    def _is_waited_for(self, runner: RunnerLink) -> bool:
        """Return True if the runner is booting and has not dialed back."""
        boot = self._booting.get(runner.id)
        return boot is not None and not boot.ending and boot.link is runner and runner.descriptor() < 0

    # -- to a runner that is up ---------------------------------------------------------------------------------------

    def said_hello(self, runner: RunnerLink, hello: handshake.Hello) -> None:
        """Admit a runner, unless its boot is over. If it does not see the parent's files, send them first."""
        boot = self._booting.get(runner.id)
        if boot is None or boot.ending:
            return
        if runner.node.shares_disk:
            self._session_setup.admit(runner, hello)
            self._came_up(runner)
        elif self._file_snapshot is None:
            text = f"nodes of the {self._backend.name} backend do not share this machine's disk, and it has no `sync`"
            self._end_boot(runner.id, errors.BootError(text, "sync"))
        else:
            self._session_setup.admit(runner, hello)
            boot.hello = hello
            run, on_engine = self._readers.run, self._loop.call_soon_threadsafe
            hears = Syncing(runner, self.is_synced, self._host.runner_broke)
            runner.sender = self._make_sender(self._file_snapshot, runner, hears, run, on_engine)
            self._host.start_heartbeat()
            runner.sender.update()

    def is_synced(self, runner: RunnerLink) -> None:
        """Complete the boot of a runner that has all files. A runner that is up already got a later update."""
        boot = self._booting.get(runner.id)
        if boot is not None and not boot.ending:
            self._came_up(runner)

    def _came_up(self, runner: RunnerLink) -> None:
        """Complete a boot that has succeeded."""
        boot = self._booting[runner.id]
        boot.stop_timer()
        self._host.on_boot_succeeded(runner)
        # Last, because until now no other table has the runner.
        del self._booting[runner.id]
        runner.ping()
        self._failures = 0
        self._notifications.grow_ended(runner.id, self._host.count, None, self._times.taken(boot), runner.node.facts)
        self._host.start_heartbeat()
        price = price_of(runner, self._options.budget, self._notifications.warn)
        self._engine.handle(events.BootSucceeded(runner.id, runner.slots, price))

    # -- to an error --------------------------------------------------------------------------------------------------

    def abort(self, runner_id: int, reason: str) -> None:
        """Abort a boot whose runner is not needed any more. The core gets `RunnerGone` when its node is released."""
        boot = self._booting[runner_id]
        boot.aborted = reason
        boot.given_up.set()
        if boot.link is not None:
            self._end_boot(runner_id)
        elif boot.drop():
            # Not at once, because the core is handling another event.
            self._loop.call_soon(lambda: self._end_boot(runner_id))
        elif boot.timer is None or boot.timer.when > self._loop.time() + GIVE_UP:
            boot.stop_timer()
            boot.timer = self._loop.call_later(GIVE_UP, lambda: self._end_boot(runner_id))

    def broke(self, runner: RunnerLink, error: Exception) -> None:
        """Fail the boot of a runner whose link has ended, or must end."""
        sender = runner.sender
        phase = "handshake" if sender is None else sender.progress[0]
        self._end_boot(runner.id, as_boot_error(error, phase))

    def _end_boot(self, runner_id: int, error: errors.BootError | None = None) -> None:
        """End a boot that has failed or was aborted: release its node, once, and then report the outcome."""
        boot = self._booting.get(runner_id)
        if boot is None or boot.ending:
            return
        boot.ending = True
        boot.given_up.set()
        boot.stop_timer()
        if self._dial_back is not None:
            self._dial_back.forget(runner_id)
        if boot.link is None:
            self._boot_ended(runner_id, error)
            return
        if error is not None:
            error.output = error.output or _output_of(boot.link.node)
        self._releaser.release(boot.link, lambda: self._boot_ended(runner_id, error))

    def _boot_ended(self, runner_id: int, error: errors.BootError | None) -> None:
        boot = self._booting.pop(runner_id)
        hangs = boot.hangs
        if hangs:
            self._hung.add(runner_id)
            self._workers.join_timeout = HUNG_JOIN
        if boot.aborted or error is None:
            if boot.is_told:
                # A boot that never began is not reported.
                self._notifications.growth_given_up(runner_id, self._host.count, boot.aborted or "")
            self._engine.handle(events.RunnerGone(runner_id, hangs))
            return
        if boot.link is not None:
            # Some nodes can say how they ended only after they are released.
            error.output = error.output or _output_of(boot.link.node)
        self._failures += 1
        self._times.tell(runner_id, boot)
        self._notifications.grow_ended(runner_id, self._host.count, error, self._times.taken(boot))
        retry_in = delay(self._options.boot_wait, self._failures)
        self._engine.handle(events.BootFailed(runner_id, error, retry_in, hangs))

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Accept no more runners, and release nodes that were not taken yet or that come later."""
        if self._dial_back is not None:
            self._dial_back.close()
        self._node_booter.close()


def _output_of(node: Node) -> str:
    """Return the last output of a node, or "" if its `output` raises. The node's class may be third-party code."""
    try:
        return node.output()
    except Exception:
        return ""
