"""The first runner is launched before there is an engine. At each moment until a boot has it, it has an owner."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dragonfly_executor import Budget, DragonflyExecutor, LocalBackend, Node, Pool, StartError
from dragonfly_executor.api import lazy_engine, pool, pool_calls
from dragonfly_executor.api.assembly import EnginePlan
from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.engine import startup
from dragonfly_executor.engine.boot import boot_helpers
from dragonfly_executor.engine.boot.launched_node import FIRST_RUNNER, LaunchedNode
from dragonfly_executor.engine.engine import Engine
from dragonfly_executor.protocol.parent import Parent
from dragonfly_executor.testing import FakeBackend
from tests.processes.lifecycle import programs
from tests.processes.lifecycle.conftest import Start
from tests.processes.lifecycle.everywhere import PACKAGE, everywhere
from tests.processes.lifecycle.test_exit import outcome
from tests.support import payloads
from tests.support.census import Census
from tests.support.helpers import PATIENCE, Mailbox, ProcessHandle, all_ended, watching

GONE_WITHIN = 2.0


class LaunchingBackend(FakeBackend):
    """A backend whose nodes are threads, and whose first node is launched ahead."""

    def __init__(self, **tier: Any) -> None:
        super().__init__(**tier)
        self.launched: list[Node] = []

    def launch_ahead(self, parent: Parent) -> Node:
        node = self.boot(BootRequest(FIRST_RUNNER, parent, PATIENCE))
        self.launched.append(node)
        return node


@pytest.fixture
def while_launched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something happen after the launch, before there is an engine."""

    def set_up(action: Callable[[], object]) -> None:
        make = EnginePlan.make

        def make_after_action(plan: EnginePlan) -> Engine:
            action()
            return make(plan)

        monkeypatch.setattr(EnginePlan, "make", make_after_action)

    return set_up


def launched_process() -> int:
    """The process id of the only child of this process that is an agent."""
    (pid,) = programs.agents()
    return pid


def never() -> Iterator[int]:
    """A function that no submit accepts."""
    yield 1


def refuse(executor: DragonflyExecutor) -> None:
    """A submit that is refused after the launch."""
    with pytest.raises(TypeError, match="generator function"):
        executor.submit(never)


# -- the boot has it ---------------------------------------------------------------------------------------------------


def test_the_first_call_runs_in_the_process_that_was_launched_before_the_engine_was_made(
    while_launched: Callable[[Callable[[], object]], None],
) -> None:
    pids: list[int] = []
    while_launched(lambda: pids.append(launched_process()))
    with DragonflyExecutor(1) as executor:
        assert [executor.submit(payloads.agent_pid).result(PATIENCE)] == pids
        stats = executor.pool.stats()
        assert (stats.boots_attempted, stats.boots_failed) == (1, 0)


@pytest.mark.parametrize("sized", [True, False])
def test_a_map_launches_too_if_it_is_sure_that_it_has_calls(sized: bool) -> None:
    backend = LaunchingBackend()
    with DragonflyExecutor(1, backend=backend) as executor:
        items = [1, 2]
        assert list(executor.map(payloads.echo, items if sized else iter(items))) == items
        assert len(backend.launched) == sized
        assert len(backend.nodes) == 1


def test_a_pool_with_runners_that_are_kept_launches_the_first_as_it_is_made() -> None:
    backend = LaunchingBackend()
    with Pool("kept", min=2, max=2, backend=backend) as kept:
        assert len(backend.launched) == 1
        assert kept.call(payloads.echo, 1) == 1
    assert len(backend.nodes) == 2


# -- nothing is launched -----------------------------------------------------------------------------------------------


def test_no_process_starts_before_a_call_is_submitted(census: Census) -> None:
    before = census.look()
    with DragonflyExecutor(1) as executor:
        assert executor.pool.stats().boots_attempted == 0
        assert "runners 0" in repr(executor)
        assert list(executor.map(payloads.echo, [])) == []
        assert list(executor.map(payloads.echo, iter(()))) == []
        with pytest.raises(ValueError, match="chunksize"):
            executor.map(payloads.echo, [1], chunksize=0)
        executor.share([1]).close()
        left = census.look() - before
        assert not left.processes


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({}, {"requires": {"memory": 1}}),
        ({"budget": Budget(machine_time=100)}, {}),
        ({"on_grow_start": print}, {}),
    ],
    ids=["requires", "budget", "on_grow_start"],
)
def test_nothing_is_launched_if_the_first_boot_may_differ(options: dict[str, Any], call: dict[str, Any]) -> None:
    backend = LaunchingBackend()
    with DragonflyExecutor(1, backend=backend, **options) as executor:
        assert executor.options(**call).submit(payloads.echo, 1).result(PATIENCE) == 1
    assert backend.launched == []


def test_nothing_is_launched_for_several_backends_or_one_with_a_budget_of_its_own() -> None:
    for backends in ([LaunchingBackend(), LaunchingBackend()], [LaunchingBackend(budget=Budget(machine_time=100))]):
        with DragonflyExecutor(1, backend=list(backends)) as executor:
            assert executor.submit(payloads.echo, 1).result(PATIENCE) == 1
        assert [backend.launched for backend in backends] == [[]] * len(backends)


def test_a_backend_that_boots_in_a_way_of_its_own_is_asked_for_each_boot() -> None:
    asked = []

    class Own(LocalBackend):
        def boot(self, request: BootRequest) -> Node:
            asked.append(request.runner_id)
            return super().boot(request)

    with DragonflyExecutor(1, backend=Own()) as executor:
        assert executor.submit(payloads.echo, 1).result(PATIENCE) == 1
    assert asked == [FIRST_RUNNER]


def test_a_node_fits_one_boot_alone() -> None:
    parent = Parent.new("pool", FIRST_RUNNER, "local")
    node = Node()
    launched = LaunchedNode(parent, node)
    for other in (Parent.new("pool", 2, "local"), Parent.new("other", 1, "local"), Parent.new("pool", 1, "fake")):
        assert launched.take_for(other) is None
    assert launched.take_for(Parent.new("pool", FIRST_RUNNER, "local")) is node
    assert launched.take_for(parent) is None
    launched.stop()
    assert list(launched.descriptors()) == []


# -- nobody asks for it ------------------------------------------------------------------------------------------------


def test_a_launch_for_a_submit_that_is_refused_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot_helpers, "KEPT", 0.0)
    with DragonflyExecutor(1) as executor:
        with monkeypatch.context() as patch:
            seen: list[int] = []
            take = LaunchedNode.take

            def see(launched: LaunchedNode) -> Node | None:
                node: Any = take(launched)
                seen.extend([] if node is None else [node._process.pid])
                return node

            patch.setattr(LaunchedNode, "take", see)
            refuse(executor)
            while not seen:
                executor.pool.stats()  # the engine thread answers, and is at its timers between two questions
        with watching(*seen, may_be_gone=True) as watches:
            assert all_ended(watches, GONE_WITHIN)
        assert executor.submit(payloads.agent_pid).result(PATIENCE) not in seen
        assert executor.pool.stats().boots_attempted == 1


def test_the_call_after_one_that_was_refused_gets_the_launch() -> None:
    with DragonflyExecutor(1) as executor:
        refuse(executor)
        pid = launched_process()
        assert executor.submit(payloads.agent_pid).result(PATIENCE) == pid


@pytest.mark.parametrize("how", ["shutdown", "kill", "dropped"])
def test_a_launch_that_nobody_asked_for_goes_with_its_pool(how: str) -> None:
    executor = DragonflyExecutor(1)
    refuse(executor)
    with watching(launched_process()) as watches:
        if how == "shutdown":
            executor.shutdown()
        elif how == "kill":
            executor.kill_workers()
        else:
            del executor
        assert all_ended(watches, GONE_WITHIN)


@pytest.mark.parametrize("how", ["shutdown", "kill_workers"])
def test_a_pool_that_ends_after_the_launch_and_before_there_is_an_engine(
    while_launched: Callable[[Callable[[], object]], None], how: str
) -> None:
    executor = DragonflyExecutor(1)
    watches: list[ProcessHandle] = []

    def end() -> None:
        watches.append(ProcessHandle(launched_process()))
        executor.shutdown(wait=False) if how == "shutdown" else executor.kill_workers()

    while_launched(end)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(payloads.echo, 1)
    executor.shutdown()
    assert all_ended(watches, GONE_WITHIN)
    watches[0].close()


def test_a_launch_that_dies_is_a_boot_that_failed(while_launched: Callable[[Callable[[], object]], None]) -> None:
    while_launched(lambda: os.kill(launched_process(), signal.SIGKILL))
    with DragonflyExecutor(1) as executor:
        assert executor.submit(payloads.echo, 1).result(PATIENCE) == 1
        assert executor.pool.stats().boots_failed == 1


# -- shortage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.parametrize(
    "error", [OSError(24, "Too many open files"), MemoryError(), RuntimeError("no thread")], ids=repr
)
def test_a_launch_that_leaves_too_little_for_the_engine_is_undone(
    monkeypatch: pytest.MonkeyPatch, error: Exception, failures: int
) -> None:
    """The engine is then started without it; and if that fails too, the next submit tries again."""
    backend = LaunchingBackend()
    left = [error] * failures
    bring_up = Engine.bring_up

    def fail(engine: Engine, launched: LaunchedNode | None = None) -> None:
        if left:
            raise left.pop()
        bring_up(engine, launched)

    monkeypatch.setattr(Engine, "bring_up", fail)
    with DragonflyExecutor(1, backend=backend) as executor:
        if failures == 2:
            with pytest.raises(StartError):
                executor.submit(payloads.echo, 1)
            assert backend.running == []
        assert executor.submit(payloads.echo, 1).result(PATIENCE) == 1
        assert len(backend.running) == 1


def test_a_process_that_cannot_be_launched_fails_as_a_boot() -> None:
    with DragonflyExecutor(1, backend=LocalBackend(python="/nowhere/python")) as executor:
        error = executor.submit(payloads.echo, 1).exception(PATIENCE)
    assert "cannot start /nowhere/python" in str(error)


# -- interrupts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "each_opcode", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["lines", "opcodes"]
)
@pytest.mark.parametrize("what", ["submit", pytest.param("map", marks=pytest.mark.exhaustive)])
def test_a_first_use_that_is_interrupted_anywhere(each_opcode: bool, what: str) -> None:
    backends: list[LaunchingBackend] = []
    made: list[DragonflyExecutor] = []

    def make() -> None:
        backends.append(LaunchingBackend())
        made[:] = [DragonflyExecutor(2, backend=backends[-1])]

    def use() -> None:
        if what == "submit":
            made[0].submit(payloads.echo, 1)
        else:
            made[0].map(payloads.echo, [1, 2])

    make()
    # The first call of a new codec takes thousands of steps more, and hands nothing over.
    files = (
        (lazy_engine.__file__, pool.__file__, pool_calls.__file__, startup.__file__)
        if each_opcode
        else (f"{PACKAGE}/api/", f"{PACKAGE}/engine/")
    )
    for where in everywhere(use, each_opcode=each_opcode, files=files):
        assert made[0].submit(payloads.echo, where).result(PATIENCE) == where
        made[0].shutdown()
        assert backends[-1].running == [], where
        assert len(backends[-1].nodes) == 1, where
        make()
    made[0].shutdown()


def test_a_first_submit_to_a_real_runner_that_is_interrupted_and_whose_pool_is_dropped() -> None:
    """At each step of the thread that submits: the runner goes with its pool, whoever had it."""
    files = (lazy_engine.__file__, startup.__file__)
    for where in everywhere(lambda: DragonflyExecutor(1).submit(payloads.echo, 1), files=files):
        for thread in threading.enumerate():
            if thread.name.startswith("dragonfly-executor-"):
                # Another thread may be about to start it, and it cannot be joined before.
                assert thread._started.wait(PATIENCE), where  # type: ignore[attr-defined]
                thread.join(PATIENCE)
                assert not thread.is_alive(), where


# -- the process -------------------------------------------------------------------------------------------------------


def test_a_fork_after_the_launch_keeps_nothing_of_it(start: Start) -> None:
    assert outcome(start("fork_after_launch")) == (0, "[] ForkedExecutorError fine fine\n0 1024\n", "")


def test_a_parent_that_is_killed_after_the_launch_leaves_nobody(start: Start, mailbox: Mailbox) -> None:
    parent = start("hang_after_launch", mailbox.path)
    with watching(int(mailbox.read())) as watches:
        parent.kill()
        assert all_ended(watches, GONE_WITHIN)


@pytest.mark.parametrize("how", ["refused", "interrupted"])
def test_an_interpreter_that_ends_after_the_launch_leaves_nobody(start: Start, mailbox: Mailbox, how: str) -> None:
    process = start("end_after_launch", mailbox.path, how)
    with watching(int(mailbox.read()), may_be_gone=True) as watches:
        code, stdout, stderr = outcome(process)
        assert all_ended(watches, 0.0), "the runner outlives its parent"
    assert stdout == ""
    if how == "refused":
        assert (code, stderr) == (0, "")
    else:
        # 1 if a thread that still imports makes Python forget that an interrupt ended the program.
        assert code in (-signal.SIGINT, 130, 1)
        assert stderr.endswith("\nKeyboardInterrupt\n")
        assert stderr.count("Traceback") == 1
