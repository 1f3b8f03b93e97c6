"""`map` with ``ordered=False`` and ``return_exceptions=True``."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.errors import CallSerializationError, RemoteTraceback, RunnerLostError
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import SOON, CountedNumbers, Gate, Mailbox, values

CHUNKSIZES = [1, 4, "auto"]


def hold_item(gate: str, held: int, n: int) -> int:
    """Wait at the gate with one item."""
    if n == held:
        payloads.wait_at(gate)
    return n


def invert(n: int) -> float:
    return 1 / n


def nap_and_tell_pid(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def log_and_fail(path: str, name: object) -> None:
    payloads.log(path, name)
    raise LookupError(name)


def breaks_after(items: int) -> Iterator[int]:
    yield from range(items)
    raise KeyError("mine")


# -- ordered=False -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", CHUNKSIZES)
@pytest.mark.parametrize("items", [0, 1, 5, 3000])
def test_all_results_come_once(items: int, chunksize: Any, make: Make) -> None:
    ex = make(2)
    assert sorted(ex.map(payloads.echo, range(items), ordered=False, chunksize=chunksize)) == [*range(items)]
    results = ex.map(payloads.echo, iter(range(items)), ordered=False, chunksize=chunksize)
    assert sorted(results) == [*range(items)]


@pytest.mark.parametrize("chunksize", [1, 2])
def test_results_overtake_a_long_item(chunksize: int, make: Make, gate: Gate) -> None:
    ex = make(2)
    results = ex.map(hold_item, repeat(gate.path), repeat(0), range(40), ordered=False, chunksize=chunksize)
    assert sorted(islice(results, 40 - chunksize)) == [*range(chunksize, 40)]
    gate.open()
    assert sorted(results) == [*range(chunksize)]


def test_an_error_comes_as_soon_as_it_is_there_and_ends_the_map(make: Make, gate: Gate) -> None:
    ex = make(2)
    ran = ex.submit(payloads.wait_at, gate.path)
    results = ex.map(invert, [0, 1], ordered=False)
    with pytest.raises(ZeroDivisionError) as caught:
        values_of = list(results)
        assert values_of == []
    assert caught.value.__notes__[0].startswith("raised for item 0 of the map")
    assert list(results) == []
    gate.open()
    ran.result(SOON)


@pytest.mark.parametrize("chunksize", CHUNKSIZES)
@pytest.mark.parametrize("options", [{"ordered": False}, {"return_exceptions": True}])
def test_an_error_of_the_iterable_is_raised_after_all_results(
    options: dict[str, bool], chunksize: Any, make: Make
) -> None:
    results = make(2).map(payloads.echo, breaks_after(9), chunksize=chunksize, **options)
    # What an iterable gives in the same step as its error is lost with chunks of a fixed size, as in order.
    before = 8 if chunksize == 4 and options == {"ordered": False} else 9
    assert sorted(islice(results, before)) == [*range(before)]
    with pytest.raises(KeyError, match="mine") as caught:
        next(results)
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("chunksize", CHUNKSIZES)
@pytest.mark.parametrize("options", [{"ordered": False}, {"return_exceptions": True}])
def test_an_endless_iterable_is_taken_as_it_is_used_up(options: dict[str, bool], chunksize: Any, make: Make) -> None:
    numbers = CountedNumbers()
    results = make(2).map(payloads.echo, numbers, buffersize=12, chunksize=chunksize, **options)
    assert len([*islice(results, 50)]) == 50
    assert numbers.taken <= 50 + 12 + 12
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("chunksize", [1, 2])
def test_closing_stops_the_work(chunksize: int, make: Make, mailbox: Mailbox) -> None:
    ex = make(2)
    results = ex.map(payloads.hold_for_good, repeat(mailbox.path, 10), ordered=False, chunksize=chunksize)
    mailbox.read()
    mailbox.read()
    results.close()  # type: ignore[attr-defined]
    assert values(ex.submit(payloads.echo, n) for n in range(4)) == [*range(4)]


@pytest.mark.parametrize("options", [{"ordered": False}, {"ordered": False, "return_exceptions": True}])
def test_a_timeout_is_raised(options: dict[str, bool], make: Make, gate: Gate) -> None:
    results = make(1).map(hold_item, [gate.path], [0], [0], timeout=0.05, **options)
    with pytest.raises(TimeoutError):
        next(results)


# -- return_exceptions=True --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunksize", CHUNKSIZES)
def test_an_exception_stands_in_place_of_its_value(chunksize: Any, ordered: bool, make: Make) -> None:
    ex = make(2)
    items = [0 if n % 7 == 3 else n for n in range(1, 201)]
    found = list(ex.map(invert, items, return_exceptions=True, chunksize=chunksize, ordered=ordered))
    failed = [n for n, item in enumerate(items) if item == 0]
    if ordered:
        assert [n for n, value in enumerate(found) if isinstance(value, ZeroDivisionError)] == failed
    right = Counter(1 / item for item in items if item)
    assert Counter(value for value in found if not isinstance(value, BaseException)) == right
    errors = [value for value in found if isinstance(value, BaseException)]
    assert sorted(error.__notes__[0].split()[3] for error in errors) == sorted(map(str, failed))
    assert all(isinstance(error.__cause__, RemoteTraceback) for error in errors)


@pytest.mark.parametrize("chunksize", CHUNKSIZES)
def test_exits_are_returned_too(chunksize: Any, make: Make) -> None:
    errors = [SystemExit(3), KeyError("key"), KeyboardInterrupt()]
    found = list(make(1).map(payloads.fail, errors, return_exceptions=True, chunksize=chunksize))
    assert [type(error) for error in found] == [SystemExit, KeyError, KeyboardInterrupt]


def test_a_lost_slot_gives_its_error_for_each_item_of_its_chunk(make: Make) -> None:
    ex = make(1)
    items = [*[False] * 5, True, *[False] * 5]
    found = list(ex.map(payloads.leave_if, items, return_exceptions=True, chunksize=4))
    assert [type(value) for value in found] == [type(None)] * 4 + [RunnerLostError] * 4 + [type(None)] * 3
    assert found[4].__notes__ == ["raised for one of the items 4 to 7 of the map (the first is item 0)"]


@pytest.mark.parametrize("chunksize", CHUNKSIZES)
def test_an_argument_that_cannot_travel_gives_its_error_at_its_place(chunksize: Any, make: Make) -> None:
    items = [1, 2, (n for n in ()), 3, 4]
    found = list(make(1).map(payloads.echo, items, return_exceptions=True, chunksize=chunksize))
    assert isinstance(found.pop(2), CallSerializationError)
    assert found == [1, 2, 3, 4]


def test_a_chunk_of_a_given_size_runs_to_its_end_in_one_slot(make: Make) -> None:
    """Longer than a chunk of automatic size would."""
    found = list(make(2).map(nap_and_tell_pid, [0.04] * 8, return_exceptions=True, chunksize=4))
    assert len({*found[:4]}) == len({*found[4:]}) == 1


def test_each_item_is_retried(make: Make, log: Path) -> None:
    ex = make(1, retry_wait=lambda attempt: 0.0).options(retries=2, retry_on=LookupError)
    found = list(ex.map(log_and_fail, repeat(str(log)), "ab", return_exceptions=True, chunksize=2))
    assert [str(error) for error in found] == ["a", "b"]
    assert Counter(line.split()[0] for line in log.read_text().splitlines()) == {"a": 3, "b": 3}


@pytest.mark.parametrize("name", ["ordered", "return_exceptions"])
def test_only_truth_values_are_accepted(name: str, make: Make) -> None:
    with pytest.raises(TypeError, match=f"{name} must be True or False, not 'no'"):
        make(1).map(payloads.echo, [1], **{name: "no"})
