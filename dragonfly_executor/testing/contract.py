"""What every backend must do, as tests that its author can run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dragonfly_executor import errors
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.core.handshake import read_hello
from dragonfly_executor.core.wire import Decoder, Frame, Kind
from dragonfly_executor.executor import DragonflyExecutor
from dragonfly_executor.parent import Parent


class BackendContract:
    """Test methods for any backend; pytest and unittest find them in a subclass.

        class TestMyBackend(BackendContract):
            def make_backend(self):
                return MyBackend(region="ams")
            ...

    Attributes:
        patience: seconds that a boot, a call or an end may take.
    """

    patience: float = 60.0

    # -- what the author gives ----------------------------------------------------------------------------------------

    def make_backend(self) -> Backend:
        """A backend that works."""
        raise NotImplementedError

    def make_broken_backend(self) -> Backend:
        """A backend none of whose boots can succeed."""
        raise NotImplementedError

    def kill(self, node: Node) -> None:
        """End the runner on this node without asking it, as a crash or a power cut does."""
        raise NotImplementedError

    def left_running(self, backend: Backend) -> Sequence[object]:
        """Whatever of the nodes that this backend has booted still runs, or costs money; waits for none of it."""
        raise NotImplementedError

    # -- the contract -------------------------------------------------------------------------------------------------

    def test_a_runner_boots_and_answers(self) -> None:
        """A call comes back from a runner, which is gone after the pool's shutdown."""
        backend = self.make_backend()
        with self._executor(backend) as executor:
            _same(executor.submit(pow, 2, 10).result(self.patience), 1024)
            _same(executor.pool.stats().runners_up, 1)
        self._nothing_is_left(backend)

    def test_the_first_that_a_runner_says_is_hello(self) -> None:
        """Nothing, a login banner least of all, comes before it on the stream."""
        backend = self.make_backend()
        node = backend.boot(self._request(backend))
        try:
            if node.stream is not None:
                read_hello(bytes(_first_frame(node).payload))
        finally:
            node.stop()
        self._nothing_is_left(backend)

    def test_two_nodes_at_once_are_two(self) -> None:
        """Nodes are booted independently, and to stop one leaves the other alone."""
        backend = self.make_backend()
        first, second = backend.boot(self._request(backend, 1)), backend.boot(self._request(backend, 2))
        try:
            first.stop()
            if second.stream is not None:
                _same(_first_frame(second).kind, Kind.HELLO)
        finally:
            second.stop()
        self._nothing_is_left(backend)

    def test_a_node_can_be_stopped_twice(self) -> None:
        """The second time does nothing, and raises nothing."""
        backend = self.make_backend()
        node = backend.boot(self._request(backend))
        node.stop()
        node.stop()
        self._nothing_is_left(backend)

    def test_a_node_can_be_stopped_before_anybody_spoke_with_it(self) -> None:
        """Whatever the agent on it was about to do, nothing of it is left."""
        backend = self.make_backend()
        backend.boot(self._request(backend)).stop()
        self._nothing_is_left(backend)

    def test_a_killed_runner_ends_its_stream(self) -> None:
        """That is how the parent learns of it."""
        backend = self.make_backend()
        node = backend.boot(self._request(backend))
        try:
            if node.stream is not None:
                _first_frame(node)
                self.kill(node)
                _ends(node)
        finally:
            node.stop()
        self._nothing_is_left(backend)

    def test_a_killed_runner_can_still_be_stopped(self) -> None:
        """`stop` clears away what is left of the node, and raises nothing."""
        backend = self.make_backend()
        node = backend.boot(self._request(backend))
        self.kill(node)
        node.stop()
        self._nothing_is_left(backend)

    def test_a_killed_runner_is_replaced(self) -> None:
        """Calls after its death run on the next runner."""
        backend = _Recording(self.make_backend())
        with self._executor(backend) as executor:
            _same(executor.submit(pow, 2, 3).result(self.patience), 8)
            self.kill(backend.nodes[0])
            # One that is sent before the death is noticed is lost with the runner.
            _same(executor.options(retries=2).submit(pow, 2, 4).result(self.patience), 16)
            _same(len(backend.nodes), 2)
        self._nothing_is_left(backend.real)

    def test_a_boot_that_fails_raises_a_boot_error_with_its_cause(self) -> None:
        """The cause is what went wrong, in the words of whoever noticed it."""
        backend = self.make_broken_backend()
        try:
            node = backend.boot(self._request(backend))
        except errors.BootError as error:
            _check(error.__cause__ is not None or bool(error.output), f"{error!r} does not say what caused it")
        else:
            node.stop()
            raise AssertionError("the boot did not fail")
        self._nothing_is_left(backend)

    def test_calls_learn_why_no_runner_boots(self) -> None:
        """They get the boot's error, and nothing waits for ever."""
        backend = self.make_broken_backend()
        with self._executor(backend, max_boot_failures=1) as executor:
            error = executor.submit(pow, 2, 10).exception(self.patience)
            _check(isinstance(error, errors.BootError), f"the call ended with {error!r}")
        self._nothing_is_left(backend)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _executor(self, backend: Backend, **options: Any) -> DragonflyExecutor:
        return DragonflyExecutor(backend=backend, max=1, max_concurrency=2, **options)

    def _request(self, backend: Backend, number: int = 1) -> BootRequest:
        return BootRequest(number, Parent.new("contract", number, backend.name), self.patience)

    def _nothing_is_left(self, backend: Backend) -> None:
        left = list(self.left_running(backend))
        _check(not left, f"still there: {left}")


class _Recording(Backend):
    """Another backend, and the nodes that it has booted."""

    def __init__(self, real: Backend) -> None:
        self.real = real
        self.sync = self.real.sync
        self.nodes: list[Node] = []
        self.name, self.default_max, self.default_boot_timeout = real.name, real.default_max, real.default_boot_timeout

    def default_slots(self) -> int | None:
        """See `Backend`."""
        return self.real.default_slots()

    def boot(self, request: BootRequest) -> Node:
        """See `Backend`."""
        self.nodes.append(self.real.boot(request))
        return self.nodes[-1]


def _first_frame(node: Node) -> Frame:
    """What the runner says first, in however many pieces it comes."""
    decoder = Decoder(one_by_one=True)
    while node.stream is not None and (data := node.stream.recv(4096)):
        if frames := decoder.feed(data):
            return frames[0]
    raise AssertionError("the stream ended before the runner had said anything")


def _ends(node: Node) -> None:
    """Read to the end of the stream, which a broken connection is as well."""
    try:
        while node.stream is not None and node.stream.recv(4096):
            continue
    except OSError:
        return


def _same(found: object, expected: object) -> None:
    _check(found == expected, f"{found!r} is not {expected!r}")


def _check(holds: bool, complaint: str) -> None:
    # Not the statement: whoever runs this has no rewriting of asserts here, and may run it with -O.
    if not holds:
        raise AssertionError(complaint)
