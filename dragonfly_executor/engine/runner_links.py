"""The engine's runners, from the end of their boot until their nodes are released."""

from __future__ import annotations

from dragonfly_executor import errors
from dragonfly_executor.backends.base import Node
from dragonfly_executor.core import events
from dragonfly_executor.engine import first_runner
from dragonfly_executor.engine.boot.boot_helpers import BootHelpers
from dragonfly_executor.engine.boot.boot_table import BootTable
from dragonfly_executor.engine.boot.node_release import NodeReleaser
from dragonfly_executor.protocol.frames import Kind, encode
from dragonfly_executor.protocol.memory_bounds import MAX_WARNING
from dragonfly_executor.protocol.shared_entries import ENTRIES_AT_ONCE, pack_numbers
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.terminal_text import escape_controls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragonfly_executor.engine.boot.launched_node import LaunchedNode
    from dragonfly_executor.engine.context import EngineContext
    from dragonfly_executor.engine.notifications import Notifications
    from dragonfly_executor.engine.runner_connection import RunnerLink
    from dragonfly_executor.engine.runner_messages import RunnerMessages
    from dragonfly_executor.engine.worker_threads import WorkerThreadGroups
    from dragonfly_executor.transport.loop import Loop, Timer

RELEASES_AT_ONCE = 100
"""Maximum number of nodes that are released at the same time.

So no release waits behind boots, nor behind a few nodes that are slow to release.
"""
RELEASES_AT_EXIT = 10
"""Maximum number of release threads that are kept while runners are up: at interpreter exit none can be started."""
MAX_UNFRAMED_SILENCES = 4
"""Factor of ``dead_after``: a runner that sends bytes for that long without a whole frame is lost.

Otherwise a corrupt length swallows all later bytes, heartbeats too.
"""
EXPLAIN_TIMEOUT = 10.0
"""Seconds for a node to say why its runner was lost."""
STOP_SLACK = 4.0
"""Seconds beyond its grace after which a runner that does not stop is cut off. Its slots may use 2 s of that."""


class RunnerLinks:
    """A table of a pool's runners by number: it sends to them, monitors them and stops them.

    The runners that still boot are in its `BootTable`. Everything here belongs to the engine thread.
    """

    def __init__(
        self,
        engine: EngineContext,
        loop: Loop,
        worker_groups: WorkerThreadGroups,
        initializer: bytes,
        notifications: Notifications,
        launched: LaunchedNode | None = None,
    ) -> None:
        self._engine = engine
        self._options = engine.options
        self._loop = loop
        self._notifications = notifications
        self._up: dict[int, RunnerLink] = {}
        self._keeps_results = False
        self._stopping: dict[int, tuple[RunnerLink, Timer | None]] = {}
        self._heartbeat: Timer | None = None
        self._heartbeat_due = 0.0
        check = engine.options.idle_check
        self.idle_check = b"" if check is None else b"".join(engine.codec.encode_call(check, (), {}))
        """The encoded call of the user's idle check."""
        self._workers = worker_groups.make("release", RELEASES_AT_ONCE)
        self._releaser = NodeReleaser(self._workers, loop, notifications)
        # Also for tiers that may never boot: at interpreter exit no thread can be started.
        helpers = [
            BootHelpers(
                engine,
                tier,
                loop,
                worker_groups,
                initializer=initializer,
                releaser=self._releaser,
                handler=self,
                warn=notifications.warn,
                launched=None if number else launched,
            )
            for number, tier in enumerate(engine.tiers)
        ]
        self.boots = BootTable(engine, notifications=notifications, helpers=helpers, owner=self)

    def get(self, runner_id: int) -> RunnerLink:
        """Return a runner that is up or stopping."""
        runner = self._up.get(runner_id)
        return runner if runner is not None else self._stopping[runner_id][0]

    def forget_shared(self, numbers: Sequence[int]) -> None:
        """Tell all runners that these shared objects are not needed any more."""
        for start in range(0, len(numbers), ENTRIES_AT_ONCE):
            some = numbers[start : start + ENTRIES_AT_ONCE]
            frame = encode(Kind.SHARED_FORGET, payload=pack_numbers(some))
            for runner in self._up.values():
                runner.shared.forget(some)
                runner.say(frame)

    def keep_results(self) -> None:
        """Have runners on other machines keep their large results from now on, also those that are yet to boot."""
        self._keeps_results = True
        for runner in self._up.values():
            runner.keep_results()

    def descriptors(self) -> list[int]:
        """Return the descriptors of the links, and of the listener for dial-back."""
        return [*(fd for link in self.links() for fd in link.descriptors()), *self.boots.descriptors()]

    def links(self) -> list[RunnerLink]:
        """Return the links of all runners that are up or stopping."""
        return [*self._up.values(), *(runner for runner, _ in self._stopping.values())]

    @property
    def count(self) -> int:
        """The number of runners that are up or boot."""
        return len(self._up) + len(self.boots)

    # -- boot ---------------------------------------------------------------------------------------------------------

    def on_boot_succeeded(self, runner: RunnerLink) -> None:
        """Add a runner whose boot has succeeded."""
        self._up[runner.id] = runner
        if self._keeps_results:
            runner.keep_results()
        self._workers.keep(min(len(self._up), RELEASES_AT_EXIT))
        self._renew_later(runner)

    def _renew_later(self, runner: RunnerLink) -> None:
        every = runner.node.renew_every
        if every is not None:
            self._loop.call_later(every, lambda: self._renew(runner))

    def _renew(self, runner: RunnerLink) -> None:
        """Renew the runner's node, and do so again until the node is released."""
        if runner.id in self._up or runner.id in self._stopping:
            self._workers.run(runner.node.renew)
            self._renew_later(runner)

    # -- up -----------------------------------------------------------------------------------------------------------

    def runner_answered(self, runner: RunnerLink, said: RunnerMessages) -> None:
        """Hand the core all events of one read, and handle the frames that concern the driver."""
        if said.warning:
            self._notifications.warn(f"{runner.name}: {escape_controls(said.warning[:MAX_WARNING])}")
        for event in first_runner.events_of(runner.id, said, runner.node):
            self._engine.handle(event)
        if said.setup_failure is not None:
            self._engine.setup_failed(*said.setup_failure)
        if said.synced:
            runner.file_updates.answered(said.synced)
        if said.bye:
            self._on_bye(runner)

    def make_room(self) -> bool:
        """Drop the largest result that is being received, from any runner. Returns False if there is none."""
        fullest = max(self.links(), key=lambda link: link.most_held, default=None)
        if fullest is None or not fullest.most_held:
            return False
        fullest.drop_largest()
        return True

    def runner_broke(self, runner: RunnerLink, error: Exception) -> None:
        """Handle the end of a link: a failed boot, a lost runner, or a runner that was told to stop."""
        if runner.id in self.boots:
            self.boots.link_broke(runner, error)
        elif runner.id in self._up:
            runner.close()
            if type(runner.node).explain_loss is Node.explain_loss:
                self._lose(runner, _loss(runner, error))
            else:
                self._ask_why(runner, error)
        elif runner.id in self._stopping:
            self._leave(runner.id)

    def _ask_why(self, runner: RunnerLink, error: Exception) -> None:
        """Report a lost runner to the core when its node has said why, or does not say it in time."""
        is_reported = False

        def tell(why: str) -> None:
            """Report the loss once, and release the node."""
            nonlocal is_reported
            limit.cancel()
            if is_reported:
                return
            is_reported = True
            self._engine.handle(events.RunnerLost(runner.id, _loss(runner, error, why), runner.never_left, None))
            self._releaser.release(runner, lambda: self._gone(runner.id))

        def ask() -> None:
            """Ask the node, on a worker thread."""
            why = ""
            try:
                why = runner.node.explain_loss()
            finally:
                self._loop.call_soon_threadsafe(lambda: tell(why))

        self._stopping[runner.id] = (self._up.pop(runner.id), None)
        self._engine.handle(events.RunnerLeaving(runner.id))
        limit = self._loop.call_later(EXPLAIN_TIMEOUT, lambda: tell(""))
        self._workers.run(ask)

    def _lose(self, runner: RunnerLink, lost: errors.RunnerLostError) -> None:
        """Report a lost runner to the core, as soon as it is known which of its calls had begun."""
        starts = runner.node.starts

        def tell() -> None:
            """Report the loss, with the calls that had begun if they are known."""
            begun = None if starts is None else starts.begun()
            self._engine.handle(events.RunnerLost(runner.id, lost, runner.never_left, begun))

        if starts is None or starts.is_empty:
            tell()
            return

        def has_ended() -> None:
            """Report the loss: no process of the runner is left, so no call can begin there."""
            tell()
            self._gone(runner.id)

        # First, so that the table has the runner as stopping if the core stops it during this event.
        self._stopping[runner.id] = (self._up.pop(runner.id), None)
        self._engine.handle(events.RunnerLeaving(runner.id))
        self._releaser.release(runner, has_ended)

    def start_heartbeat(self) -> None:
        """Start the heartbeat, if it is not running."""
        if self._heartbeat is None:
            interval = self._options.heartbeat
            self._heartbeat_due = self._loop.time() + interval
            self._heartbeat = self._loop.call_at(self._heartbeat_due, self._beat)

    def _beat(self) -> None:
        """Ping all runners, and cut off runners that were silent too long."""
        self._heartbeat = None
        now = self._loop.time()
        # This process was suspended. The silence was its own, not the runners'.
        was_suspended = now - self._heartbeat_due > self._options.heartbeat
        for runner in [*self._up.values(), *self._awaiting_bye()]:
            if was_suspended:
                runner.reset_silence_timer(now)
            silent, unframed = now - runner.last_heard, now - runner.last_frame
            if silent > self._options.dead_after:
                self._cut(runner, f"no data for {silent:.1f} s")
            elif unframed > MAX_UNFRAMED_SILENCES * self._options.dead_after:
                self._cut(runner, f"data, but no complete frame, for {unframed:.1f} s")
            else:
                runner.ping()
        # The sync before a runner is up may take longer than the runner's lease.
        syncing = self.boots.syncing()
        for runner in syncing:
            runner.ping()
        if self._up or syncing or self._awaiting_bye():
            self.start_heartbeat()

    def _awaiting_bye(self) -> list[RunnerLink]:
        """Return the runners that were told to stop and have not said BYE."""
        return [runner for runner, timer in self._stopping.values() if timer is not None]

    def _cut(self, runner: RunnerLink, why: str) -> None:
        """Treat a runner that does not answer as lost. Its node is released without waiting for it."""
        runner.node.is_silent = True
        self.runner_broke(runner, TimeoutError(why))

    # -- stop ---------------------------------------------------------------------------------------------------------

    def stop(self, runner_id: int, grace: float, reason: str) -> None:
        """Tell a runner to stop, or abort its boot. The core gets `RunnerGone` when its node is released."""
        if runner_id in self.boots:
            self.boots.abort(runner_id, reason)
            return
        if runner_id in self._stopping:
            # The runner was lost, and its node is being released.
            runner = self._stopping[runner_id][0]
            self._notifications.runner_down(runner_id, runner.backend, self.count, reason)
            return
        runner = self._up.pop(runner_id)
        self._notifications.runner_down(runner_id, runner.backend, self.count, reason)
        if runner.descriptor() < 0:
            self._stopping[runner_id] = (runner, None)
            self._releaser.release(runner, lambda: self._gone(runner_id))
            return
        timer = self._loop.call_later(
            grace + STOP_SLACK, lambda: self._cut(runner, "it did not end in time after its stop")
        )
        self._stopping[runner_id] = (runner, timer)
        runner.stop(grace)

    def _on_bye(self, runner: RunnerLink) -> None:
        """Release the node of a runner that has said BYE."""
        if runner.id in self._stopping:
            self._leave(runner.id)

    def _leave(self, runner_id: int) -> None:
        runner, timer = self._stopping[runner_id]
        if timer is None:
            return
        timer.cancel()
        self._stopping[runner_id] = (runner, None)
        self._releaser.release(runner, lambda: self._gone(runner_id))

    def _gone(self, runner_id: int) -> None:
        del self._stopping[runner_id]
        self._engine.handle(events.RunnerGone(runner_id))

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the heartbeat, because all runners are gone."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        self.boots.close()

    def abandon(self) -> None:
        """Release every node without waiting, because the engine has failed."""
        for runner in (*self._up.values(), *(entry[0] for entry in self._stopping.values()), *self.boots.links()):
            self._releaser.abandon(runner)
        self.boots.close()


def _loss(runner: RunnerLink, error: Exception, why: str = "") -> errors.RunnerLostError:
    """Return the error of the calls of a lost runner."""
    text = f"{runner.name} (process {runner.pid}) was lost: {error}"
    if why:
        text += f". {why}"
    elif runner.is_leaving:
        text += f". {runner.node.stopper} had stopped it"
    lost = errors.RunnerLostError(text, runner_id=runner.id)
    lost.__cause__ = error
    return lost
