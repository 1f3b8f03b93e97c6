"""Runners without machines: each is a thread of this process that speaks the real frames over a socket pair."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dragonfly_executor import errors
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.protocol.versions import versions
from dragonfly_executor.testing.fake_agent import FakeAgent

if TYPE_CHECKING:
    from dragonfly_executor.testing.clock import VirtualClock
    from dragonfly_executor.transport.loop import Loop


@dataclass(frozen=True, slots=True)
class FakeRunner:
    """What is wrong with a runner; nothing, by default.

    Attributes:
        error: `boot` raises a `BootError` with this as its cause; a `BootError` is raised as it is.
        hold: `boot` comes back only when this is set, even if it was given up before.
        hangs: `boot` comes back only when it is given up, and raises a `BootError`.
        silent: it never says hello.
        python: the version of Python that it claims, as "3.9"; None for this one.
        protocol: the version of the protocol that it claims; None for this one.
        release: the whole version of Python that it claims; None for this one.
        package: the version of this package that it claims; None for this one.
        packages: the versions of other packages that it claims.
        host: the machine that its node is on.
        dies_after: it answers so many calls, and its link ends when the next one comes.
        hold_stop: giving the node back takes until this is set.
        output: the last that the node printed.
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
    """Boots runners that are threads of this process, and so come up at once.

    Their calls run here as well: one that is cancelled counts as stopped, and goes on without anybody listening. What
    a runner sees to by itself, ``run_timeout`` and its lease, is not seen to. The initializer runs once on a runner,
    and a serializer of the user's own cannot be used.

    Args:
        script: what is wrong with the first runner that boots, the second, and so on.
        then: what is wrong with all that follow.
        slots: calls at once on a runner, where the pool does not say.
        clock: what the pools on this backend take for the time; None for the machine's own clock.

    Attributes:
        nodes: every node that came up, in order.
        requests: every request to boot, in order.
        max_concurrent_boots: boots that may be under way at the same time.
    """

    name = "fake"
    default_max = 1

    def __init__(
        self, *script: FakeRunner, then: FakeRunner = GOOD, slots: int = 2, clock: VirtualClock | None = None
    ) -> None:
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
        """The nodes that have neither been given back nor ended by themselves."""
        return [node for node in self.nodes if node.is_running]

    def default_slots(self) -> int:
        """As the constructor was told."""
        return self._slots

    def make_loop(self) -> Loop:
        """A loop on the clock that the constructor was given."""
        return super().make_loop() if self._clock is None else self._clock.make_loop()

    def boot(self, request: BootRequest) -> Node:
        """Start the next runner of the script; raises what the script says."""
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
        node = FakeNode(runner)
        with self._lock:
            self.nodes.append(node)
        return node


class FakeNode(Node):
    """A node that is a thread.

    Attributes:
        stops: how often it was given back.
    """

    def __init__(self, runner: FakeRunner) -> None:
        own_end, agent_end = socket.socketpair()
        self.stream = self._socket = own_end
        self._runner = runner
        self.host = runner.host
        self.stops = 0
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
        self.agent = FakeAgent(agent_end, None if runner.silent else claimed, runner.dies_after)
        self.agent.start()

    @property
    def is_running(self) -> bool:
        """Whether the runner is there."""
        return self.agent.is_alive()

    def kill(self) -> None:
        """End the runner without a word, as a crash does."""
        self.agent.cut()

    def freeze(self) -> None:
        """Have the runner say nothing any more, as a machine does that hangs."""
        self.agent.freeze()

    def stop(self) -> None:
        """See `Node`."""
        self.stops += 1
        if self._runner.hold_stop is not None:
            self._runner.hold_stop.wait()
        self._socket.close()
        self.agent.join()

    def output(self) -> str:
        """As the script says."""
        return self._runner.output
