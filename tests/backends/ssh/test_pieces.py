"""What functions carry to runners on SSH hosts: sent once for a runner, sent again after a cut."""

from __future__ import annotations

import os
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

from tests.backends.ssh.calls import free
from tests.backends.ssh.conftest import Make, MakeBackend
from tests.backends.ssh.test_call_faults import QUICK, runs
from tests.support.helpers import PATIENCE
from tests.support.sshd.faults import FaultyConnection, nothing_stays

SIZE = 5 << 20


class Carried:
    """Bytes that travel beside the pickle, as arrays do. On a host, which cannot import this module, a bytearray."""

    def __init__(self) -> None:
        self.data = bytearray(os.urandom(SIZE))

    def __reduce__(self) -> Any:
        return bytearray, (PickleBuffer(self.data),)


def test_what_a_function_carries_is_sent_once_for_a_runner(
    way: FaultyConnection, make_backend: MakeBackend, make: Make
) -> None:
    """For all calls and slots."""
    executor = make(make_backend(way))
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    carried: Any = Carried()
    before = way.up.passed
    results = list(executor.map(free(lambda index: carried[index]), range(1000), timeout=PATIENCE))
    assert results == list(carried.data[:1000])
    assert SIZE <= way.up.passed - before < SIZE + SIZE // 2


def test_a_piece_that_is_cut_off_on_its_way_is_sent_to_the_next_runner(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, tmp_path: Path
) -> None:
    """The call cannot have started, so no retry is needed, and it has run once."""
    executor, log = make(make_backend(way), **QUICK), tmp_path / "runs"
    log.touch()
    path = str(log)
    carried: Any = Carried()

    def use() -> int:
        with open(path, "a") as file:
            file.write("ran\n")
        last: int = carried[-1]
        return last

    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    way.cut_after(way.up, 1 << 20)
    future = executor.submit(free(use))
    nothing_stays(way.host)
    way.heal()
    assert future.result(PATIENCE) == carried.data[-1]
    assert runs(log) == {"ran": 1}
