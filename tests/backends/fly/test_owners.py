"""Whose a machine is, with real processes: other namespaces, copied environments, forks, two parents at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dragonfly_executor.backends.label import OwnerLabel
from dragonfly_executor.backends.owner import FIRST_SPACE, Liveness, Owner
from tests.backends.fly.asking import ASLEEP, Asker
from tests.backends.fly.boots import nothing_is_left
from tests.backends.fly.conftest import MakeBackend
from tests.backends.fly.test_leaks import REQUESTS, parent
from tests.support.fly_simulator.calls import Call
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import PATIENCE

OWN_PROCESSES = ("--pid", "--fork", "--kill-child", "--mount-proc")
"""As a container has it."""
TELL = (
    "from dragonfly_executor.backends.owner import Owner; me = Owner.me(); print(me.encode()); "
    "print(me.liveness(Owner.me()).value, flush=True)"
)


def unshared(*flags: str) -> list[str]:
    """What runs a command in namespaces of its own."""
    command = ["unshare", *flags]
    try:
        made = subprocess.run([*command, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare here: install util-linux")
    if made.returncode:
        pytest.skip(f"no namespace can be made here: {made.stderr.strip()}")
    return command


def told_in(*flags: str) -> tuple[Owner, Liveness]:
    """Who a process in other namespaces takes itself for, and whether it thinks that it lives."""
    done = subprocess.run([*unshared(*flags), sys.executable, "-c", TELL], capture_output=True, text=True, check=True)
    owner, liveness = done.stdout.splitlines()
    read = Owner.decode(owner)
    assert read is not None
    return read, Liveness(liveness)


def test_a_process_whose_proc_is_anothers_is_taken_for_no_other() -> None:
    """In a namespace of its own with /proc of the one outside, its number there is some other process's, or nobody's.

    Whoever shares that namespace would take it for gone while it lives, or for living when it is gone.
    """
    owner, liveness = told_in("--pid", "--fork")
    assert (owner.space, liveness) == ("", Liveness.UNKNOWN)


def test_a_container_knows_its_own_processes() -> None:
    owner, liveness = told_in(*OWN_PROCESSES)
    assert owner.pid == 1
    assert liveness is Liveness.ALIVE
    assert owner.liveness(Owner.me()) is Liveness.UNKNOWN


def test_clocks_of_another_namespace_are_not_compared() -> None:
    """Start times are told by them: a process would be taken for another one, and so for gone."""
    owner, liveness = told_in("--time", "--fork", "--boottime", "1000000")
    assert liveness is Liveness.ALIVE
    assert owner.liveness(Owner.me()) is Liveness.UNKNOWN


def test_a_copied_environment_makes_no_machine_of_fly(fly: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a laptop with the variables of a parent's machine that parent would be on another boot here: gone."""
    for name, value in fly.environment.items():
        monkeypatch.setenv(name, value)
    there = Owner.me()._replace(boot="of Fly")
    assert there.fly_machine == fly.parent.id
    monkeypatch.setenv("FLY_PRIVATE_IP", "fdaa:9:9:9::1")
    laptop = Owner.me()
    assert laptop.fly_machine is None
    assert there.liveness(laptop, is_here=True) is Liveness.UNKNOWN
    assert laptop.liveness(there, is_here=True) is Liveness.UNKNOWN


def test_a_container_of_the_same_name_on_another_boot_may_be_on_another_host() -> None:
    """Its image has given both the same machine-id, the journal is on a disk that both hosts have."""
    me = Owner.me()._replace(space="pid:[4026532177]")
    other = me._replace(boot="another", space="pid:[4026532300]")
    assert other.liveness(me, is_here=True) is Liveness.UNKNOWN
    assert other._replace(space=me.space).liveness(me, is_here=True) is Liveness.UNKNOWN
    outside = me._replace(space=FIRST_SPACE)
    assert outside._replace(boot="another").liveness(outside, is_here=True) is Liveness.GONE


SLEEPER = (
    "import signal; from dragonfly_executor import FlyBackend; "
    "from tests.backends.fly.boots import ASLEEP_CONFIG, boot; "
    "node = boot(FlyBackend(machine_config=ASLEEP_CONFIG)); print(node.machine_id, flush=True); signal.pause()"
)


def test_two_containers_with_one_name_and_one_journal_leave_each_others_machines(
    on_fly: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a process number 1. Neither can tell whether the other's lives."""
    monkeypatch.delenv("FLY_MACHINE_ID")
    container = unshared("--uts", *OWN_PROCESSES)
    with subprocess.Popen([*container, sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            machine_id = process.stdout.readline().strip()
            assert machine_id == on_fly.machine().id
            sweep = [*container, sys.executable, "-m", "dragonfly_executor", "sweep", "--yes"]
            done = subprocess.run(sweep, capture_output=True, text=True, check=True)
            assert "No machines are left behind" in done.stdout
            assert on_fly.machine().state == "started"
        finally:
            process.kill()
    on_fly.destroy(on_fly.machine())


USUAL = ("create", "destroy")
"""The moments that are tried each time, not in long runs alone."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in USUAL else pytest.mark.soak) for name in REQUESTS]
)
def test_a_sweep_at_any_moment_of_a_living_parent_takes_nothing(
    on_fly: Simulator, make_backend: MakeBackend, name: str
) -> None:
    """Also while it boots, and between a create and what the journal has of it."""
    # A machine that comes up at once needs no look at it.
    on_fly.timing.pull_time = 0.3
    swept: list[object] = []

    def sweep(_call: Call) -> None:
        swept.append(make_backend().sweep())

    on_fly.faults.on("*", where=lambda call: REQUESTS[name](call) and not swept, after=sweep)
    with parent(on_fly, calls=2) as process:
        assert process.wait(PATIENCE) == 0
    assert swept == [([], [])]
    nothing_is_left(on_fly, make_backend())


def test_of_two_parents_the_one_that_was_killed_is_swept_and_the_other_is_not(
    on_fly: Simulator, make_backend: MakeBackend
) -> None:
    """At once: nobody waits for a lease, or for the time that is written on the machines."""
    command = [sys.executable, "-c", SLEEPER]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as second,
    ):
        try:
            assert first.stdout is not None
            assert second.stdout is not None
            dead, alive = first.stdout.readline().strip(), second.stdout.readline().strip()
            first.kill()
            first.wait()
            swept = make_backend().sweep()
            assert [one.node_id for one in swept.destroyed] == [dead]
            assert swept.left == []
            assert [machine.id for machine in on_fly.history.left] == [alive]
        finally:
            first.kill()
            second.kill()
    make_backend().sweep()
    nothing_is_left(on_fly, make_backend())


def test_a_machine_of_a_number_that_was_given_out_again_is_swept(
    on_fly: Simulator, make_backend: MakeBackend, asker: Asker
) -> None:
    """A process lives that has the number of the one whose machine it was: a kernel of 32768 numbers comes round."""
    with subprocess.Popen([sys.executable, "-c", ASLEEP]) as process:
        try:
            owner = Owner.me()._replace(pid=process.pid, started=1)
            machine = asker.created("runner-a", ASLEEP, metadata=OwnerLabel("b", "p", owner, 2_000_000_000).encode())
            assert [one.name for one in make_backend().sweep().destroyed] == ["runner-a"]
            assert machine.state == "destroyed"
        finally:
            process.kill()


FORKER = """
import os
from dragonfly_executor import FlyBackend
from tests.backends.fly.boots import ASLEEP_CONFIG, boot

backend = FlyBackend(machine_config=ASLEEP_CONFIG, sweep=False)
# In it connections are kept.
node = boot(backend)
pid = os.fork()
if pid == 0:
    os._exit(0 if backend.sweep() == ([], []) else 1)
assert os.waitpid(pid, 0)[1] == 0
node.stop()
"""


def test_a_forked_child_does_not_speak_on_its_parents_connection(on_fly: Simulator, make_backend: MakeBackend) -> None:
    """Or each of them would read the other's answers. A web server that loads its application first forks like that."""
    connections: list[int] = []
    on_fly.faults.on("list", before=lambda _call: connections.append(len(on_fly.connections)))
    subprocess.run([sys.executable, "-c", FORKER], check=True, timeout=PATIENCE)
    assert connections == [2]
    nothing_is_left(on_fly, make_backend())
