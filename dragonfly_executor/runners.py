"""The engine's runners: booted, spoken with, stopped. All on the engine thread; what blocks runs on the boot crew."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from dragonfly_executor import errors
from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.backoff import delay
from dragonfly_executor.core import events, handshake
from dragonfly_executor.core.wire import SETUP_HEAD
from dragonfly_executor.parent import Parent
from dragonfly_executor.runner_link import Result, RunnerLink, Said
from dragonfly_executor.threads import Crew

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Backend, Node
    from dragonfly_executor.core.ledger import Call
    from dragonfly_executor.core.wire import Frame
    from dragonfly_executor.dialback import DialBack
    from dragonfly_executor.engine import Engine
    from dragonfly_executor.narrator import Narrator
    from dragonfly_executor.sync import Keeper
    from dragonfly_executor.transport.loop import Loop, Timer

BOOTS_AT_ONCE = 10
MUMBLING = 4
"""How many times ``dead_after`` bytes may come that make no frame: a length on which the two ends do not agree would
otherwise swallow everything for ever, heartbeats too."""
GIVE_BACK = 60.0
"""Seconds that a backend may take to give a node back. After that nobody waits for it, a shutdown least of all."""
STOP_SLACK = 2.0
"""Seconds beyond its grace after which a runner that does not go has its link closed."""


class Booting:
    """A boot that is under way."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.aborted: str | None = None
        self.ending = False
        self.timer: Timer | None = None
        self.link: RunnerLink | None = None
        self.hello: handshake.Hello | None = None
        """What the runner said first; None until it did."""


class Runners:
    """All runners of a pool, by number."""

    def __init__(
        self,
        engine: Engine,
        backend: Backend,
        loop: Loop,
        initializer: bytes,
        narrator: Narrator,
        keeper: Keeper | None = None,
    ) -> None:
        self._engine = engine
        self._options = engine.options
        self._backend = backend
        self._loop = loop
        self._setup = self._encode_setup(engine.codec.setup(), initializer)
        self._keeper = keeper
        self._narrator = narrator
        self._outputs = engine.outputs
        self._booting: dict[int, Booting] = {}
        self._up: dict[int, RunnerLink] = {}
        self._stopping: dict[int, tuple[RunnerLink, Timer | None]] = {}
        self._failures = 0
        self._heartbeat: Timer | None = None
        self._heartbeat_due = 0.0
        self._idle_check = self._encode_idle_check()
        self._handover = threading.Lock()
        self._arrived: dict[int, Node] = {}
        self._ended = False
        name = f"dragonfly-{self._options.name}"
        self.crew = Crew(f"{name}-boots", BOOTS_AT_ONCE, narrator.callback_failed)
        self._dial_back = self._make_dial_back() if backend.dials_back else None
        self.crews = [self.crew]
        if keeper is not None:
            self._setup_elsewhere = self._encode_setup(engine.codec.setup_elsewhere(keeper.main), initializer)
            # Of its own: files are read while backends block.
            self._readers = Crew(f"{name}-sync", 1, narrator.callback_failed)
            self.crews.append(self._readers)

    def _make_dial_back(self) -> DialBack:
        # It loads ssl, which no other backend needs.
        from dragonfly_executor.dialback import DialBack

        return DialBack(self._backend, self._loop, self.crew, self)

    def _encode_setup(self, setup: bytes, initializer: bytes) -> bytes:
        return SETUP_HEAD.pack(self._options.max_payload, len(setup)) + setup + initializer

    def _encode_idle_check(self) -> bytes:
        check = self._options.idle_check
        return b"" if check is None else b"".join(self._engine.codec.encode_call(check, (), {}))

    def get(self, runner_id: int) -> RunnerLink:
        """The runner, up or on its way out."""
        runner = self._up.get(runner_id)
        return runner if runner is not None else self._stopping[runner_id][0]

    def descriptors(self) -> list[int]:
        """The links' descriptors."""
        links = [*self._up.values(), *(entry[0] for entry in self._stopping.values())]
        links += [boot.link for boot in self._booting.values() if boot.link is not None]
        found = [fd for link in links for fd in link.descriptors()]
        return found if self._dial_back is None else [*found, *self._dial_back.descriptors()]

    @property
    def _count(self) -> int:
        return len(self._up) + len(self._booting)

    # -- boot ---------------------------------------------------------------------------------------------------------

    def boot(self, runner_id: int) -> None:
        """Boot a runner; the core hears how it went."""
        boot = Booting(self._loop.time())
        timeout = self._options.boot_timeout
        boot.timer = self._loop.call_later(timeout, lambda: self._boot_timed_out(runner_id, timeout))
        self._booting[runner_id] = boot
        parent = Parent.new(self._options.name, runner_id, self._backend.name)
        request = BootRequest(runner_id, parent, timeout)
        self._narrator.grow_started(runner_id, self._count)
        if self._dial_back is None:
            self.boot_is_expected(request)
        else:
            self._dial_back.expect(request)

    def boot_is_expected(self, request: BootRequest) -> None:
        """Have the backend boot a node: if it has to dial back, it may do so from now on."""
        self.crew.run(self._boot_node, request)

    def boot_cannot_be_expected(self, runner_id: int, error: errors.BootError) -> None:
        """It would have nowhere to dial."""
        self._end_boot(runner_id, error)

    def runner_dialed_in(self, runner_id: int) -> None:
        """It has proved that it is the one; its hello is still to come."""
        boot = self._booting.get(runner_id)
        # Otherwise it was faster than its backend, which has yet to come back with the node.
        if boot is not None and boot.link is not None:
            self._let_speak(boot.link)

    def _let_speak(self, runner: RunnerLink) -> None:
        sock = None if self._dial_back is None else self._dial_back.take(runner.id)
        if sock is not None:
            runner.attach(sock)

    def warn(self, text: str) -> None:
        """Tell whoever runs this."""
        self._narrator.warn(text)

    def _boot_node(self, request: BootRequest) -> None:
        """On the boot crew."""
        runner_id = request.runner_id
        boot = self._booting.get(runner_id)
        if boot is None or boot.aborted:
            # It was given up before there was a thread for it.
            self._loop.call_soon_threadsafe(lambda: self._end_boot(runner_id))
            return
        try:
            if self._keeper is not None:
                self._keeper.look()
                self._keeper.require()
            node = self._backend.boot(request)
        except BaseException as raised:  # a backend may be anybody's, and may even call sys.exit()
            error = raised if isinstance(raised, errors.BootError) else _boot_error(raised)
            self._loop.call_soon_threadsafe(lambda: self._end_boot(runner_id, error))
            return
        with self._handover:
            if not self._ended:
                self._arrived[runner_id] = node
                self._loop.call_soon_threadsafe(lambda: self._booted(runner_id))
                return
        node.stop()

    def _booted(self, runner_id: int) -> None:
        node = self._arrived[runner_id]
        boot = self._booting.get(runner_id)
        if boot is None:
            # It came after it was given up: nobody waits for this.
            self.crew.run(node.stop)
        else:
            boot.link = RunnerLink(runner_id, node, self._loop, self._engine.codec, self, self._outputs)
            self._let_speak(boot.link)
        # Not before: until then nothing else knows the node.
        del self._arrived[runner_id]
        if boot is not None and boot.aborted:
            self._end_boot(runner_id)

    def _boot_timed_out(self, runner_id: int, timeout: float) -> None:
        boot = self._booting[runner_id]
        if boot.link is not None and boot.link.sender is not None:
            phase, how_far = boot.link.sender.progress
            text = f"runner {runner_id} was not ready within {timeout:g} s: {how_far}"
            self._end_boot(runner_id, errors.BootTimeoutError(text, phase))
            return
        if boot.link is not None:
            what = "say hello" if boot.link.descriptor() >= 0 else "dial back"
            error = errors.BootTimeoutError(f"runner {runner_id} did not {what} within {timeout:g} s", "connect")
            error.__cause__ = None if self._dial_back is None else self._dial_back.last_refusal
            self._end_boot(runner_id, error)
            return
        # Nobody waits for a backend that hangs. What it may come back with is given back then.
        text = f"the {self._backend.name} backend did not come back with a node within {timeout:g} s"
        self._end_boot(runner_id, errors.BootTimeoutError(text))

    def _end_boot(self, runner_id: int, error: errors.BootError | None = None) -> None:
        """A boot has failed, or was aborted: give back what there is of it, once, and then say so."""
        boot = self._booting.get(runner_id)
        if boot is None or boot.ending:
            return
        boot.ending = True
        if boot.timer is not None:
            boot.timer.cancel()
        if self._dial_back is not None:
            self._dial_back.forget(runner_id)
        if boot.link is None:
            self._boot_ended(runner_id, error)
            return
        if error is not None:
            error.output = error.output or boot.link.node.output()
        self._release(boot.link, lambda: self._boot_ended(runner_id, error))

    def _boot_ended(self, runner_id: int, error: errors.BootError | None) -> None:
        boot = self._booting.pop(runner_id)
        if boot.aborted or error is None:
            self._narrator.growth_given_up(runner_id, self._count, boot.aborted or "")
            self._engine.handle(events.RunnerGone(runner_id))
            return
        if boot.link is not None:
            # Some know only now that the node is gone how it ended.
            error.output = error.output or boot.link.node.output()
        self._failures += 1
        self._narrator.grow_ended(runner_id, self._count, error, self._loop.time() - boot.began)
        retry_in = delay(self._options.boot_wait, self._failures)
        self._engine.handle(events.BootFailed(runner_id, error, retry_in))

    def runner_said_hello(self, runner: RunnerLink, hello: handshake.Hello) -> None:
        """The node is there, if nobody has given up on it; one that does not see the parent's files gets them first."""
        boot = self._booting.get(runner.id)
        if boot is None or boot.ending:
            return
        options = self._options
        output, log_level = self._outputs.wanted(shares_disk=runner.node.shares_disk)
        wanted = runner.node.slots or options.max_concurrency or self._backend.default_slots()
        runner.slots = wanted or hello.versions.cpus
        session = handshake.welcome(
            lease=options.lease,
            setup_timeout=options.boot_timeout,
            slots=runner.slots,
            calls_per_slot=options.max_tasks_per_child or 0,
            output=output,
            log_level=log_level,
        )
        if runner.node.shares_disk:
            runner.welcome(session, self._setup)
            self._came_up(runner)
        elif self._keeper is None:
            text = f"nodes of the {self._backend.name} backend do not share this machine's disk, and it has no `sync`"
            self._end_boot(runner.id, errors.BootError(text, "sync"))
        else:
            runner.welcome(session, self._setup_elsewhere)
            boot.hello = hello
            run, on_engine = self._readers.run, self._loop.call_soon_threadsafe
            from dragonfly_executor.sync import Sender

            runner.sender = Sender(self._keeper, runner, _Syncing(self, runner), run, on_engine)
            self._beat_on()
            runner.sender.update()

    def _came_up(self, runner: RunnerLink) -> None:
        """The boot has succeeded."""
        boot = self._booting.pop(runner.id)
        if boot.timer is not None:
            boot.timer.cancel()
        self._up[runner.id] = runner
        runner.ping()
        self._failures = 0
        self._narrator.grow_ended(runner.id, self._count, None, self._loop.time() - boot.began, runner.node.facts)
        self._beat_on()
        self._engine.handle(events.BootSucceeded(runner.id, runner.slots))

    # -- the parent's files -------------------------------------------------------------------------------------------

    def update(self, runner: RunnerLink, calls: list[Call]) -> None:
        """Send what has changed since, ahead of these calls."""
        if runner.sender is not None:
            runner.sender.update()
            if runner.sender.is_busy:
                runner.held.update((call.id, call.attempt) for call in calls)

    def synced(self, runner: RunnerLink, frames: list[Frame]) -> None:
        """A runner has said how its share of the files stands."""
        for frame in frames:
            if runner.sender is None:
                raise errors.ProtocolError("an answer to a sync from a runner that has none")
            runner.sender.heard(frame)

    def runner_is_synced(self, runner: RunnerLink) -> None:
        """It has everything: for one that boots this was the last step."""
        runner.held.clear()
        boot = self._booting.get(runner.id)
        if boot is not None and not boot.ending:
            self._came_up(runner)

    def runner_is_not_synced(self, runner: RunnerLink, phase: str, text: str) -> None:
        """It cannot have what it needs. It has said so itself: what it held has not started, and will not."""
        runner.never_left |= runner.held
        self.runner_broke(runner, errors.BootError(f"runner {runner.id}: {text}", phase))

    # -- up -----------------------------------------------------------------------------------------------------------

    def results_arrived(self, runner: RunnerLink, results: list[Result]) -> None:
        """Pass on what a runner said."""
        self._engine.handle(events.ResultsArrived(runner.id, results))

    def runner_answered(self, runner: RunnerLink, said: Said) -> None:
        """Pass on what a runner said."""
        self._engine.runner_answered(runner, said)

    def check_idle(self, runner_id: int) -> None:
        """Ask the runner's idle check."""
        self.get(runner_id).check_idle(self._idle_check)

    def runner_broke(self, runner: RunnerLink, error: Exception) -> None:
        """A link has ended: a boot has failed, a runner is lost, or one that was told to go is gone."""
        if runner.id in self._booting:
            sender = runner.sender
            phase = "handshake" if sender is None else sender.progress[0]
            boot_error = error if isinstance(error, errors.BootError) else _boot_error(error, phase)
            self._end_boot(runner.id, boot_error)
        elif runner.id in self._up:
            runner.close()
            text = f"runner {runner.id} (process {runner.pid}) was lost: {error}"
            lost = errors.RunnerLostError(text, runner_id=runner.id)
            lost.__cause__ = error
            self._engine.handle(events.RunnerLost(runner.id, lost, runner.never_left))
        elif runner.id in self._stopping:
            self._leave(runner.id)

    def _beat_on(self) -> None:
        if self._heartbeat is None:
            interval = self._options.heartbeat
            self._heartbeat_due = self._loop.time() + interval
            self._heartbeat = self._loop.call_at(self._heartbeat_due, self._beat)

    def _beat(self) -> None:
        """Ping all, and give up on those that were silent too long."""
        self._heartbeat = None
        now = self._loop.time()
        # This process slept or was stopped: the silence was its own.
        overslept = now - self._heartbeat_due > self._options.heartbeat
        for runner in list(self._up.values()):
            if overslept:
                runner.forgive(now)
            silent, mumbling = now - runner.last_heard, now - runner.last_frame
            if silent > self._options.dead_after:
                self.runner_broke(runner, TimeoutError(f"nothing heard from it for {silent:.1f} s"))
            elif mumbling > MUMBLING * self._options.dead_after:
                self.runner_broke(runner, TimeoutError(f"nothing that makes sense came from it for {mumbling:.1f} s"))
            else:
                runner.ping()
        # What is sent before a runner is up may take longer than its lease.
        syncing = [boot.link for boot in self._booting.values() if boot.link is not None and boot.hello is not None]
        for runner in syncing:
            runner.ping()
        if self._up or syncing:
            self._beat_on()

    # -- stop ---------------------------------------------------------------------------------------------------------

    def stop(self, runner_id: int, grace: float, reason: str) -> None:
        """Tell a runner to go, or give up on its boot; the core hears `RunnerGone` when nothing of it is left."""
        boot = self._booting.get(runner_id)
        if boot is not None:
            boot.aborted = reason
            if boot.link is not None:
                self._end_boot(runner_id)
            return
        runner = self._up.pop(runner_id)
        self._narrator.shrunk(runner_id, self._count, reason)
        if runner.descriptor() < 0:
            self._stopping[runner_id] = (runner, None)
            self._release(runner, lambda: self._gone(runner_id))
            return
        timer = self._loop.call_later(grace + STOP_SLACK, lambda: self._leave(runner_id))
        self._stopping[runner_id] = (runner, timer)
        runner.stop(grace)

    def said_bye(self, runner: RunnerLink) -> None:
        """It has nothing left to say."""
        if runner.id in self._stopping:
            self._leave(runner.id)

    def _leave(self, runner_id: int) -> None:
        runner, timer = self._stopping[runner_id]
        if timer is None:
            return
        timer.cancel()
        self._stopping[runner_id] = (runner, None)
        self._release(runner, lambda: self._gone(runner_id))

    def _gone(self, runner_id: int) -> None:
        del self._stopping[runner_id]
        self._engine.handle(events.RunnerGone(runner_id))

    def _release(self, runner: RunnerLink, then: Callable[[], object]) -> None:
        """Close the link and give the node back on the boot crew; then, or when that takes too long, go on here."""
        runner.close()
        going_on = [then]

        def go_on() -> None:
            limit.cancel()
            while going_on:
                going_on.pop()()

        def give_up() -> None:
            backend = self._backend.name
            self._narrator.complain(f"the {backend} backend did not give runner {runner.id} back in {GIVE_BACK:g} s")
            go_on()

        def give_back() -> None:
            try:
                for thread in runner.give_back():
                    self._narrator.complain(f"thread {thread} of runner {runner.id} has not ended")
            finally:
                self._loop.call_soon_threadsafe(go_on)

        limit = self._loop.call_later(GIVE_BACK, give_up)
        self.crew.run(give_back)

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """All runners are gone: nothing is left to beat for."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        self._give_back_late_nodes()

    def abandon(self) -> None:
        """Give every node back without asking: the engine has failed."""
        booting = [boot.link for boot in self._booting.values() if boot.link is not None]
        for runner in (*self._up.values(), *(entry[0] for entry in self._stopping.values()), *booting):
            runner.close()
            self.crew.run(runner.give_back)
        self._give_back_late_nodes()

    def _give_back_late_nodes(self) -> None:
        """Nodes that nobody has asked for any more, and those that come from now on. No runner can dial in any more."""
        if self._dial_back is not None:
            self._dial_back.close()
        with self._handover:
            self._ended = True
        while self._arrived:
            self.crew.run(self._arrived.popitem()[1].stop)


class _Syncing:
    """Hears for one runner how its sync goes."""

    def __init__(self, runners: Runners, runner: RunnerLink) -> None:
        self._runners = runners
        self._runner = runner

    def synced(self) -> None:
        """See `sync.sender.Listener`."""
        self._runners.runner_is_synced(self._runner)

    def sync_failed(self, phase: str, text: str) -> None:
        """See `sync.sender.Listener`."""
        self._runners.runner_is_not_synced(self._runner, phase, text)


def _boot_error(error: BaseException, phase: str = "create") -> errors.BootError:
    """A `BootError` that says what a backend raised, or how a link ended, while a runner booted."""
    boot_error = errors.BootError(f"{type(error).__name__}: {error}", phase)
    boot_error.__cause__ = error
    return boot_error
