"""Networks that fail while a runner boots: the error says how far it came, the next boot works, and nothing stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import BootError, HostKeyError, VersionMismatchError
from dragonfly_executor.backends.ssh import node
from dragonfly_executor.sync import Sync
from tests.ssh.conftest import Make, MakeBackend, MakeHost
from tests.ssh.faults import STAGES, FaultyWay, at_stage, nothing_stays
from tests.support import PATIENCE, error_of

Fault = Callable[[FaultyWay], object]
BRIEF: dict[str, Any] = {"boot_timeout": 3.0, "max_boot_failures": 1, "heartbeat": 0.1, "dead_after": 0.6, "lease": 1.0}
"""A boot is given up in a small part of the time."""
UNHURRIED = BRIEF | {"boot_timeout": PATIENCE}
"""Where a fault shows by itself: no boot needs to be given up for it, and the next one has the time that it takes."""


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that says nothing more is not given five seconds to end its runner."""
    monkeypatch.setattr(node, "STOP_PATIENCE", 0.2)


FAULTS: dict[str, Fault] = {
    "cut on the way there": lambda way: way.cut_after(way.up, 0),
    "cut within an answer": lambda way: way.cut_after(way.down, 30),
    "reset": lambda way: way.cut_after(way.down, 1, abrupt=True),
    "nothing comes through": lambda way: way.silence(),
    "nothing comes back": lambda way: way.silence(way.down),
    "nothing gets there": lambda way: way.silence(way.up),
    "nothing is taken": lambda way: way.stick(way.up),
}
ALWAYS = {
    "cut on the way there": {"bootstrap"},
    "cut within an answer": set(STAGES),
    "reset": {"auth", "command"},
    "nothing comes through": {"key exchange", "command", "handshake"},
    "nothing comes back": {"auth", "command"},
    "nothing gets there": {"session", "bootstrap"},
    "nothing is taken": {"sync"},
}
"""What the suite has time for: each stage, and each fault. The others are for the soak."""
CASES = [
    pytest.param(fault, stage, marks=() if stage in ALWAYS[fault] else pytest.mark.soak)
    for fault in FAULTS
    for stage in STAGES
]


@pytest.mark.parametrize(("fault", "stage"), CASES)
def test_a_boot_that_the_network_ends_says_how_far_it_came_and_the_next_one_works(
    way: FaultyWay, fault: str, stage: str, make_backend: MakeBackend, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checklist 8, 18, 54, 56. The host's half of the boot ends though nobody can tell it to."""
    with monkeypatch.context() as patched:
        at_stage(patched, stage, lambda: FAULTS[fault](way))
        shows = fault.startswith(("cut", "reset"))
        options = UNHURRIED if shows else BRIEF
        executor = make(make_backend(way, connect_timeout=PATIENCE if shows else 1.0), **options)
        error = error_of(executor.submit(pow, 2, 10))
    assert isinstance(error, BootError)
    assert error.phase in STAGES[stage][1]
    assert way.spec in str(error)
    assert "refused" not in str(error)
    nothing_stays(way.host)
    way.heal()
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024


@pytest.mark.parametrize("fault", ["cut", "silence"])
def test_an_archive_that_does_not_get_there_whole_is_not_there(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Checklist 54. Half of it is on the way when the network fails; the next boot sends it anew."""
    host = make_host()
    with FaultyWay(host) as way:
        with monkeypatch.context() as patched:
            spoil = {
                "cut": lambda: way.cut_after(way.up, 100_000),
                "silence": lambda: way.silence_after(way.up, 100_000),
            }
            at_stage(patched, "bootstrap", spoil[fault])
            executor = make(make_backend(way), **(UNHURRIED if fault == "cut" else BRIEF))
            error = error_of(executor.submit(pow, 2, 10))
        assert isinstance(error, BootError)
        assert error.phase == "bootstrap"
        nothing_stays(host)
        assert host.archives == []
        way.heal()
        assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
        executor.shutdown()
        assert len(host.archives) == 1


@pytest.mark.parametrize("fault", ["cut", "silence"])
def test_files_that_do_not_all_get_there_fail_the_boot_and_are_sent_anew(
    way: FaultyWay,
    make_backend: MakeBackend,
    make: Make,
    tmp_path: Path,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checklist 54. Half of the user's own files is on the way when the network fails."""
    monkeypatch.chdir(tmp_path)
    content = os.urandom(1 << 20)  # else the host has it from before
    Path("table.bin").write_bytes(content)
    with monkeypatch.context() as patched:
        spoil = {"cut": lambda: way.cut_after(way.up, 300_000), "silence": lambda: way.silence_after(way.up, 300_000)}
        at_stage(patched, "sync", spoil[fault])
        executor = make(make_backend(way, sync=Sync(["table.bin"])), **(UNHURRIED if fault == "cut" else BRIEF))
        error = error_of(executor.submit(pow, 2, 10))
    assert isinstance(error, BootError)
    assert error.phase == "sync"
    assert way.spec in str(error)
    nothing_stays(way.host)
    way.heal()
    assert executor.submit(lambda: __import__("pathlib").Path("table.bin").read_bytes()).result(PATIENCE) == content


FLIPS = [0, 30, 300]
"""Bytes from the beginning of a stage. The banner and the algorithms come first, and nothing vouches for them alone."""


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize(
    "stage",
    ["key exchange", "bootstrap", *(pytest.param(stage, marks=pytest.mark.soak) for stage in ("auth", "sync"))],
)
def test_a_bit_that_turns_over_harms_a_boot_at_most(
    way: FaultyWay, direction: str, stage: str, make_backend: MakeBackend, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checklist 44. It is nobody's key and no version that is wrong: a host is not refused for ever because of it."""
    places = iter(FLIPS)
    turned: list[int] = []

    def turn() -> None:
        for place in places:
            way.flip_after(getattr(way, direction), place)
            turned.append(place)
            return
        way.heal()

    at_stage(monkeypatch, stage, turn)
    options = BRIEF | {"max_boot_failures": len(FLIPS) + 1, "single_use": True}
    executor = make(make_backend(way, connect_timeout=1.0, host_wait=lambda state: 0.0), **options)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    while len(turned) < len(FLIPS):
        # One that turned over in padding has harmed nothing.
        assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    assert not isinstance(executor.submit(pow, 2, 10).exception(PATIENCE), HostKeyError | VersionMismatchError)
