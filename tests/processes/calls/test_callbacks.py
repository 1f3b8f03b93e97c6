"""Done callbacks are the user's code: whatever they do, the pool goes on."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, wait
from typing import Any

import pytest

from dragonfly_executor.errors import RunnerLostError
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, SOON, Gate, Mailbox, Settled, error_of, values


def _raises(_future: Future[Any]) -> None:
    raise ValueError("from the callback")


def _exits(_future: Future[Any]) -> None:
    raise SystemExit(3)


def _interrupts(_future: Future[Any]) -> None:
    raise KeyboardInterrupt


def _raises_base(_future: Future[Any]) -> None:
    raise payloads.Base("from the callback")


@pytest.mark.parametrize("harm", [_raises, _exits, _interrupts, _raises_base], ids=lambda harm: harm.__name__)
def test_a_callback_that_raises_is_logged_and_the_pool_goes_on(
    harm: Any, make: Make, mailbox: Mailbox, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Checklist 25. The callbacks after it run, too."""
    ex = make(2)
    settled = Settled()
    with caplog.at_level(logging.ERROR, logger="dragonfly_executor"):
        futures = [ex.submit(payloads.hold, mailbox.path, gate.path, n) for n in range(2)]
        mailbox.numbers(2)
        for future in futures:
            future.add_done_callback(harm)
            future.add_done_callback(settled)
        gate.open(2)
        assert values(futures) == [0, 1]
        assert settled.wait(2)
        ex.shutdown()
    complaints = [record for record in caplog.records if record.exc_info]
    assert len(complaints) == 2
    assert {type(record.exc_info[1]) for record in complaints if record.exc_info} == {_raised_by(harm)}


def _raised_by(harm: Any) -> type[BaseException]:
    try:
        harm(None)
    except BaseException as error:
        return type(error)
    raise AssertionError


def test_results_go_on_while_a_callback_blocks(make: Make) -> None:
    """Checklist 27. Other results, other errors, and new submits."""
    ex = make(2)
    blocked, go_on = threading.Event(), threading.Event()

    def block(_future: Future[Any]) -> None:
        blocked.set()
        assert go_on.wait(PATIENCE)

    future = ex.submit(payloads.nap, 0.1)
    future.add_done_callback(block)
    assert blocked.wait(PATIENCE)
    try:
        assert values(ex.submit(payloads.echo, n) for n in range(500)) == list(range(500))
        assert isinstance(error_of(ex.submit(payloads.leave, 1), SOON), RunnerLostError)
        assert ex.submit(payloads.echo, 1).result(SOON) == 1
        assert not wait([ex.submit(payloads.echo, 1)], SOON).not_done
    finally:
        go_on.set()


def test_the_link_stays_alive_while_a_callback_blocks(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    """Checklist 27. Far longer than silence is forgiven, in both directions."""
    ex = make(1, heartbeat=0.1, dead_after=0.5, lease=0.5)
    first = ex.submit(payloads.nap, 0.05)
    held = threading.Event()

    def block(_future: Future[Any]) -> None:
        held.wait(1.5)

    first.add_done_callback(block)
    running = ex.submit(payloads.nap, 1.5, "alive")
    assert running.result(PATIENCE) == "alive"
    assert ex.pool.stats().boots_attempted == 1
    held.set()


@pytest.mark.parametrize("deadly", [False, True], ids=["harmless", "deadly"])
def test_submit_in_a_callback_works(deadly: bool, make: Make) -> None:
    """Checklist 26. A chain of calls, each submitted by the callback of the one before it, whatever that one met."""
    ex = make(2)
    done, ends = threading.Event(), []

    def submit(number: int) -> None:
        fn, args = (payloads.leave, (1,)) if deadly and number % 2 else (payloads.echo, (number,))
        ex.submit(fn, *args).add_done_callback(lambda future: go_on(number, future))

    def go_on(number: int, future: Future[Any]) -> None:
        error = future.exception()
        ends.append(future.result() if error is None else type(error))
        if number < 30:
            submit(number + 1)
        else:
            done.set()

    submit(0)
    assert done.wait(PATIENCE)
    assert ends == [RunnerLostError if deadly and n % 2 else n for n in range(31)]


CRASHES: dict[str, tuple[Any, ...]] = {
    "pickled": (payloads.echo, payloads.Harm("pickle", "raise")),
    "opened raises": (payloads.echo, payloads.Harm("open on slot", "raise")),
    "opened exits": (payloads.echo, payloads.Harm("open on slot", "exit")),
    "opened crashes": (payloads.echo, payloads.Harm("open on slot", "segfault")),
    "raises": (payloads.fail, ValueError("raised")),
    "exits": (payloads.fail, SystemExit(1)),
    "leaves": (payloads.leave, 1),
    "crashes": (payloads.segfault,),
    "result pickled": (payloads.make_harm, "pickle", "raise"),
    "result pickled crashes": (payloads.make_harm, "pickle", "segfault"),
    "result opened": (payloads.make_harm, "open in parent", "raise"),
    "result opened exits": (payloads.make_harm, "open in parent", "exit"),
    "agent killed": (payloads.kill_agent,),
}


@pytest.mark.parametrize("crash", CRASHES)
def test_a_callback_may_submit_what_crashes_and_wait_for_it(crash: str, make: Make) -> None:
    """Checklist 26. It blocks the callback thread, and nothing that it waits for."""
    ex = make(1)
    seen: list[BaseException | None] = []
    done = threading.Event()
    fn, *args = CRASHES[crash]

    def submit_and_wait(_future: Future[Any]) -> None:
        seen.append(ex.submit(fn, *args).exception(PATIENCE))
        done.set()

    ex.submit(payloads.nap, 0.05).add_done_callback(submit_and_wait)
    assert done.wait(PATIENCE)
    assert seen != [None]
    assert ex.submit(payloads.echo, 1).result(SOON) == 1


def test_a_callback_may_shut_its_own_pool_down(make: Make) -> None:
    """Checklist 28. It would be waiting for itself."""
    ex = make(1)
    done = threading.Event()

    def shut_down(_future: Future[Any]) -> None:
        ex.shutdown(wait=True)
        done.set()

    future = ex.submit(payloads.nap, 0.05, "value")
    later = [ex.submit(payloads.echo, n) for n in range(10)]
    future.add_done_callback(shut_down)
    assert done.wait(PATIENCE)
    assert future.result(SOON) == "value"
    assert values(later) == list(range(10))
    with pytest.raises(RuntimeError, match="after shutdown"):
        ex.submit(payloads.nothing)


def test_a_callback_may_cancel_others_and_add_more_callbacks(make: Make, mailbox: Mailbox) -> None:
    """Checklist 26, 40."""
    ex = make(2)
    running = ex.submit(payloads.hold_for_good, mailbox.path)
    mailbox.read()
    seen = Settled()

    def cancel(_future: Future[Any]) -> None:
        running.cancel()
        running.add_done_callback(seen)

    ex.submit(payloads.nap, 0.05).add_done_callback(cancel)
    assert seen.wait(1)
    assert running.cancelled()


def test_a_callback_added_after_the_end_runs_at_once_in_the_thread_that_adds_it(make: Make) -> None:
    """Checklist 25. As in the standard library; what it raises is logged by the base class."""
    ex = make(1)
    future = ex.submit(payloads.echo, 1)
    future.result(SOON)
    ran: list[int] = []
    future.add_done_callback(lambda _: ran.append(threading.get_ident()))
    assert ran == [threading.get_ident()]
