"""Cancelling stops the work, wherever it is, and nothing but that."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, LocalBackend
from dragonfly_executor.errors import RunnerLostError
from dragonfly_executor.transport.loop import Loop
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, SOON, Gate, Mailbox, ProcessHandle, all_ended, values, watching

STUBBORN = {
    "waits": payloads.hold_for_good,
    "ignores signals": payloads.ignore_signals_and_run,
    "catches everything": payloads.catch_everything,
    "holds the GIL": payloads.hold_the_gil,
    "one long number": payloads.hold_the_gil_by_power,
}


class SlowToPost(Loop):
    """Lets a submit in one thread be overtaken between being accepted and being told to the loop."""

    def __init__(self, reached: threading.Event, go_on: threading.Event) -> None:
        super().__init__()
        self._held = (reached, go_on)

    @property
    def is_asleep(self) -> bool:
        """Whether a thread tells this loop of its call. The slow thread does, also while the loop is at work."""
        return self._is_asleep or threading.current_thread().name == "slow"

    @is_asleep.setter
    def is_asleep(self, value: bool) -> None:
        self._is_asleep = value

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        if threading.current_thread().name == "slow":
            reached, go_on = self._held
            reached.set()
            assert go_on.wait(PATIENCE)
        super().call_soon_threadsafe(callback)


class SlowToPostBackend(LocalBackend):
    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go_on = threading.Event(), threading.Event()

    def make_loop(self) -> Loop:
        return SlowToPost(self.reached, self.go_on)


@pytest.mark.parametrize("how", STUBBORN)
def test_cancel_ends_a_running_call_whatever_it_does(how: str, make: Make, mailbox: Mailbox, gate: Gate) -> None:
    """Checklist 40, 39. Its process is gone, its slot runs others, and its neighbour noticed nothing."""
    ex = make(2)
    neighbour = ex.submit(payloads.hold, mailbox.path, gate.path, "unharmed")
    mailbox.read()
    running = ex.submit(STUBBORN[how], mailbox.path)
    with watching(int(mailbox.read())) as watches:
        assert running.cancel()
        assert running.cancelled()
        assert all_ended(watches)
    with pytest.raises(CancelledError):
        running.result(SOON)
    assert values(ex.submit(payloads.echo, n) for n in range(20)) == list(range(20))
    gate.open()
    assert neighbour.result(SOON) == "unharmed"


@pytest.mark.parametrize("how", ["plain", "session", "daemon", "exec", "exec session", "exec empty session"])
def test_cancel_ends_everything_that_the_call_started(how: str, make: Make, mailbox: Mailbox) -> None:
    """Checklist 40. Whatever session it is in and whatever it inherited."""
    ex = make(1)
    running = ex.submit(payloads.hold_with_sleeper, mailbox.path, how)
    with watching(*map(int, mailbox.read().split())) as watches:
        assert running.cancel()
        assert all_ended(watches)


def test_cancelling_queued_calls_leaves_no_trace_of_them(make: Make, mailbox: Mailbox, gate: Gate, log: Path) -> None:
    """Checklist 35, 40. What was not sent never runs. (One may have been sent ahead; a cancel may reach it late.)"""
    ex = make(1)
    running = ex.submit(payloads.hold, mailbox.path, gate.path, "ran")
    mailbox.read()
    ahead = ex.submit(abs, -1)
    futures = [ex.submit(payloads.log_run, str(log), n) for n in range(100)]
    cancelled = [future.cancel() for future in futures[::2]]
    gate.open()
    values([ahead, *futures[1::2]])
    assert running.result(SOON) == "ran"
    assert cancelled == [True] * 50
    assert all(future.cancelled() for future in futures[::2])
    ran = [int(line.split()[0]) for line in log.read_text().splitlines()]
    # The first one was on its way to the slot: there a cancel stops what it finds.
    assert sorted(set(ran) - {0}) == list(range(1, 100, 2))
    assert len(ran) == len(set(ran))


def test_cancel_of_a_call_that_has_ended_says_no(make: Make) -> None:
    """Checklist 35. Twice is as good as once, too."""
    ex = make(1)
    future = ex.submit(payloads.echo, 1)
    assert future.result(SOON) == 1
    assert not future.cancel()
    assert future.result() == 1
    waiting = ex.submit(payloads.nap, 60)
    assert waiting.cancel()
    assert waiting.cancel()


def test_a_cancelled_future_wakes_who_waits_for_it(make: Make, mailbox: Mailbox) -> None:
    """Checklist 40. `wait`, `as_completed` and callbacks, exactly once."""
    ex = make(1)
    running = ex.submit(payloads.hold_for_good, mailbox.path)
    mailbox.read()
    called: list[Future[Any]] = []
    running.add_done_callback(called.append)
    canceller = threading.Timer(0.05, running.cancel)
    canceller.start()
    done, _ = wait([running], PATIENCE)
    assert done == {running}
    # Wherever the callback runs.
    canceller.join()
    ex.shutdown()
    assert called == [running]


def test_only_the_cancelled_call_is_hit_when_others_wait_in_the_same_slot(make: Make, log: Path) -> None:
    """Checklist 35, 21. Cheap calls are queued in slots; a kill must not reach those before and behind."""
    ex = make(2)
    values(ex.submit(payloads.nothing) for _ in range(2000))
    for round_ in range(40):
        futures = [ex.submit(payloads.log_run, str(log), (round_, n)) for n in range(60)]
        picked = random.Random(round_).sample(futures, 5)
        for future in picked:
            future.cancel()
        for future in futures:
            if future not in picked:
                assert isinstance(future.result(PATIENCE), int)
    runs = Counter(line.rpartition(" ")[0] for line in log.read_text().splitlines())
    assert set(runs.values()) == {1}


@pytest.mark.parametrize("workers", [1, 2])
def test_cancel_races_completion(workers: int, make: Make, log: Path) -> None:
    """Checklist 35, 21. Each call has a result or is cancelled, and the answer of `cancel` says which."""
    ex = make(workers)
    total = 10_000
    left: list[tuple[Future[Any], int]] = []
    ready = threading.Semaphore(0)
    answers: dict[int, bool] = {}

    def cancel_all() -> None:
        numbers = random.Random(7)
        for position in range(total):
            ready.acquire()
            future, number = left[position]
            if numbers.random() < 0.5:
                answers[number] = future.cancel()

    canceller = threading.Thread(target=cancel_all)
    canceller.start()
    for number in range(total):
        left.append((ex.submit(payloads.echo, number), number))
        ready.release()
    canceller.join()
    ends: Counter[str] = Counter()
    for future, number in left:
        try:
            assert future.result(PATIENCE) == number
            assert not answers.get(number, False)
            ends["result"] += 1
        except CancelledError:
            assert answers[number]
            ends["cancelled"] += 1
    assert ends.total() == total
    assert ends["cancelled"]
    assert ends["result"]
    assert values(ex.submit(payloads.echo, n) for n in range(100)) == list(range(100))


def test_a_cancelled_call_never_ran_or_is_dead_and_others_ran_once(make: Make, log: Path) -> None:
    """Checklist 35, 21. The same race with calls that leave a trace and take their time."""
    ex = make(2)
    futures = [ex.submit(payloads.log_run, str(log), n) for n in range(1500)]
    cancelled = {n for n in range(0, 1500, 3) if futures[n].cancel()}
    for n, future in enumerate(futures):
        if n not in cancelled:
            assert isinstance(future.result(PATIENCE), int)
    ex.shutdown()
    runs = Counter(int(line.split()[0]) for line in log.read_text().splitlines())
    assert max(runs.values()) == 1
    assert set(range(1500)) - cancelled <= set(runs)


# -- submit against shutdown -------------------------------------------------------------------------------------------


def _submit_until_refused(
    ex: DragonflyExecutor, start: threading.Barrier, mine: list[Future[Any]], refusals: list[BaseException]
) -> None:
    start.wait()
    try:
        while True:
            mine.append(ex.submit(payloads.echo, len(mine)))
    except RuntimeError as error:
        refusals.append(error)


@pytest.mark.parametrize("used", [False, True], ids=["first submit", "later submit"])
def test_a_submit_that_a_shutdown_overtakes_is_not_forgotten(used: bool, make: Make) -> None:
    """Checklist 31. It was accepted, so it runs."""
    backend = SlowToPostBackend()
    ex = make(1, backend=backend)
    if used:
        ex.submit(payloads.nothing).result(SOON)
    accepted: list[Future[Any]] = []
    slow = threading.Thread(target=lambda: accepted.append(ex.submit(payloads.echo, "ran")), name="slow")
    slow.start()
    assert backend.reached.wait(PATIENCE)
    shut_down = threading.Thread(target=ex.shutdown)
    shut_down.start()
    shut_down.join(SOON if used else 0.5)
    backend.go_on.set()
    slow.join()
    shut_down.join(SOON)
    assert accepted[0].result(SOON) == "ran"


@pytest.mark.parametrize("how", ["wait", "nowait", "cancel", "kill"])
def test_submit_races_shutdown_from_eight_threads(how: str) -> None:
    """Checklist 31. Each submit raises RuntimeError or gives a future that settles."""
    for round_ in range(13):
        ex = DragonflyExecutor(2)
        if round_ % 3:
            ex.submit(payloads.nothing)
        start = threading.Barrier(9)
        futures: list[list[Future[Any]]] = [[] for _ in range(8)]
        refusals: list[BaseException] = []
        threads = [threading.Thread(target=_submit_until_refused, args=(ex, start, mine, refusals)) for mine in futures]
        for thread in threads:
            thread.start()
        start.wait()
        threading.Event().wait(0.0005 * round_)
        if how == "kill":
            ex.kill_workers()
        else:
            ex.shutdown(wait=how == "wait", cancel_futures=how == "cancel")
        for thread in threads:
            thread.join()
        ex.shutdown()
        assert len(refusals) == 8
        for mine in futures:
            for number, future in enumerate(mine):
                assert future.done(), f"{how}, round {round_}: a future was forgotten"
                if future.cancelled():
                    assert how in ("cancel", "kill")
                elif (error := future.exception()) is not None:
                    assert how == "kill"
                    assert isinstance(error, RunnerLostError)
                else:
                    assert future.result() == number


def test_shutdown_twice_and_from_many_threads_is_one_shutdown(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    """Checklist 28. What runs and what waits is finished first."""
    ex = make(1)
    running = ex.submit(payloads.hold, mailbox.path, gate.path, "ran")
    queued = [ex.submit(payloads.echo, n) for n in range(20)]
    mailbox.read()
    threads = [threading.Thread(target=ex.shutdown) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(PATIENCE)
    ex.shutdown()
    assert not any(thread.is_alive() for thread in threads)
    assert running.result(0) == "ran"
    assert [future.result(0) for future in queued] == list(range(20))
    assert not threading.enumerate()[1:]


# -- the standard library's answers ------------------------------------------------------------------------------------


def _as_a_pool_option(make: Make, workers: int) -> Any:
    return make(workers, cancel_running=False)


def _as_a_view(make: Make, workers: int) -> Any:
    return make(workers).options(cancel_running=False)


standard = pytest.mark.parametrize("standard", [_as_a_pool_option, _as_a_view], ids=lambda how: how.__name__[1:])


@standard
def test_without_cancel_running_a_running_call_cannot_be_cancelled(
    standard: Any, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 40. The answers are those of a ProcessPoolExecutor's futures."""
    ex = standard(make, 1)
    running = ex.submit(payloads.hold, mailbox.path, gate.path, "ran")
    mailbox.read()
    assert running.running()
    assert not running.cancel()
    assert not running.cancelled()
    queued = [ex.submit(payloads.echo, n) for n in range(50)]
    assert queued[-1].cancel()
    gate.open()
    assert running.result(SOON) == "ran"
    assert values(queued[:-1]) == list(range(49))


def test_without_cancel_running_a_call_cancelled_just_before_it_is_sent_leaves_no_gap(
    make: Make, mailbox: Mailbox, gate: Gate, log: Path
) -> None:
    """Checklist 35, 40. The engine hears of it after it would have sent the call: it stays here, and never runs."""
    backend = SlowToPostBackend()
    ex = make(1, backend=backend, cancel_running=False)
    running = ex.submit(payloads.hold, mailbox.path, gate.path, "ran")
    mailbox.read()
    queued = [ex.submit(payloads.log_run, str(log), n) for n in range(5)]
    slow = threading.Thread(target=queued[3].cancel, name="slow")
    slow.start()
    assert backend.reached.wait(PATIENCE)
    gate.open()
    assert running.result(SOON) == "ran"
    values(queued[:3])
    # With the answer to this, the engine is past the sending of the next one.
    ex.pool.stats()
    backend.go_on.set()
    slow.join()
    queued[4].result(SOON)
    assert not wait([queued[3]], SOON).not_done
    assert queued[3].cancelled()
    assert ex.submit(payloads.echo, 1).result(SOON) == 1
    ex.shutdown()
    # In no certain order: one that was sent ahead may have come back, and gone again behind its neighbours.
    assert sorted(int(line.split()[0]) for line in log.read_text().splitlines()) == [0, 1, 2, 4]
    assert ex.pool.stats().calls_cancelled == 1


@standard
def test_without_cancel_running_calls_may_still_change_their_slot(standard: Any, make: Make, tmp_path: Path) -> None:
    """Checklist 40. What was handed over and comes back unstarted is handed over again."""
    ex = standard(make, 2)
    values(ex.submit(payloads.nothing) for _ in range(2000))
    for number in range(5):
        here, there = _places(tmp_path, number)
        futures = [
            ex.submit(payloads.meet, here, there, "a"),
            *[ex.submit(payloads.echo, n) for n in range(30)],
            ex.submit(payloads.meet, there, here, "b"),
            *[ex.submit(payloads.echo, n) for n in range(30)],
        ]
        assert values(futures) == ["a", *range(30), "b", *range(30)]


@standard
def test_without_cancel_running_a_cancelling_shutdown_settles_all(
    standard: Any, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 28, 40. Calls that were handed over and come back unstarted among them."""
    ex = standard(make, 1)
    running = ex.submit(payloads.hold, mailbox.path, gate.path, "ran")
    queued = [ex.submit(payloads.echo, n) for n in range(50)]
    mailbox.read()
    ex.pool.shutdown(wait=False, cancel_futures=True)
    # While the other call still runs. One that was handed over counts as running to its future, which cannot be
    # cancelled any more: it ends in that as its error.
    assert not wait(queued, SOON).not_done
    assert all(future.cancelled() or isinstance(future.exception(0), CancelledError) for future in queued)
    assert not running.done()
    gate.open()
    ex.pool.shutdown(wait=True)
    assert running.result(0) == "ran"


def _places(folder: Path, number: int) -> tuple[str, str]:
    import os

    names = str(folder / f"{number}-here"), str(folder / f"{number}-there")
    for name in names:
        os.mkfifo(name)
    return names


# -- asyncio -----------------------------------------------------------------------------------------------------------


def test_cancelling_an_asyncio_task_stops_the_work(make: Make, mailbox: Mailbox) -> None:
    """Checklist 40. As it awaits `run_in_executor`."""
    ex = make(1)

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(loop.run_in_executor(ex, payloads.hold_with_sleeper, mailbox.path, "session"))
        pids = (await asyncio.to_thread(mailbox.read)).split()
        with watching(*map(int, pids)) as watches:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await asyncio.to_thread(all_ended, watches)

    assert asyncio.run(main())
    assert ex.submit(payloads.echo, 1).result(SOON) == 1


def test_an_asyncio_timeout_stops_the_work(make: Make, mailbox: Mailbox) -> None:
    """Checklist 40. The others of a gather go on."""
    ex = make(2)
    ex.submit(payloads.echo, 0).result(SOON)  # a boot is not to use that half second up

    async def main() -> tuple[bool, list[int]]:
        loop = asyncio.get_running_loop()
        others = [loop.run_in_executor(ex, payloads.echo, n) for n in range(10)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.run_in_executor(ex, payloads.hold_for_good, mailbox.path), 0.5)
        with watching_if_there(int(mailbox.read())) as watches:
            return await asyncio.to_thread(all_ended, watches), await asyncio.gather(*others)

    assert asyncio.run(main()) == (True, list(range(10)))


@contextmanager
def watching_if_there(pid: int) -> Iterator[list[ProcessHandle]]:
    """A watch on a process that may be gone by now: then there is none."""
    with ExitStack() as watches:
        try:
            found = watches.enter_context(watching(pid))
        except ProcessLookupError:
            found = []
        yield found


def test_a_cancelled_view_with_a_timeout_in_asyncio(make: Make) -> None:
    """Checklist 40. A view is an executor for `run_in_executor`, and its budget is the call's."""
    view = make(1).options(timeout=0.3)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.get_running_loop().run_in_executor(view, payloads.nap, 60)

    asyncio.run(main())
