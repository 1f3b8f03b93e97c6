"""Shared objects on SSH hosts: sent once for a host, kept for the next boot, sent again after a cut."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.backends.ssh.calls import digest_of
from tests.backends.ssh.conftest import Make, MakeBackend
from tests.backends.ssh.test_call_faults import QUICK, runs
from tests.support.helpers import PATIENCE, values
from tests.support.sshd.faults import FaultyConnection, nothing_stays

SIZE = 5 << 20


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where calls say that they ran."""
    path = tmp_path / "runs"
    path.touch()
    return path


def test_an_object_is_sent_once_for_a_host(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, log: Path
) -> None:
    """For all calls and slots; and not again for the next boot there."""
    data = os.urandom(SIZE)
    digest = hashlib.sha256(data).hexdigest()
    for least in (SIZE, 0):
        executor = make(make_backend(way))
        assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
        before = way.up.passed
        handle = executor.share(data)
        assert set(values(executor.submit(digest_of, handle, str(log)) for _ in range(50))) == {digest}
        assert executor.submit(lambda found=handle: len(found)).result(PATIENCE) == SIZE
        assert least <= way.up.passed - before < least + SIZE // 2
        executor.shutdown()


def test_many_handles_in_a_call(way: FaultyConnection, make_backend: MakeBackend, make: Make) -> None:
    executor = make(make_backend(way))
    handles = [executor.share(bytes([number]) * 10_000) for number in range(200)]
    found = executor.submit(lambda objects: [each[0] for each in objects], handles).result(PATIENCE)
    assert found == list(range(200))


def test_an_object_that_is_cut_off_on_its_way_is_sent_to_the_next_runner(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, log: Path
) -> None:
    """The call cannot have started, so no retry is needed, and it has run once."""
    executor = make(make_backend(way), **QUICK)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    data = os.urandom(SIZE)
    handle = executor.share(data)
    way.cut_after(way.up, 1 << 20)
    future = executor.submit(digest_of, handle, str(log))
    nothing_stays(way.host)
    way.heal()
    assert future.result(PATIENCE) == hashlib.sha256(data).hexdigest()
    assert runs(log) == {"ran": 1}


def test_the_value_of_a_future_is_not_sent_to_the_host_that_it_came_from(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, log: Path
) -> None:
    """For all calls that have the future among their arguments, and each of them gets a value of its own."""
    executor = make(make_backend(way))
    # Results that have passed before the first call with a future are not kept.
    assert executor.submit(pow, 2, executor.submit(pow, 3, 2)).result(PATIENCE) == 512
    future = executor.submit(os.urandom, SIZE)
    up, down = way.up.passed, way.down.passed
    calls = [executor.submit(digest_of, future, str(log)) for _ in range(20)]
    twice = executor.submit(bytes.swapcase, executor.submit(bytes.swapcase, future))
    chain = executor.submit(digest_of, twice, str(log))
    found = values(calls)
    assert chain.result(PATIENCE)
    assert way.up.passed - up < SIZE // 2
    assert way.down.passed - down > 2 * SIZE, "each result comes here once"
    assert set(found) == {hashlib.sha256(future.result()).hexdigest()}
    assert chain.result() == hashlib.sha256(twice.result()).hexdigest()
    assert twice.result() == future.result().swapcase().swapcase()


def test_a_value_that_was_asked_for_is_sent_once_for_a_host(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, log: Path
) -> None:
    """It may have changed here, so it is encoded again."""
    executor = make(make_backend(way))
    future = executor.submit(os.urandom, SIZE)
    digest = hashlib.sha256(future.result(PATIENCE)).hexdigest()
    before = way.up.passed
    assert set(values(executor.submit(digest_of, future, str(log)) for _ in range(20))) == {digest}
    assert SIZE <= way.up.passed - before < SIZE + SIZE // 2
