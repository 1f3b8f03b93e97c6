"""The contract of every backend, as tests that its author can run."""

from __future__ import annotations

import threading
import time
import unittest
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from dragonfly_executor import errors
from dragonfly_executor.api.executor import DragonflyExecutor
from dragonfly_executor.backends.base import Backend, BootRequest, CancelToken, Node, Stream
from dragonfly_executor.protocol.frames import Kind
from dragonfly_executor.protocol.handshake import read_hello
from dragonfly_executor.testing.batch_contract import BatchContract
from dragonfly_executor.testing.leftover_contract import check_same, check_that
from dragonfly_executor.testing.node_streams import first_frame

SHARED_SIZE = 100_000
"""Size in bytes of an object that a runner asks for, because it is too large for the payload of a call."""


class BackendContract(BatchContract):
    """Test methods for any backend; pytest and unittest find them in a subclass.

        class TestMyBackend(BackendContract):
            def make_backend(self):
                return MyBackend(region="ams")
            ...

    Attributes:
        patience: seconds that a boot, a call or an end may take.
        give_up_patience: seconds that a boot may take to end after it was given up.
    """

    patience: float = 60.0
    give_up_patience: float = 2.0

    # -- implemented by the author ------------------------------------------------------------------------------------

    def make_backend(self) -> Backend:
        """Return a backend that works."""
        raise NotImplementedError

    def make_broken_backend(self) -> Backend:
        """Return a backend whose boots all fail."""
        raise NotImplementedError

    def kill(self, node: Node) -> None:
        """Kill the runner on this node without notice, as a crash or a power cut does."""
        raise NotImplementedError

    def left_running(self, backend: Backend) -> Sequence[object]:
        """Return the nodes of this backend that still run or cost money, without waiting for any of them."""
        raise NotImplementedError

    def hanging_steps(self) -> Sequence[str]:
        """Return the names of the steps of a boot that may hang: each request, each wait, the runner itself.

        The author chooses the names, and `make_hanging_backend` gets them. Without names, the tests of hanging boots
        are skipped.
        """
        return ()

    def make_hanging_backend(self, step: str) -> tuple[Backend, Callable[[], object]]:
        """Return a backend whose boots hang at this step for ever, and a function that returns once a boot hangs there.

        The step hangs regardless of the boot's timeout: a server that accepts a connection and never answers, or a
        program that never writes.
        """
        raise NotImplementedError

    # -- the contract -------------------------------------------------------------------------------------------------

    def test_a_runner_boots_and_answers(self) -> None:
        """Check that a call returns from a runner, that it gets a shared object, and that shutdown ends the runner."""
        backend = self.make_backend()
        with self._executor(backend) as executor:
            check_same(executor.submit(pow, 2, 10).result(self.patience), 1024)
            with executor.share(bytes(SHARED_SIZE)) as shared:
                check_same(executor.submit(len, shared).result(self.patience), SHARED_SIZE)
            check_same(executor.pool.stats().runners_up, 1)
        self._nothing_is_left(backend)

    def test_the_first_that_a_runner_says_is_hello(self) -> None:
        """Check that nothing precedes HELLO on the stream, for example a login banner."""
        backend = self.make_backend()
        with self._node_streams(backend) as streams:
            node = backend.boot(streams.request(1))
            try:
                read_hello(bytes(first_frame(streams.stream(node, 1)).payload))
            finally:
                node.stop()
        self._nothing_is_left(backend)

    def test_two_nodes_at_once_are_two(self) -> None:
        """Check that nodes are booted independently, and that stopping one does not affect another."""
        backend = self.make_backend()
        with self._node_streams(backend) as streams:
            first, second = backend.boot(streams.request(1)), backend.boot(streams.request(2))
            try:
                first.stop()
                check_same(first_frame(streams.stream(second, 2)).kind, Kind.HELLO)
            finally:
                second.stop()
        self._nothing_is_left(backend)

    def test_a_node_can_be_stopped_twice(self) -> None:
        """Check that the second stop does nothing, and raises nothing."""
        backend = self.make_backend()
        with self._node_streams(backend) as streams:
            node = backend.boot(streams.request(1))
            node.stop()
            node.stop()
        self._nothing_is_left(backend)

    def test_a_node_can_be_stopped_before_anybody_spoke_with_it(self) -> None:
        """Check that nothing of the node is left, whatever its agent was about to do."""
        backend = self.make_backend()
        with self._node_streams(backend) as streams:
            backend.boot(streams.request(1)).stop()
        self._nothing_is_left(backend)

    def test_a_node_can_be_stopped_when_nobody_waits_for_its_runner(self) -> None:
        """Check a runner that dials back too late and is refused, which is how a boot ends that was given up.

        A backend that waits for its runner detects the refusal, and raises.
        """
        backend = self.make_backend()
        with self._node_streams(backend) as streams, suppress(errors.BootError):
            request = streams.request(1)
            streams.forget(1)
            backend.boot(request).stop()
        self._nothing_is_left(backend)

    def test_a_killed_runner_ends_its_stream(self) -> None:
        """Check that the stream of a killed runner ends, by which the parent detects its death."""
        backend = self.make_backend()
        with self._node_streams(backend) as streams:
            node = backend.boot(streams.request(1))
            try:
                stream = streams.stream(node, 1)
                first_frame(stream)
                self.kill(node)
                _ends(stream)
            finally:
                node.stop()
        self._nothing_is_left(backend)

    def test_a_killed_runner_can_still_be_stopped(self) -> None:
        """Check that `stop` removes the rest of the node, and raises nothing."""
        backend = self.make_backend()
        with self._node_streams(backend) as streams:
            node = backend.boot(streams.request(1))
            self.kill(node)
            node.stop()
        self._nothing_is_left(backend)

    def test_a_killed_runner_is_replaced(self) -> None:
        """Check that calls after a runner's death run on the next runner."""
        backend = _Recording(self.make_backend())
        with self._executor(backend) as executor:
            check_same(executor.submit(pow, 2, 3).result(self.patience), 8)
            self.kill(backend.nodes[0])
            # A call that is sent before the death is detected is lost with the runner.
            check_same(executor.options(retries=2).submit(pow, 2, 4).result(self.patience), 16)
            check_same(len(backend.nodes), 2)
        self._nothing_is_left(backend.real)

    def test_a_boot_that_fails_raises_a_boot_error_with_its_cause(self) -> None:
        """Check that a failed boot reports the original error as its cause, or the node's output."""
        backend = self.make_broken_backend()
        with self._node_streams(backend) as streams:
            failed = self._failed_boot(backend, streams.request(1))
            check_that(failed is not None, "the boot did not fail")
            told = failed is not None and (failed.__cause__ is not None or bool(failed.output))
            check_that(told, f"{failed!r} does not say what caused it")
        self._nothing_is_left(backend)

    def test_calls_learn_why_no_runner_boots(self) -> None:
        """Check that calls get the boot's error, and that none waits for ever."""
        backend = self.make_broken_backend()
        with self._executor(backend, max_boot_failures=1) as executor:
            error = executor.submit(pow, 2, 10).exception(self.patience)
            check_that(isinstance(error, errors.BootError), f"the call ended with {error!r}")
        self._nothing_is_left(backend)

    def test_a_boot_that_hangs_is_given_up_at_any_step(self) -> None:
        """Check that `boot` ends once `BootRequest.given_up` is set.

        It must raise a `BootError`, or return a node that can be stopped, within `give_up_patience`. Nothing may be
        left.
        """
        for step, backend, wait in self._hanging():
            with self._node_streams(backend) as streams:
                given_up, ended = CancelToken(), SimpleQueue[BaseException | None]()
                request = streams.request(1)._replace(given_up=given_up)
                args = (backend, request, given_up, ended)
                threading.Thread(target=_boot, args=args, name="contract-boot", daemon=True).start()
                wait()
                given_up.set()
                try:
                    error = ended.get(timeout=self.give_up_patience)
                except Empty:
                    text = f"a boot that hung at {step!r} did not end within {self.give_up_patience:g} s"
                    raise AssertionError(text) from None
                check_that(
                    error is None or isinstance(error, errors.BootError), f"at {step!r} the boot raised {error!r}"
                )
            self._nothing_is_left(backend)

    def test_a_pool_that_ends_does_not_wait_for_a_boot_that_hangs(self) -> None:
        """Check that a pool ends in time during a hanging boot, for example after Ctrl-C.

        Its calls are cancelled, and its boots given up.
        """
        for step, backend, wait in self._hanging():
            executor = self._executor(backend)
            future = executor.submit(pow, 2, 10)
            wait()
            began = time.monotonic()
            cancelled = future.cancel()
            executor.shutdown()
            took = time.monotonic() - began
            check_that(cancelled, f"the call ended although its boot hung at {step!r}")
            text = f"a pool whose boot hung at {step!r} took {took:.1f} s to end, not {self.give_up_patience:g} s"
            check_that(took < self.give_up_patience, text)
            self._nothing_is_left(backend)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _hanging(self) -> Iterator[tuple[str, Backend, Callable[[], object]]]:
        steps = self.hanging_steps()
        if not steps:
            raise unittest.SkipTest("hanging_steps() names no step at which a boot may hang")
        for step in steps:
            yield step, *self.make_hanging_backend(step)

    def _failed_boot(self, backend: Backend, request: BootRequest) -> errors.BootError | None:
        """Return the error of a boot, at once or after its node has waited in a queue; None if it did not fail."""
        try:
            node = backend.boot(request)
        except errors.BootError as error:
            return error
        failed, deadline = None, time.monotonic() + self.patience
        waits = node.is_queued
        while waits and failed is None and time.monotonic() < deadline:
            failed = node.ended(1.0)
        node.stop()
        return failed

    def _executor(self, backend: Backend, **options: Any) -> DragonflyExecutor:
        return DragonflyExecutor(backend=backend, max=1, max_concurrency=2, **options)


class _Recording(Backend):
    """A wrapper of a backend that records the nodes that it has booted."""

    def __init__(self, real: Backend) -> None:
        self.real = real
        self.sync = self.real.sync
        self.nodes: list[Node] = []
        self.name, self.default_max, self.default_boot_timeout = real.name, real.default_max, real.default_boot_timeout
        self.max_concurrent_boots, self.dials_back = real.max_concurrent_boots, real.dials_back
        self.max_boots_per_request = real.max_boots_per_request
        self.advertised_host, self.advertised_port = real.advertised_host, real.advertised_port

    def listen_address(self) -> tuple[str, int]:
        """See `Backend`."""
        return self.real.listen_address()

    def default_slots(self) -> int | None:
        """See `Backend`."""
        return self.real.default_slots()

    def default_placement(self) -> str:
        """See `Backend`."""
        return self.real.default_placement()

    def boot(self, request: BootRequest) -> Node:
        """See `Backend`."""
        self.nodes.append(self.real.boot(request))
        return self.nodes[-1]

    def boot_many(self, requests: Sequence[BootRequest]) -> Iterator[tuple[BootRequest, Node | errors.BootError]]:
        """See `Backend`."""
        for request, outcome in self.real.boot_many(requests):
            if isinstance(outcome, Node):
                self.nodes.append(outcome)
            yield request, outcome


def _boot(
    backend: Backend, request: BootRequest, given_up: CancelToken, ended: SimpleQueue[BaseException | None]
) -> None:
    """Boot a node, and stop it once the boot is given up; on a thread of its own."""
    try:
        node = backend.boot(request)
        given_up.wait()
        node.stop()
    # The test reports any error.
    except BaseException as error:
        ended.put(error)
    else:
        ended.put(None)


def _ends(stream: Stream) -> None:
    """Read until the stream ends or breaks."""
    try:
        while stream.recv(4096):
            continue
    except OSError:
        return
