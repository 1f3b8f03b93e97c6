"""The parent is killed at each request, and instances are lost: nothing that costs money is left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dragonfly_executor import DragonflyExecutor, RunnerLostError
from dragonfly_executor.backends.ec2.backend import EC2Backend
from dragonfly_executor.backends.owner import Liveness
from tests.support.ec2_world import EC2World, Fault
from tests.support.helpers import PATIENCE, Gate, Mailbox, error_of
from tests.support.payloads import hold, pid

pytestmark = pytest.mark.engine

MakeBackend = Callable[..., EC2Backend]


@contextmanager
def program(ec2: EC2World, folder: Path, mailbox: Mailbox, gate: Gate) -> Iterator[subprocess.Popen[str]]:
    """Run `tests.backends.ec2.program`; kill it if it still runs."""
    command = [sys.executable, "-m", "tests.backends.ec2.program"]
    words = [ec2.url, str(folder / "journal"), mailbox.path, gate.path]
    with subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_parent_that_is_killed_at_its_launch_leaves_nothing_for_a_sweep_to_miss(
    ec2: EC2World, make_backend: MakeBackend, tmp_path: Path, mailbox: Mailbox, gate: Gate, moment: str
) -> None:
    """Before EC2 carries the request out, and after that, before the answer."""
    with program(ec2, tmp_path, mailbox, gate) as parent:

        def kill() -> None:
            parent.kill()
            parent.wait()

        ec2.faults.append(Fault("RunInstances", loses=moment, call=kill))
        assert ec2.hung.wait(PATIENCE)
        parent.wait()
    backend = make_backend()
    assert backend.journal is not None
    (entry,) = backend.journal.entries()
    assert entry.node_id is None
    swept = backend.sweep()
    assert ([one.liveness for one in swept.destroyed], swept.left) == ([Liveness.GONE] * (moment == "after"), [])
    assert ec2.left() == []
    # EC2 might carry a request out later: its entry is kept until it expires.
    assert len(backend.journal.entries()) == (moment == "before")


def test_a_parent_that_is_killed_while_a_call_runs_leaves_nothing(
    ec2: EC2World, make_backend: MakeBackend, tmp_path: Path, mailbox: Mailbox, gate: Gate
) -> None:
    """No sweep: the runner ends with its connection, and the instance with its runner."""
    with program(ec2, tmp_path, mailbox, gate) as parent:
        mailbox.read()
        (instance_id,) = ec2.left()
        parent.kill()
        ec2.wait_until(lambda: not ec2.left(), "the end of the instance")
    assert ec2.played[instance_id].shutdowns()[-1] == "-h now"
    backend = make_backend()
    assert backend.sweep() == ([], [])


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_parent_that_is_killed_at_the_end_of_an_instance_leaves_nothing(
    ec2: EC2World, make_backend: MakeBackend, tmp_path: Path, mailbox: Mailbox, gate: Gate, moment: str
) -> None:
    with program(ec2, tmp_path, mailbox, gate) as parent:
        mailbox.read()

        def kill() -> None:
            parent.kill()
            parent.wait()

        ec2.faults.append(Fault("TerminateInstances", loses=moment, call=kill))
        gate.open()
        assert ec2.hung.wait(PATIENCE)
        parent.wait()
    make_backend().sweep()
    ec2.wait_until(lambda: not ec2.left(), "the end of the instance")


def test_an_instance_that_is_lost_loses_its_call_and_is_replaced(
    ec2: EC2World, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    with DragonflyExecutor(backend=make_backend(), max=1, max_concurrency=1) as executor:
        future = executor.submit(hold, mailbox.path, gate.path)
        mailbox.read()
        (instance_id,) = ec2.left()
        ec2.terminate(instance_id)
        assert isinstance(error_of(future), RunnerLostError)
        assert executor.submit(pid).result(PATIENCE)
        assert executor.pool.stats().boots_attempted == 2
    assert ec2.left() == []


def test_the_instance_of_a_killed_parent_whose_runner_hangs_is_swept_beside_the_next_boot(
    ec2: EC2World, make_backend: MakeBackend, tmp_path: Path, mailbox: Mailbox, gate: Gate
) -> None:
    """By its tags alone: the next program has another journal."""
    with program(ec2, tmp_path, mailbox, gate) as parent:
        mailbox.read()
        (left,) = ec2.left()
        # The instance's script hangs: no shutdown follows the end of the runner.
        ec2.played[left].process.send_signal(19)
        parent.kill()
        parent.wait()
    backend = make_backend(journal=tmp_path / "another")
    with DragonflyExecutor(backend=backend, max=1, max_concurrency=1) as executor:
        assert executor.submit(pow, 2, 5).result(PATIENCE) == 32
        ec2.wait_until(lambda: left not in ec2.left(), "the sweep beside the boot")
    assert ec2.left() == []
