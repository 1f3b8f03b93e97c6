"""A slot says that it is a worker: to multiprocessing, and in log records."""

from __future__ import annotations

import os
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, error_of


def who_is_this() -> tuple[str, Any, Any, bool]:
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None
    return multiprocessing.current_process().name, parent.name, parent.pid, parent.is_alive()


def whose_child() -> tuple[Any, bool]:
    """Of a child that multiprocessing forks here: its parent is the slot."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe()
    child = context.Process(target=lambda: writer.send((multiprocessing.parent_process().pid, os.getpid())))
    child.start()
    parent, pid = reader.recv()
    child.join()
    return parent == os.getpid(), pid == child.pid


def record_name(importing: bool) -> Any:
    import logging

    if importing:
        import multiprocessing  # noqa: F401
    made = logging.LogRecord("x", 20, "f", 1, "m", None, None)
    seen: list[Any] = []
    handler = logging.Handler()
    handler.emit = seen.append  # type: ignore[method-assign]
    logger = logging.getLogger("tests.slot")
    logger.addHandler(handler)
    logger.error("text")
    logger.removeHandler(handler)
    return seen[0].processName, type(made) is type(seen[0])


@pytest.fixture
def ex(make: Make) -> DragonflyExecutor:
    return make(1)


def test_multiprocessing_sees_a_worker_whose_parent_is_the_agent(ex: DragonflyExecutor) -> None:
    agent = ex.submit(payloads.agent_pid).result(PATIENCE)
    assert ex.submit(who_is_this).result(PATIENCE) == ("DragonflySlot-1-1", "DragonflyAgent-1", agent, True)
    assert ex.submit(whose_child).result(PATIENCE) == (True, True)


@pytest.mark.parametrize("importing", [False, True])
def test_log_records_name_the_slot(importing: bool, ex: DragonflyExecutor) -> None:
    assert ex.submit(record_name, importing).result(PATIENCE) == ("DragonflySlot-1-1", True)


def test_no_two_slots_of_a_pool_have_the_same_name(ex: DragonflyExecutor) -> None:
    first = ex.submit(who_is_this).result(PATIENCE)[0]
    error_of(ex.submit(payloads.leave, 1))
    assert ex.submit(who_is_this).result(PATIENCE)[0] != first
