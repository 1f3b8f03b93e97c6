"""Runners without machines: each is a thread of this process that sends real frames over a socket pair."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dragonfly_executor import errors
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.protocol.parent import Parent
from dragonfly_executor.protocol.versions import versions
from dragonfly_executor.testing.fake_agent import FakeAgent

if TYPE_CHECKING:
    from typing import Unpack

    from dragonfly_executor.backends.tier_keywords import TierKeywords
    from dragonfly_executor.testing.clock import VirtualClock
    from dragonfly_executor.transport.loop import Loop


@dataclass(frozen=True, slots=True)
class FakeRunner:
    """The faults of a runner; none, by default.

    Attributes:
        error: `boot` raises a `BootError` with this as its cause; a `BootError` is raised unchanged.
        hold: `boot` returns only when this is set, even if it was given up before.
        hangs: `boot` returns only when it is given up, and raises a `BootError`.
        silent: it never sends HELLO.
        python: the minor version of Python that it claims, as "3.9"; None for the actual version.
        protocol: the version of the protocol that it claims; None for the actual version.
        release: the full version of Python that it claims; None for the actual version.
        package: the version of this package that it claims; None for the actual version.
        packages: the versions of other packages that it claims.
        host: the host name of its node.
        dies_after: number of calls that it answers; its link ends when the next call comes.
        hold_stop: `Node.stop` returns only when this is set.
        output: the end of the node's output.
    """

    error: Exception | None = None
    hold: threading.Event | None = None
    hangs: bool = False
    silent: bool = False
    python: str | None = None
    protocol: int | None = None
    release: str | None = None
    package: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    dies_after: int | None = None
    hold_stop: threading.Event | None = None
    output: str = ""


GOOD = FakeRunner()


class FakeBackend(Backend):
    """A backend whose runners are threads of this process, and so come up at once.

    Calls run in this process as well. A cancelled call counts as stopped, but its thread continues, and its result is
    dropped. In a call, but not in threads that it starts, `Parent.get` returns the runner's parent. The limits that a
    runner enforces, ``run_timeout`` and its lease, are not enforced. The initializer runs once on a runner, and the
    user's own serializer cannot be used. Placed workers, `Parent.pool` and multiprocessing's objects work in calls.

    Args:
        script: the faults of the first runner that boots, the second, and so on.
        then: the faults of all runners that follow.
        slots: calls at once on a runner, if the pool does not set it.
        clock: the clock of the pools on this backend; None for the machine's clock.
        tier: `max`, `idle_shutdown_after` and `budget` of the runners of this backend; see `Backend.set_limits`.

    Attributes:
        nodes: every node that came up, in order.
        requests: every boot request, in order.
        max_concurrent_boots: maximum number of concurrent boots.
    """

    name = "fake"
    default_max = 1
    has_slot_processes = False

    def __init__(
        self,
        *script: FakeRunner,
        then: FakeRunner = GOOD,
        slots: int = 2,
        clock: VirtualClock | None = None,
        **tier: Unpack[TierKeywords],
    ) -> None:
        self.set_limits(**tier)
        self._script = list(script)
        self._then = then
        self._slots = slots
        self._clock = clock
        self._lock = threading.Lock()
        self.nodes: list[FakeNode] = []
        self.requests: list[BootRequest] = []

    def __repr__(self) -> str:
        return f"<FakeBackend: {len(self.running)} of {len(self.nodes)} nodes run>"

    @property
    def running(self) -> list[FakeNode]:
        """Return the nodes that were neither stopped nor ended by themselves."""
        return [node for node in self.nodes if node.is_running]

    def default_slots(self) -> int:
        """Return the constructor's `slots`."""
        return self._slots

    def make_loop(self) -> Loop:
        """Return a loop on the constructor's clock."""
        return super().make_loop() if self._clock is None else self._clock.make_loop()

    def fail_next_boot(self, error: Exception | None = None, *, count: int = 1) -> None:
        """Have the next boots fail. The rest of the script follows after them.

        Args:
            error: the cause of the `BootError`, or the `BootError` itself; None for one of these words.
            count: number of boots that fail.
        """
        failing = FakeRunner(error=error or errors.BootError("the fake boot failed: fail_next_boot was called"))
        with self._lock:
            next_boot = len(self.requests)
            self._script += [self._then] * (next_boot - len(self._script))
            self._script[next_boot:next_boot] = [failing] * count

    def lose_runner(self, node: FakeNode | None = None, *, timeout: float = 30.0) -> FakeNode:
        """Lose a runner without notice, as in a crash, and return its node once its pool has noticed.

        The calls that the runner has not answered fail, or are retried, as the options of the calls say.

        Args:
            node: the runner's node; None for the oldest runner that is up.
            timeout: seconds to wait for the pool.

        Raises:
            LookupError: no runner is up.
            TimeoutError: the pool does not stop the node in time.
        """
        if node is None:
            node = next(iter(self.running), None)
            if node is None:
                raise LookupError("no runner of this FakeBackend is up: wait for a result of a call, then lose one")
        node.kill()
        if not node.is_stopping.wait(timeout):
            raise TimeoutError(f"the pool has not stopped the lost runner's node within {timeout:g} s")
        return node

    def boot(self, request: BootRequest) -> Node:
        """Start the next runner of the script for this `request`, or raise its error."""
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
        runner = self._script[number] if number < len(self._script) else self._then
        if runner.hold is not None:
            runner.hold.wait()
        if runner.hangs and request.given_up is not None:
            request.given_up.wait()
            raise errors.BootError("the fake boot was given up")
        if runner.error is not None:
            if isinstance(runner.error, errors.BootError):
                raise runner.error
            raise errors.BootError(f"the fake boot failed: {runner.error}") from runner.error
        node = FakeNode(runner, request.parent)
        with self._lock:
            self.nodes.append(node)
        return node


class FakeNode(Node):
    """A node that is a thread.

    Attributes:
        stops: number of calls of `stop`.
        is_stopping: set at the first call of `stop`.
    """

    def __init__(self, runner: FakeRunner, parent: Parent) -> None:
        own_end, agent_end = socket.socketpair()
        self.stream = self._socket = own_end
        self._runner = runner
        self.host = runner.host
        self.stops = 0
        self.is_stopping = threading.Event()
        claimed = versions()
        if runner.python is not None:
            claimed.python = runner.python
        if runner.protocol is not None:
            claimed.protocol = runner.protocol
        if runner.release is not None:
            claimed.release = runner.release
        if runner.package is not None:
            claimed.package = runner.package
        claimed.packages = dict(runner.packages)
        self.agent = FakeAgent(agent_end, None if runner.silent else claimed, runner.dies_after, parent)
        self.agent.start()

    @property
    def is_running(self) -> bool:
        """Return whether the runner is alive."""
        return self.agent.is_alive()

    def kill(self) -> None:
        """Kill the runner without notice, as a crash does."""
        self.agent.cut()

    def freeze(self) -> None:
        """Stop the runner's frames without ending its link, as on a machine that hangs."""
        self.agent.freeze()

    def stop(self) -> None:
        """See `Node`."""
        self.stops += 1
        self.is_stopping.set()
        if self._runner.hold_stop is not None:
            self._runner.hold_stop.wait()
        self._socket.close()
        self.agent.join()

    def output(self) -> str:
        """Return the output from the script."""
        return self._runner.output
