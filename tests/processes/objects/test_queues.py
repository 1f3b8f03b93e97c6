"""Multiprocessing's queues in calls, and libraries that use them."""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, LocalBackend
from tests.processes.conftest import Make
from tests.processes.objects import programs
from tests.support.dialback import DialingBackend
from tests.support.helpers import PATIENCE, Mailbox, error_of

PLACES = pytest.mark.parametrize("backend", [LocalBackend, DialingBackend], ids=["here", "dial-back"])


@contextmanager
def queues(*kinds: Callable[[], Any]) -> Iterator[list[Any]]:
    """Queues that are closed at the end."""
    made = [kind() for kind in kinds]
    try:
        yield made
    finally:
        for each in made:
            each.close()
            if hasattr(each, "join_thread"):
                each.join_thread()


@PLACES
def test_items_pass_between_slots_and_the_parent(make: Make, backend: Callable[[], Any]) -> None:
    """Small and large ones, in order, as objects."""
    executor = make(2, backend=backend())
    items: list[Any] = [1, "two", {"three": 3.0}, os.urandom(700_000), None, b"x" * 70_000]
    for kinds in (
        (multiprocessing.Queue,) * 2,
        (multiprocessing.SimpleQueue,) * 2,
        (multiprocessing.JoinableQueue,) * 2,
    ):
        with queues(*kinds) as (source, target), ThreadPoolExecutor(1) as threads:
            future = executor.submit(programs.move, source, target, len(items))
            putting = threads.submit(lambda source=source: [source.put(item) for item in items])
            assert [target.get() for _ in items] == items
            future.result(PATIENCE)
            putting.result(PATIENCE)


def test_errors_and_timeouts_are_those_of_multiprocessing(make: Make) -> None:
    executor = make(1)
    with queues(lambda: multiprocessing.Queue(1)) as (items,):
        found = executor.submit(programs.queue_calls, items).result(PATIENCE)
        assert found[:6] == ["Empty: ", "Empty: ", "None", "Full: ", "Full: ", "True"]
        assert found[6:] == ["1", "'first'", "True", "ValueError", "ValueError"]


def test_tasks_are_joined(make: Make) -> None:
    executor = make(2)
    with queues(multiprocessing.JoinableQueue) as (tasks,):
        for number in range(3):
            tasks.put(number)
        joining = executor.submit(tasks.join)
        assert "called too many times" in executor.submit(programs.work_on, tasks, 3).result(PATIENCE)
        joining.result(PATIENCE)
        tasks.join()


def test_a_slot_that_is_killed_takes_no_item(make: Make, mailbox: Mailbox) -> None:
    """It waits with the queue's lock, which then is free again."""
    executor = make(2)
    with queues(multiprocessing.Queue, multiprocessing.SimpleQueue) as made:
        for items in made:
            future = executor.submit(programs.announce, mailbox.path, items, "get")
            os.kill(mailbox.numbers(1)[0], signal.SIGKILL)
            error_of(future)
            other = executor.submit(items.get)
            items.put("item")
            assert other.result(PATIENCE) == "item"


def test_a_pool_ends_while_a_slot_waits_for_room_in_a_pipe(make: Make, mailbox: Mailbox) -> None:
    """The census finds no thread."""
    executor = make(2)
    reader, writer = multiprocessing.Pipe(duplex=False)
    with queues(multiprocessing.SimpleQueue) as (items,), reader, writer:
        futures = [
            executor.submit(programs.announce, mailbox.path, items, "put", bytes(300_000)),
            executor.submit(programs.announce, mailbox.path, writer, "send_bytes", bytes(300_000)),
        ]
        mailbox.numbers(2)
        assert reader.poll(PATIENCE)  # a part of it is there
        executor.kill_workers()
        assert all(error_of(each) is not None for each in futures)
        executor.shutdown()


def test_many_items_and_a_full_queue(make: Make) -> None:
    executor = make(2)
    with queues(lambda: multiprocessing.Queue(3)) as (items,):
        future = executor.submit(programs.put_all, items, 200)
        assert [items.get(timeout=PATIENCE) for _ in range(200)] == list(range(200))
        future.result(PATIENCE)


def test_log_records_go_through_a_queue(make: Make) -> None:
    executor = make(1)
    with queues(multiprocessing.Queue) as (items,):
        executor.submit(programs.log_to, items, "of a call").result(PATIENCE)
        record: logging.LogRecord = items.get(timeout=PATIENCE)
        assert (record.name, record.getMessage(), record.processName) == ("of a slot", "of a call", "DragonflySlot-1-0")


def test_process_map_of_tqdm(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """It passes multiprocessing's lock to each worker, through initargs."""
    contrib = pytest.importorskip("tqdm.contrib.concurrent")
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # no thread
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", DragonflyExecutor)
    for fn in (programs.squared, programs.draws_bar):
        found = contrib.process_map(fn, range(20), max_workers=2, chunksize=2)
        assert found == [number * number for number in range(20)]
    assert "/20 [" in capfd.readouterr().err
