"""A machine for each runner: created, dialed back from, destroyed; and what is told when it does not come so far."""

from __future__ import annotations

from tests.fly.conftest import Make, MakeBackend
from tests.fly_simulator.simulator import Simulator
from tests.support import PATIENCE


def test_a_call_runs_on_a_machine_which_is_gone_afterwards(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    backend = make_backend()
    with make(backend) as executor:
        assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
        assert executor.submit(eval, "__import__('os').environ['FLY_MACHINE_ID']").result() == on_fly.machine().id
    assert on_fly.history.left == []
    assert backend.journal is not None
    assert backend.journal.entries() == []
