"""The commands are told to end, or nobody reads what they print: nothing stays, and nothing ugly is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.backends.fly.test_leaks import REQUESTS, gone, label, machine_of
from tests.support.fly_simulator.calls import Call
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import PATIENCE


def command(*words: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dragonfly_executor", *words], stdout=stdout, stderr=subprocess.PIPE, text=True
    )


ENDINGS = {
    "once": ((signal.SIGINT,), 130, ("create", "watch", "destroy")),
    "thrice": ((signal.SIGINT,) * 3, 130, ("create",)),
    "terminated": ((signal.SIGTERM,), 143, ("create",)),
}
"""By how it is told: the signals, its status, and the moments that are tried each time, not in long runs alone."""


@pytest.mark.parametrize(
    ("numbers", "status", "moment"),
    [
        pytest.param(numbers, status, moment, id=f"{name}-{moment}", marks=() if moment in usual else pytest.mark.soak)
        for name, (numbers, status, usual) in ENDINGS.items()
        for moment in REQUESTS
    ],
)
def test_a_doctor_that_is_told_to_end_leaves_no_machine(
    on_fly: Simulator, numbers: tuple[signal.Signals, ...], status: int, moment: str
) -> None:
    on_fly.timing.pull_time = None if moment == "watch" else 0.01
    left, met = list(numbers), REQUESTS[moment]
    with command("doctor", "--backend", "fly", "--boot") as doctor:

        def end(_call: Call) -> None:
            if left:
                doctor.send_signal(left.pop(0))

        # The first meets that request; all others those that follow, which destroy what there is.
        on_fly.faults.on("*", where=lambda call: met(call) or len(left) < len(numbers), times=9, before=end)
        _, said = doctor.communicate(timeout=PATIENCE)
    assert len(left) < len(numbers)
    assert "Traceback" not in said, said
    assert doctor.returncode == status
    assert on_fly.history.left == []


@pytest.mark.parametrize("words", [["doctor", "--backend", "fly"], ["list"], ["list", "--json"], ["sweep", "--yes"]])
def test_nobody_has_to_read_what_is_printed(on_fly: Simulator, words: list[str]) -> None:
    """As with `| head`, which ends when it has seen enough. What is to be destroyed is destroyed all the same."""
    machine = machine_of(on_fly, label(owner=gone()).encode())
    read, write = os.pipe()
    os.close(read)
    with command(*words, stdout=write) as process:
        os.close(write)
        _, said = process.communicate(timeout=PATIENCE)
    assert said == ""
    assert process.returncode == 141
    assert (machine.state == "destroyed") == (words[0] == "sweep")


@pytest.mark.parametrize("words", [["doctor", "--backend", "fly", "--boot"], ["list"], ["sweep", "--yes"]])
def test_a_stdout_that_is_closed_is_no_trouble(on_fly: Simulator, words: list[str]) -> None:
    """As a service manager or `>&-` may have it."""
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "dragonfly_executor", *words]
    done = subprocess.run(shell, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert on_fly.history.left == []
