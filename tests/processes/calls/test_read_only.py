"""`read_only_arguments`: arrays among the arguments are read-only views in the slot, however they travel."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from typing import Any

import pytest

from dragonfly_executor import Backend, LocalBackend
from tests.processes.conftest import Make
from tests.support import array_calls as calls
from tests.support.dialback import DialingBackend
from tests.support.helpers import PATIENCE

np = pytest.importorskip("numpy")
SIZES = [3, 5000, 1 << 20]
"""Bytes of arrays: one that pickles hold inside otherwise, one that fits into a packet, and one that does not."""


def streaming() -> Backend:
    return LocalBackend(shared_memory=0)


BACKENDS = [
    pytest.param(
        LocalBackend,
        marks=pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="there is no memfd"),
        id="shared memory",
    ),
    pytest.param(streaming, id="stream"),
    pytest.param(DialingBackend, id="elsewhere"),
]


@pytest.fixture(params=BACKENDS)
def read_only(request: pytest.FixtureRequest, make: Make) -> Any:
    backend: Callable[[], Backend] = request.param
    return make(1, backend=backend(), read_only_arguments=True)


def ones(size: int) -> Any:
    return np.ones(size, "u1")


def test_arrays_are_read_only_at_any_depth(read_only: Any) -> None:
    for size in SIZES:
        value = [ones(size), {"k": (ones(size), [ones(size)])}]
        assert read_only.submit(calls.writable_arrays, value).result(PATIENCE) == [False] * 3
        assert read_only.submit(calls.sums, value).result(PATIENCE) == [size] * 3


def test_arrays_in_a_map_are_read_only(read_only: Any) -> None:
    for chunksize in (1, 4):
        found = read_only.map(calls.writable_arrays, map(ones, SIZES * 3), chunksize=chunksize, timeout=PATIENCE)
        assert list(found) == [[False]] * 9


def test_captured_arrays_are_read_only(read_only: Any) -> None:
    for size in SIZES:
        captured = ones(size)
        found = read_only.submit(lambda captured=captured: (captured.flags.writeable, int(captured.sum())))
        assert found.result(PATIENCE) == (False, size)
        found = read_only.submit(lambda: (captured.flags.writeable, int(captured.sum())))  # noqa: B023
        assert found.result(PATIENCE) == (False, size)


def test_shared_arrays_are_read_only(read_only: Any) -> None:
    for size in SIZES:
        with read_only.share([ones(size)]) as handle:
            for _ in range(2):
                assert read_only.submit(calls.writable_arrays, handle).result(PATIENCE) == [False]
                assert read_only.submit(calls.sums, handle).result(PATIENCE) == [size]


@pytest.mark.parametrize("chosen", [False, True])
def test_arrays_that_were_read_only_stay_read_only(make: Make, chosen: bool) -> None:
    value = [ones(size) for size in SIZES]
    for each in value:
        each.flags.writeable = False
    assert make(1, read_only_arguments=chosen).submit(calls.writable_arrays, value).result(PATIENCE) == [False] * 3


def test_a_call_cannot_write_and_leaves_no_trace(read_only: Any) -> None:
    for size in SIZES:
        value = ones(size)
        with pytest.raises(ValueError, match="read-only"):
            read_only.submit(calls.fill, value, 3).result(PATIENCE)
        assert read_only.submit(calls.sums, value).result(PATIENCE) == [size]


def test_a_result_is_writable_unless_it_is_a_view_of_an_argument(read_only: Any) -> None:
    for size in SIZES:
        made = read_only.submit(np.copy, ones(size)).result(PATIENCE)
        made[:] = 2
        assert not read_only.submit(calls.echo, ones(size)).result(PATIENCE).flags.writeable


def test_what_is_pickled_without_buffers_is_the_calls_own(read_only: Any) -> None:
    """Nobody else has it, so it may stay writable."""
    for size in SIZES:
        for value, new in (
            (bytearray(size), b"\x03" * size),
            (array("B", bytes(size)), array("B", [3] * size)),
            (np.ones((size, 2), "u1")[:, 0], 3),
            (np.array([None] * size), 3),
        ):
            assert read_only.submit(calls.fill, value, new).result(PATIENCE)[-1] == 3


def test_an_empty_array_travels(read_only: Any) -> None:
    assert read_only.submit(calls.echo, np.empty((0, 5))).result(PATIENCE).shape == (0, 5)


@pytest.mark.parametrize("serializer", ["pickle", "dill"])
def test_it_holds_for_other_serializers(make: Make, serializer: str) -> None:
    if serializer == "dill":
        pytest.importorskip("dill")
    ex = make(1, serializer=serializer, read_only_arguments=True)
    assert ex.submit(calls.writable_arrays, [ones(size) for size in SIZES]).result(PATIENCE) == [False] * 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_arguments_are_writable_by_default(make: Make, backend: Callable[[], Backend]) -> None:
    ex = make(1, backend=backend())
    for size in SIZES:
        assert ex.submit(calls.writable_arrays, [ones(size), (ones(size),)]).result(PATIENCE) == [True] * 2
        assert int(ex.submit(calls.fill, ones(size), 3).result(PATIENCE).sum()) == 3 * size
