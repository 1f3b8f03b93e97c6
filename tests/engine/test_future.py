"""Two threads at one future, in every order of their steps; and what a future weighs while its call waits.

One thread settles the future, as the engine thread does, or asks for something. Before each of its steps in turn the
other thread does all that it can, and the first thread then goes on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import pickle
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, InvalidStateError, as_completed, wait
from types import FrameType
from typing import Any

import pytest

from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.core.calls import Call, CallLimits
from dragonfly_executor.engine import future as future_module
from dragonfly_executor.engine.future import Future
from dragonfly_executor.engine.loop_waker import LoopWaker, LoopWakers
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.serialization import CallCodec
from dragonfly_executor.util import condition
from tests.support.helpers import PATIENCE

FILES = {future_module.__file__, condition.__file__, concurrent.futures._base.__file__}
VALUE = ["value"]
LIMITS = CallLimits()


class FlushedAtOnce(list[LoopWaker]):
    """The wakers that an engine must flush."""

    def append(self, waker: LoopWaker) -> None:
        waker.flush()


class Engine:
    """What a future needs of its engine. Callbacks run at once, and loops are woken at once."""

    forked = False
    is_this_thread = False
    unlinked = frozenset[Any]()

    def __init__(self) -> None:
        self.cancelled: list[Call] = []
        self.wakers = LoopWakers()
        self.wakers.due = FlushedAtOnce()

    def cancel(self, calls: Iterable[Call]) -> None:
        self.cancelled += calls

    def call_back(self, callback: Callable[[Any], object], future: Any) -> None:
        callback(future)


def new_future(*, cancel_running: bool = True) -> Future[Any]:
    engine: Any = Engine()
    future: Future[Any] = Future(engine)
    future.call = Call(1, b"", future, LIMITS)
    if not cancel_running:
        future.cancels_running = False
    return future


def outcome(value: object = VALUE) -> Outcome:
    return Outcome(CallCodec(), pickle.dumps(value, 5), is_error=False)


def at_each_step(act: Callable[[], object], meanwhile: Callable[[], object]) -> Iterator[int]:
    """Do `act` again and again, each time with `meanwhile` one instruction later. The last time there is no step left.

    Yields after each time.
    """
    step, came = 0, True
    while came:
        left, came = step, False

        def trace(frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal left, came
            if frame.f_code.co_filename not in FILES:
                return None
            frame.f_trace_opcodes = True
            if event != "exception" and not came:
                if not left:
                    came = True
                    meanwhile()
                left -= 1
            return trace

        gc.disable()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 looks at it when a trace begins
        sys.settrace(trace)
        try:
            act()
        finally:
            sys.settrace(None)
            gc.enable()
        yield step
        step += 1


class Other:
    """The other thread. `act` runs there when the first thread asks for it, as far as it gets."""

    def __init__(self, future: Future[Any], act: Callable[[Future[Any]], object]) -> None:
        self.answer: object = None
        self.future = future
        self._act = act
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.answer = self._act(self.future)
        except BaseException as error:
            self.answer = error

    def go(self) -> None:
        """Return when the other thread is done, or cannot go on before this thread does."""
        self._thread.start()
        lock = self.future._condition
        if not lock._is_owned():
            while self._thread.is_alive() and not lock.waiting and not self.future._waiter_list:
                self._thread.join(0.0001)

    def end(self) -> object:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it was not woken"
        return self.answer


def add_callback(future: Future[Any]) -> list[Any]:
    called: list[Any] = []
    future.add_done_callback(called.append)
    return called


def awaited(future: Future[Any]) -> object:
    async def main() -> Any:
        return await future

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise CancelledError from None


def look(future: Future[Any]) -> tuple[bool, bool, bool]:
    return future.done(), future.cancelled(), future.running()


ASKED: dict[str, Callable[[Future[Any]], object]] = {
    "result": lambda future: future.result(2 * PATIENCE),
    "exception": lambda future: future.exception(PATIENCE),
    "cancel": lambda future: future.cancel(),
    "callback": add_callback,
    "wait": lambda future: wait([future], PATIENCE),
    "as completed": lambda future: list(as_completed([future], PATIENCE)),
    "await": awaited,
    "look": look,
    "hand over": lambda future: future.hand_over(),
}
OUTCOMES: dict[str, Callable[[], object]] = {
    "value": outcome,
    "error": lambda: Outcome.failed(ValueError("raised")),
    "loss": lambda: ValueError("lost"),
    "cancelled": lambda: CANCELLED,
}


def check(future: Future[Any], name: str, how: str, answer: object) -> None:
    """The future has ended once, and the answer agrees with its end."""
    assert future.done()
    if future.cancelled():
        with pytest.raises(CancelledError):
            future.result(0)
        ends_well = False
    elif how == "cancelled":  # it was handed over before
        assert isinstance(future.exception(0), CancelledError)
        ends_well = False
    else:
        error = future.exception(0)
        assert (error is None) == (how == "value")
        ends_well = error is None
        if ends_well:
            assert future.result(0) == VALUE
            assert future.result(0) is future.result(0)
    match name:
        case "result" | "await":
            if ends_well:
                assert answer is future.result(0)
            else:
                assert isinstance(answer, CancelledError if how == "cancelled" else ValueError)
        case "exception":
            assert answer is None if ends_well else isinstance(answer, (CancelledError, ValueError))
        case "cancel":
            assert answer is future.cancelled(), "an answer that does not hold"
        case "callback":
            assert answer == [future], "each callback runs once"
        case "wait":
            assert answer == ({future}, set())
        case "as completed":
            assert answer == [future]
        case "look":
            assert isinstance(answer, tuple)
            is_done, is_cancelled, is_running = answer
            assert not is_cancelled or future.cancelled()
            assert not is_done or (is_cancelled == future.cancelled() and not is_running)
        case "hand over":
            assert isinstance(answer, (bool, RuntimeError, InvalidStateError))


@pytest.mark.parametrize("cancel_running", [True, False])
@pytest.mark.parametrize("how", OUTCOMES)
@pytest.mark.parametrize("name", [name for name in ASKED if name != "hand over"])
def test_another_thread_asks_at_each_step_of_a_settle(name: str, how: str, cancel_running: bool) -> None:
    future = new_future(cancel_running=cancel_running)
    assert future.hand_over()
    others = [Other(future, ASKED[name])]
    for step in at_each_step(lambda: others[0].future.settle(OUTCOMES[how]()), lambda: others[0].go()):
        other = others[0]
        if other._thread.ident is None:
            break  # there was no such step
        answer = other.end()
        check(future, name, how if answer is not True or name != "cancel" else "cancelled", answer)
        assert not future._waiter_list
        assert future._condition.acquire(blocking=False), f"a lock is left at step {step}"
        future = new_future(cancel_running=cancel_running)
        assert future.hand_over()
        others[0] = Other(future, ASKED[name])
    assert step > 20


@pytest.mark.parametrize("cancel_running", [True, False])
@pytest.mark.parametrize("how", OUTCOMES)
@pytest.mark.parametrize("name", ASKED)
def test_a_settle_at_each_step_of_what_a_thread_asks(name: str, how: str, cancel_running: bool) -> None:
    """The thread that asks would wait for good if it missed its wake-up."""

    now: list[Any] = []

    def begin() -> None:
        future = new_future(cancel_running=cancel_running)
        if name != "hand over":
            assert future.hand_over()
        now[:] = [future, Other(future, settle), threading.Event(), False]

    def settle(future: Future[Any]) -> None:
        future.settle(OUTCOMES[how]())

    def settle_at_last() -> None:
        """Settle the future if the thread has taken all its steps before the one at which this is to be done."""
        future, _, is_due, _ = now
        if not is_due.wait(0.3):
            now[3] = True
            settle(future)

    def ask() -> None:
        late = threading.Thread(target=settle_at_last)
        late.start()
        try:
            answer = ASKED[name](now[0])
        except (CancelledError, ValueError, RuntimeError) as error:
            answer = error
        now[2].set()
        late.join()
        now.append(answer)

    def settle_now() -> None:
        now[2].set()
        if not now[3]:
            now[1].go()

    begin()
    steps = 0
    for step in at_each_step(ask, settle_now):
        future, settler, _, _, answer = now
        if settler._thread.ident is None:
            break
        assert settler.end() is None
        check(future, name, how if answer is not True or name != "cancel" else "cancelled", answer)
        assert future._condition.acquire(blocking=False), f"a lock is left at step {step}"
        steps = step
        begin()
    assert steps > 3


def test_threads_that_race() -> None:
    """Each future ends once, whoever is first, and all that wait for it go on."""
    futures = [new_future() for _ in range(2000)]
    called: list[Any] = []
    for future in futures:
        future.add_done_callback(called.append)
    start = threading.Barrier(4)
    answers: list[list[Any]] = [[], []]

    def settle() -> None:
        start.wait()
        for number, future in enumerate(futures):
            future.settle(outcome(number))

    def cancel() -> None:
        start.wait()
        answers[0] += [future.cancel() for future in reversed(futures)]

    def ask() -> None:
        start.wait()
        for future in futures:
            try:
                answers[1].append(future.result(PATIENCE))
            except CancelledError:
                answers[1].append(None)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=target) for target in (settle, cancel, ask)]
        for thread in threads:
            thread.start()
        start.wait()
        assert not wait(futures[::7], PATIENCE).not_done
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
    finally:
        sys.setswitchinterval(interval)
    was_cancelled = [future.cancelled() for future in futures]
    assert answers[0][::-1] == was_cancelled
    assert answers[1] == [None if cancelled else number for number, cancelled in enumerate(was_cancelled)]
    assert sorted(map(id, called)) == sorted(map(id, futures))


def test_the_engine_waits_for_a_thread_that_makes_the_event_of_its_wait() -> None:
    """`concurrent.futures.wait` makes it while it holds the locks of its futures."""
    future = new_future()
    is_inside, may_go = threading.Event(), threading.Event()
    raised: list[BaseException] = []

    def stop_in_event(frame: FrameType, _event: str, _arg: object) -> None:
        if frame.f_code is threading.Event.__init__.__code__:
            is_inside.set()
            may_go.wait(PATIENCE)

    def look() -> None:
        sys.settrace(stop_in_event)
        try:
            wait([future], 0)
        except BaseException as error:
            raised.append(error)
        finally:
            sys.settrace(None)

    looker, engine = threading.Thread(target=look), threading.Thread(target=lambda: future.settle(outcome()))
    looker.start()
    assert is_inside.wait(PATIENCE)
    engine.start()
    engine.join(20 * condition.LOOK_AGAIN)
    assert engine.is_alive()
    may_go.set()
    looker.join()
    engine.join()
    assert raised == []
    assert future.result(0) == VALUE


def test_asyncio_gets_the_value_and_not_its_pickle() -> None:
    """From Python 3.14 on it reads a snapshot of the future's fields."""

    async def ends() -> list[Any]:
        futures = [new_future() for _ in range(3)]
        wrapped = [asyncio.wrap_future(future) for future in futures]
        futures[0].settle(outcome())
        futures[1].settle(Outcome.failed(ValueError("raised")))
        futures[2].settle(CANCELLED)
        assert [future._get_snapshot()[:2] for future in futures] == [(True, False), (True, False), (True, True)]
        assert futures[0]._get_snapshot()[2] is futures[0].result()
        assert futures[1]._get_snapshot()[3] is futures[1].exception()
        assert new_future()._get_snapshot() == (False, False, None, None)
        return await asyncio.gather(*wrapped, return_exceptions=True)

    value, error, cancelled = asyncio.run(ends())
    assert value == VALUE
    assert isinstance(error, ValueError)
    assert isinstance(cancelled, asyncio.CancelledError)


def test_a_waiting_call_is_three_objects_to_the_garbage_collector() -> None:
    """The future, its lock, and the core's record: each pass of the collector visits all of them."""
    engine: Any = Engine()
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        futures: list[Future[Any]] = [Future(engine) for _ in range(100)]
        for number, future in enumerate(futures):
            future.call = Call(number, b"payload", future, LIMITS)
        made = len(gc.get_objects()) - before
    finally:
        gc.enable()
    assert made <= 3 * len(futures) + 1  # the list itself
    sizes = sum(map(sys.getsizeof, (futures[0], futures[0]._condition, futures[0].call)))
    assert sizes <= 400
