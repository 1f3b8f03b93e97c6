"""`map`: as far ahead as said and no farther; what goes wrong does so at its place; closing it stops the work."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.errors import CallSerializationError, RunnerLostError
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import SOON, CountedNumbers, Gate, Mailbox, all_ended, error_of, values, watching


@pytest.mark.parametrize("chunksize", [1, 7])
def test_an_endless_iterator_is_taken_as_it_is_used_up(chunksize: int, make: Make) -> None:
    """Checklist 49."""
    ex = make(2)
    endless = CountedNumbers()
    results = ex.map(payloads.echo, endless, chunksize=chunksize)
    assert list(itertools.islice(results, 10)) == list(range(10))
    after_ten = endless.taken
    assert list(itertools.islice(results, 1000)) == list(range(10, 1010))
    assert after_ten <= 1100 * chunksize
    assert endless.taken <= after_ten + 1000 + 2 * chunksize
    results.close()


def test_counting_for_ever_gives_the_first_ten(make: Make) -> None:
    """Checklist 49."""
    assert list(itertools.islice(make(2).map(payloads.echo, itertools.count()), 10)) == list(range(10))


@pytest.mark.parametrize("buffersize", [1, 2, 5])
def test_buffersize_bounds_how_many_are_taken_ahead(buffersize: int, make: Make) -> None:
    """Checklist 49."""
    ex = make(2)
    endless = CountedNumbers()
    results = ex.map(payloads.echo, endless, buffersize=buffersize)
    assert endless.taken == buffersize
    for n in range(20):
        assert next(results) == n
        assert endless.taken <= n + 1 + buffersize
    results.close()


def raise_with_note(text: str) -> None:
    error = KeyError(text)
    error.add_note("its own")
    raise error


def _breaks_at(count: int, error: BaseException) -> Iterator[int]:
    yield from range(count)
    raise error


@pytest.mark.parametrize("count", [0, 1, 5, 1024, 1500])
@pytest.mark.parametrize("chunksize", [1, 4])
def test_an_iterator_that_raises_does_so_after_the_results_before_it(count: int, chunksize: int, make: Make) -> None:
    """Checklist 50. Within the window and beyond; what shares a chunk with the error was not submitted."""
    ex = make(2)
    results = ex.map(payloads.echo, _breaks_at(count, KeyError("from the iterator")), chunksize=chunksize)
    whole = count - count % chunksize
    assert list(itertools.islice(results, whole)) == list(range(whole))
    with pytest.raises(KeyError, match="from the iterator"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_an_interrupt_in_the_iterator_is_not_put_off(make: Make, mailbox: Mailbox) -> None:
    """Checklist 50. Whoever pressed Ctrl-C does not want to see results first; what was submitted is stopped."""
    ex = make(2)
    with pytest.raises(KeyboardInterrupt):
        ex.map(payloads.hold_for_good, [mailbox.path] * 3, _breaks_at(2, KeyboardInterrupt()))
    assert values(ex.submit(payloads.echo, n) for n in range(10)) == list(range(10))


def test_an_argument_that_cannot_travel_raises_at_its_place(make: Make) -> None:
    """Checklist 12, 50."""
    ex = make(2)
    results = ex.map(payloads.echo, [0, 1, payloads.Harm("pickle", "raise"), 3])
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(CallSerializationError):
        next(results)


def log_and_divide_or_wait(log: str, gate: str, n: int) -> float:
    value: float = payloads.log_and_divide(log, n)
    if n == 2:
        payloads.wait_at(gate)
    return value


@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_call_that_raises_does_so_at_its_place_and_the_rest_is_cancelled(
    chunksize: int, make: Make, log: Path, gate: Gate
) -> None:
    """Checklist 50. The gate stays closed: of the calls behind it at most one begins, and that one is stopped."""
    ex = make(1)
    numbers = [1, 1, 1, 1, 0, 1, *[2] * 300]
    results = ex.map(
        log_and_divide_or_wait, itertools.repeat(str(log)), itertools.repeat(gate.path), numbers, chunksize=chunksize
    )
    assert [next(results) for _ in range(4)] == [1.0] * 4
    with pytest.raises(ZeroDivisionError):
        next(results)
    ex.submit(payloads.echo, 1).result(SOON)
    assert len(log.read_text().splitlines()) <= 7


def test_a_crash_in_a_map_is_raised_at_its_place(make: Make) -> None:
    """Checklist 5, 50."""
    ex = make(2)
    results = ex.map(payloads.leave_if, [False] * 20 + [True] + [False] * 20)
    assert [next(results) for _ in range(20)] == [None] * 20
    with pytest.raises(RunnerLostError):
        next(results)
    assert ex.submit(payloads.echo, 1).result(SOON) == 1


def test_a_timeout_stops_what_is_left(make: Make, mailbox: Mailbox) -> None:
    """Checklist 51."""
    ex = make(2)
    ex.submit(payloads.nothing).result(SOON)
    results = ex.map(payloads.hold_unless, [mailbox.path] * 10, [False, True, *[True] * 8], timeout=2.0)
    assert next(results) == "not held"
    with watching(*mailbox.numbers(2)) as watches:
        with pytest.raises(TimeoutError):
            next(results)
        assert all_ended(watches)
    with pytest.raises(StopIteration):
        next(results)
    assert values(ex.submit(payloads.echo, n) for n in range(10)) == list(range(10))


@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("started", [False, True], ids=["before the first", "after the first"])
def test_closing_a_map_stops_the_work(started: bool, chunksize: int, make: Make, mailbox: Mailbox) -> None:
    """Checklist 40, 51. Running calls and waiting ones."""
    ex = make(3)
    held = [False] * chunksize + [True] * 30
    results = ex.map(payloads.hold_unless, [mailbox.path] * len(held), held, chunksize=chunksize)
    if started:
        assert next(results) == "not held"
    with watching(*mailbox.numbers(3)) as watches:
        results.close()
        assert all_ended(watches)
    assert values(ex.submit(payloads.echo, n) for n in range(10)) == list(range(10))
    assert ex.pool.stats().calls_queued == 0
    with pytest.raises(StopIteration):
        next(results)


def test_dropping_a_map_that_was_begun_stops_the_work(make: Make, mailbox: Mailbox) -> None:
    """Checklist 40. As with the standard library's, which cancels what it can."""
    ex = make(2)
    results = ex.map(payloads.hold_unless, [mailbox.path] * 10, [False, *[True] * 9])
    assert next(results) == "not held"
    with watching(*mailbox.numbers(2)) as watches:
        del results
        assert all_ended(watches)


def test_a_map_that_nobody_looks_at_runs_for_its_effects(make: Make, log: Path) -> None:
    """As with the standard library's: `ex.map(save, items)` saves."""
    with make(2) as ex:
        ex.map(payloads.log_run, [str(log)] * 50, range(50))
    assert sorted(int(line.split()[0]) for line in log.read_text().splitlines()) == list(range(50))


def test_a_map_survives_the_end_of_the_executor(make: Make) -> None:
    """All were submitted, so all are there."""
    with make(2) as ex:
        results = ex.map(payloads.echo, range(100))
    assert list(results) == list(range(100))


def test_results_of_a_large_map_do_not_pile_up(make: Make) -> None:
    """Checklist 49. A slow reader of large results holds no more than the window."""
    ex = make(2)
    taken = 0
    for value in ex.map(payloads.big_result, itertools.repeat(1 << 20, 40), buffersize=3):
        taken += len(value)
        assert ex.pool.stats().calls_sent <= 3
    assert taken == 40 << 20


def test_maps_share_an_executor(make: Make, gate: Gate) -> None:
    """Checklist 49. Two at once, taken in turn."""
    ex = make(2)
    one, two = ex.map(payloads.echo, itertools.count()), ex.map(payloads.echo, itertools.count(1000))
    taken: list[Any] = []
    for _ in range(30):
        taken += [next(one), next(two)]
    assert taken == [value for n in range(30) for value in (n, 1000 + n)]
    one.close()
    assert [next(two) for _ in range(10)] == list(range(1030, 1040))
    two.close()


# -- whose error it is -------------------------------------------------------------------------------------------------


def test_an_error_in_a_map_tells_its_item(make: Make) -> None:
    ex = make(1)
    with pytest.raises(ZeroDivisionError) as caught:
        list(ex.map(divmod, [1] * 30, [*[1] * 23, 0, *[1] * 6], chunksize=10))
    assert caught.value.__notes__ == ["raised for item 23 of the map (the first is item 0): (1, 0)"]
    with pytest.raises(ZeroDivisionError) as caught:
        list(ex.map(divmod, [1, 1, 1], [1, 0, 1]))
    assert caught.value.__notes__ == ["raised for item 1 of the map (the first is item 0): (1, 0)"]


def test_an_item_of_its_own_is_shown_as_the_call_got_it(make: Make) -> None:
    ex = make(1)
    numbers = [*range(1000)]
    for items, shown in ([{"a": 1}], "{'a': 1}"), ([numbers], "[0, 1, 2, 3, 4, 5, ...]"), (["x" * 1000], None):
        with pytest.raises(TypeError) as caught:
            list(ex.map(abs, items))
        (note,) = caught.value.__notes__
        assert note.startswith("raised for item 0 of the map (the first is item 0): ")
        assert len(note) < 200
        assert shown is None or note.endswith(f": {shown}")


def test_a_call_that_is_no_item_gets_no_note(make: Make) -> None:
    error = error_of(make(1).submit(abs, "x"), SOON)
    assert isinstance(error, TypeError)
    assert not hasattr(error, "__notes__")


def test_the_notes_of_the_function_stay(make: Make) -> None:
    with pytest.raises(KeyError) as caught:
        list(make(1).map(raise_with_note, ["first", "second"]))
    assert caught.value.__notes__ == ["its own", "raised for item 0 of the map (the first is item 0): 'first'"]


def test_the_loss_of_a_slot_tells_the_items_that_were_on_it(make: Make) -> None:
    ex = make(1)
    with pytest.raises(RunnerLostError) as caught:
        list(ex.map(payloads.leave_if, [*[False] * 25, True], chunksize=10))
    assert caught.value.__notes__ == ["raised for one of the items 20 to 29 of the map (the first is item 0)"]
    with pytest.raises(RunnerLostError) as caught:
        list(ex.map(payloads.leave_if, [False, True]))
    assert caught.value.__notes__ == ["raised for item 1 of the map (the first is item 0)"]


def test_what_the_iterator_raises_and_a_timeout_are_no_items(make: Make, gate: Gate, mailbox: Mailbox) -> None:
    ex = make(1)
    with pytest.raises(KeyError) as caught:
        list(ex.map(payloads.echo, _breaks_at(1, KeyError("mine"))))
    assert not hasattr(caught.value, "__notes__")
    results = ex.map(payloads.hold, [mailbox.path], [gate.path], ["ran"], timeout=0.01)
    with pytest.raises(TimeoutError) as late:
        next(results)
    assert not hasattr(late.value, "__notes__")


@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_call_that_exits_tells_its_item_too(chunksize: int, make: Make) -> None:
    with pytest.raises(SystemExit) as caught:
        list(make(1).map(sys.exit, [3], chunksize=chunksize))
    assert caught.value.__notes__[0].startswith("raised for item 0 of the map")


def _generator(x: int) -> Iterator[int]:
    yield x


@pytest.mark.parametrize("chunksize", [1, 3])
def test_a_map_refuses_a_generator_function_at_once(chunksize: int, make: Make) -> None:
    ex = make(1)
    with pytest.raises(TypeError, match=r"_generator\(\) is a generator function"):
        ex.map(_generator, [1, 2], chunksize=chunksize)
    with pytest.raises(TypeError, match=r"_generator\(\) is a generator function"):
        ex.submit(_generator, 1)
