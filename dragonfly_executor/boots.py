"""The engine's boots: from the wish for a runner to one that is up, or to the error why there is none.

All on the engine thread, but for the backends' `boot`, which blocks: it runs on the boot crew.
"""

from __future__ import annotations

from dragonfly_executor import errors
from dragonfly_executor.arrivals import Arrivals, as_boot_error
from dragonfly_executor.backends.base import BootRequest, GivenUp
from dragonfly_executor.backoff import delay
from dragonfly_executor.core import events, handshake
from dragonfly_executor.lookout import Lookout
from dragonfly_executor.options import dollars
from dragonfly_executor.parent import Parent
from dragonfly_executor.runner_link import Listener, RunnerLink
from dragonfly_executor.threads import Crew

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Protocol

    from dragonfly_executor.backends.base import Backend, Node
    from dragonfly_executor.dialback import DialBack
    from dragonfly_executor.engine import Engine
    from dragonfly_executor.narrator import Narrator
    from dragonfly_executor.release import Releaser
    from dragonfly_executor.sync import Keeper
    from dragonfly_executor.transport.loop import Loop, Timer
    from dragonfly_executor.welcome import Welcome
else:
    Protocol = object


class Host(Listener, Protocol):
    """Where runners belong. It hears what each says from its first word on, and passes on what concerns its boot."""

    @property
    def count(self) -> int:
        """How many runners are up or boot."""

    def beat_on(self) -> None:
        """A runner has been let in: from now on it expects heartbeats."""

    def adopt(self, runner: RunnerLink) -> None:
        """Its boot has succeeded: it is the host's from now on."""


class Booting:
    """A boot that is under way."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.aborted: str | None = None
        self.ending = False
        self.timer: Timer | None = None
        self.link: RunnerLink | None = None
        self.given_up = GivenUp()
        self.hello: handshake.Hello | None = None
        """What the runner said first; None until it did."""


class Boots:
    """The boots of a pool that are under way, by the runner's number.

    Args:
        engine: hears, as events, how each ended.
        backend, loop, narrator: the pool's.
        welcome: what runners are told.
        keeper: knows what runners elsewhere need; None where they see this machine's files.
        releaser: gives back what there is of a boot that failed; the backend boots on the same crew.
        host: takes the runners that came up.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        backend: Backend,
        loop: Loop,
        narrator: Narrator,
        welcome: Welcome,
        keeper: Keeper | None,
        releaser: Releaser,
        host: Host,
    ) -> None:
        self._engine = engine
        self._options = engine.options
        self._backend = backend
        self._loop = loop
        self._narrator = narrator
        self._welcome = welcome
        self._keeper = keeper
        self._crew = releaser.crew
        self._releaser = releaser
        self._host = host
        self._booting: dict[int, Booting] = {}
        self._failures = 0
        self._arrivals = Arrivals(
            backend,
            keeper,
            loop,
            is_wanted=self._is_wanted,
            on_node=self._node_arrived,
            on_error=self._end_boot,
            stop=releaser.stop,
        )
        self._dial_back = self._make_dial_back() if backend.dials_back else None
        self.crews = [self._crew]
        if keeper is not None:
            # Of its own: files are read while backends block.
            self._readers = Crew(f"dragonfly-{self._options.name}-sync", 1, narrator.callback_failed)
            self.crews.append(self._readers)
        self._lookout = Lookout(self, loop, self._options.name, narrator) if self._dial_back is not None else None
        if self._lookout is not None:
            self.crews.append(self._lookout.crew)

    def _make_dial_back(self) -> DialBack:
        # It loads ssl, which no other backend needs.
        from dragonfly_executor.dialback import DialBack

        return DialBack(self._backend, self._loop, self._crew, self)

    def __contains__(self, runner_id: int) -> bool:
        return runner_id in self._booting

    def __len__(self) -> int:
        return len(self._booting)

    def links(self) -> list[RunnerLink]:
        """Of the runners that boot, those that have a node."""
        return [boot.link for boot in self._booting.values() if boot.link is not None]

    def syncing(self) -> list[RunnerLink]:
        """Of these, those that have been let in and are sent files."""
        return [boot.link for boot in self._booting.values() if boot.link is not None and boot.hello is not None]

    def descriptors(self) -> list[int]:
        """What a forked child must not keep open."""
        found = [fd for link in self.links() for fd in link.descriptors()]
        return found if self._dial_back is None else [*found, *self._dial_back.descriptors()]

    # -- to a node ----------------------------------------------------------------------------------------------------

    def boot(self, runner_id: int) -> None:
        """Boot a runner; the core hears how it went."""
        boot = Booting(self._loop.time())
        timeout = self._options.boot_timeout
        boot.timer = self._loop.call_later(timeout, lambda: self._boot_timed_out(runner_id, timeout))
        self._booting[runner_id] = boot
        parent = Parent.new(self._options.name, runner_id, self._backend.name)
        request = BootRequest(runner_id, parent, timeout, boot.given_up)
        self._narrator.grow_started(runner_id, self._host.count)
        if self._dial_back is None:
            self.boot_is_expected(request)
        else:
            self._dial_back.expect(request)

    def boot_is_expected(self, request: BootRequest) -> None:
        """Have the backend boot a node: if it has to dial back, it may do so from now on."""
        self._crew.run(self._arrivals.boot, request)

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

    def _is_wanted(self, runner_id: int) -> bool:
        """On the boot crew: whether it was not given up before there was a thread for it."""
        boot = self._booting.get(runner_id)
        return boot is not None and not boot.aborted

    def _node_arrived(self, runner_id: int, node: Node) -> None:
        boot = self._booting.get(runner_id)
        if boot is None:
            # It came after it was given up: nobody waits for this.
            self._releaser.stop(node)
            return
        boot.link = RunnerLink(runner_id, node, self._loop, self._engine.codec, self._host, self._engine.outputs)
        self._let_speak(boot.link)
        if self._lookout is not None:
            self._lookout.watch(boot.link)
        if boot.aborted:
            self._end_boot(runner_id)

    def node_ended(self, runner: RunnerLink, error: errors.BootError) -> None:
        """The node of a runner that has yet to dial back has ended."""
        error.__cause__ = error.__cause__ or (None if self._dial_back is None else self._dial_back.last_refusal)
        self._end_boot(runner.id, error)

    def is_waited_for(self, runner: RunnerLink) -> bool:
        """Whether it is booting, and has yet to dial back."""
        boot = self._booting.get(runner.id)
        return boot is not None and not boot.ending and boot.link is runner and runner.descriptor() < 0

    # -- to a runner that is up ---------------------------------------------------------------------------------------

    def said_hello(self, runner: RunnerLink, hello: handshake.Hello) -> None:
        """The node is there, if nobody has given up on it; one that does not see the parent's files gets them first."""
        boot = self._booting.get(runner.id)
        if boot is None or boot.ending:
            return
        if runner.node.shares_disk:
            self._welcome.let_in(runner, hello)
            self._came_up(runner)
        elif self._keeper is None:
            text = f"nodes of the {self._backend.name} backend do not share this machine's disk, and it has no `sync`"
            self._end_boot(runner.id, errors.BootError(text, "sync"))
        else:
            self._welcome.let_in(runner, hello)
            boot.hello = hello
            run, on_engine = self._readers.run, self._loop.call_soon_threadsafe
            from dragonfly_executor.sync import Sender

            runner.sender = Sender(self._keeper, runner, _Syncing(self, self._host, runner), run, on_engine)
            self._host.beat_on()
            runner.sender.update()

    def is_synced(self, runner: RunnerLink) -> None:
        """A runner has all files. For one that boots this was the last step; others get what changes later, too."""
        boot = self._booting.get(runner.id)
        if boot is not None and not boot.ending:
            self._came_up(runner)

    def _came_up(self, runner: RunnerLink) -> None:
        """The boot has succeeded."""
        boot = self._booting[runner.id]
        if boot.timer is not None:
            boot.timer.cancel()
        self._host.adopt(runner)
        # Not before: until then nobody else knows the runner.
        del self._booting[runner.id]
        runner.ping()
        self._failures = 0
        seconds = self._loop.time() - boot.began
        self._narrator.grow_ended(runner.id, self._host.count, None, seconds, runner.node.facts)
        self._host.beat_on()
        self._engine.handle(events.BootSucceeded(runner.id, runner.slots, self._price_of(runner)))

    def _price_of(self, runner: RunnerLink) -> float | None:
        """What is known of it beyond the price of the pool's runners."""
        budget = self._options.budget
        if budget is not None and budget.price is not None:
            # What the user says that runners cost holds for all of them.
            return None
        try:
            return dollars(runner.node.price, f"the price of {runner.name}")
        except (TypeError, ValueError) as error:
            self._narrator.warn(f"{error}; it counts as the pool's others do")
            return None

    # -- to an error --------------------------------------------------------------------------------------------------

    def abort(self, runner_id: int, reason: str) -> None:
        """Nobody needs it any more; the core hears `RunnerGone` when nothing of it is left."""
        boot = self._booting[runner_id]
        boot.aborted = reason
        boot.given_up.set()
        if boot.link is not None:
            self._end_boot(runner_id)

    def broke(self, runner: RunnerLink, error: Exception) -> None:
        """The link of a runner that boots has ended, or must."""
        sender = runner.sender
        phase = "handshake" if sender is None else sender.progress[0]
        boot_error = error if isinstance(error, errors.BootError) else as_boot_error(error, phase)
        self._end_boot(runner.id, boot_error)

    def _boot_timed_out(self, runner_id: int, timeout: float) -> None:
        boot = self._booting[runner_id]
        if boot.link is not None and boot.link.sender is not None:
            phase, how_far = boot.link.sender.progress
            text = f"{boot.link.name} was not ready within {timeout:g} s: {how_far}"
            self._end_boot(runner_id, errors.BootTimeoutError(text, phase))
            return
        if boot.link is not None:
            what, phase = ("say hello", "handshake") if boot.link.descriptor() >= 0 else ("dial back", "connect")
            error = errors.BootTimeoutError(f"{boot.link.name} did not {what} within {timeout:g} s", phase)
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
        boot.given_up.set()
        if boot.timer is not None:
            boot.timer.cancel()
        if self._dial_back is not None:
            self._dial_back.forget(runner_id)
        if boot.link is None:
            self._boot_ended(runner_id, error)
            return
        if error is not None:
            error.output = error.output or boot.link.node.output()
        self._releaser.release(boot.link, lambda: self._boot_ended(runner_id, error))

    def _boot_ended(self, runner_id: int, error: errors.BootError | None) -> None:
        boot = self._booting.pop(runner_id)
        if boot.aborted or error is None:
            self._narrator.growth_given_up(runner_id, self._host.count, boot.aborted or "")
            self._engine.handle(events.RunnerGone(runner_id))
            return
        if boot.link is not None:
            # Some know only now that the node is gone how it ended.
            error.output = error.output or boot.link.node.output()
        self._failures += 1
        self._narrator.grow_ended(runner_id, self._host.count, error, self._loop.time() - boot.began)
        retry_in = delay(self._options.boot_wait, self._failures)
        self._engine.handle(events.BootFailed(runner_id, error, retry_in))

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """No runner can dial in any more; nodes that nobody has asked for yet, or that come later, are given back."""
        if self._dial_back is not None:
            self._dial_back.close()
        self._arrivals.close()


class _Syncing:
    """Hears for one runner how its sync goes, while it boots and later."""

    def __init__(self, boots: Boots, host: Host, runner: RunnerLink) -> None:
        self._boots = boots
        self._host = host
        self._runner = runner

    def synced(self) -> None:
        """See `sync.sender.Listener`."""
        self._runner.held.clear()
        self._boots.is_synced(self._runner)

    def sync_failed(self, phase: str, text: str) -> None:
        """It has said so itself: what it held has not started, and will not."""
        runner = self._runner
        runner.never_left |= runner.held
        self._host.runner_broke(runner, errors.BootError(f"{runner.name}: {text}", phase))
