"""The end of a pool: closed, terminated, dropped, interrupted, forked, and at interpreter exit."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.multiprocessing import Pool
from tests.processes.drop_in_pool.conftest import MakePool, Start
from tests.processes.drop_in_pool.test_methods import square
from tests.support.helpers import PATIENCE, Gate, Mailbox, all_ended, watching
from tests.support.payloads import agent_pid, hold, hold_for_good, wait_at


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=PATIENCE)
    return process.returncode, stdout, stderr


METHODS: list[Callable[[Pool], object]] = [
    lambda pool: pool.apply(square, (1,)),
    lambda pool: pool.apply_async(square, (1,)),
    lambda pool: pool.map(square, [1]),
    lambda pool: pool.map_async(square, [1]),
    lambda pool: pool.starmap(square, [(1,)]),
    lambda pool: pool.starmap_async(square, [(1,)]),
    lambda pool: pool.imap(square, [1]),
    lambda pool: pool.imap_unordered(square, [1]),
    lambda pool: pool.__enter__(),
]


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_a_pool_that_has_ended_takes_no_calls(make: MakePool, end: str) -> None:
    pool = make(1)
    with pytest.raises(ValueError, match="Pool is still running"):
        pool.join()
    getattr(pool, end)()
    for method in METHODS:
        with pytest.raises(ValueError, match="Pool not running"):
            method(pool)
    for _ in range(2):
        pool.close()
        pool.join()
    assert f"state={end.upper()}" in repr(pool)


def test_calls_end_after_close(make: MakePool, gate: Gate) -> None:
    pool = make(2)
    agent = pool.apply(agent_pid)
    results = [pool.apply_async(wait_at, (gate.path,)), pool.map_async(wait_at, [gate.path] * 3)]
    with watching(agent) as agents:
        pool.close()
        gate.open(4)
        assert [result.get(PATIENCE) for result in results] == [None, [None] * 3]
        assert all_ended(agents, PATIENCE)


def test_items_are_read_after_close(make: MakePool) -> None:
    pool = make(2)
    agent = pool.apply(agent_pid)
    read_on = threading.Event()

    def late() -> Any:
        yield 1
        assert read_on.wait(PATIENCE)
        yield from (2, 3)

    with watching(agent) as agents:
        results = pool.imap(square, late())
        pool.close()
        read_on.set()
        assert list(results) == [1, 4, 9]
        # No join: the runner ends with the last call.
        assert all_ended(agents, PATIENCE)


@pytest.mark.parametrize("block", [False, True])
def test_terminate_kills_calls(make: MakePool, mailbox: Mailbox, block: bool) -> None:
    pool = make(2)
    results: list[Any] = [
        pool.map_async(hold_for_good, [mailbox.path] * 2, 1),
        pool.apply_async(square, (1,)),
    ]
    with watching(*mailbox.numbers(2)) as slots:
        if block:
            with pool:
                pass
        else:
            pool.terminate()
        assert all_ended(slots, 0.0)
    for result in results:
        with pytest.raises(CancelledError, match="the pool was terminated before this call had ended"):
            result.get()
    pool.join()


def test_a_pool_cannot_be_pickled(pool: Pool) -> None:
    with pytest.raises(NotImplementedError, match="pool objects cannot be passed between processes or pickled"):
        pickle.dumps(pool)


# -- garbage collection ------------------------------------------------------------------------------------------------


def test_an_open_pool_that_is_dropped_warns_and_ends() -> None:
    pool = Pool(2)
    got: list[Any] = []
    pool.map_async(square, [2], callback=got.append).wait(PATIENCE)
    with watching(pool.apply(agent_pid)) as agents:
        with pytest.warns(ResourceWarning, match="unclosed running") as caught:
            del pool
        # The recorded warning keeps the pool, and the runner ends all the same.
        assert all_ended(agents, PATIENCE)
    assert "<dragonfly_executor.multiprocessing.Pool state=RUN pool_size=2>" in str(caught[0].message)
    assert got == [[4]]


def test_a_pool_that_has_ended_is_dropped_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for end in ("close", "terminate"):
            pool = Pool(1)
            getattr(pool, end)()
            pool.join()
            del pool
            gc.collect()


def test_results_that_are_pending_keep_their_pool(gate: Gate) -> None:
    with warnings.catch_warnings(record=True, action="always") as caught:
        result = Pool(1).apply_async(wait_at, (gate.path,))
        items = Pool(1).imap(square, range(2000))
        gc.collect()
        assert not caught
        gate.open()
        assert len(list(items)) == 2000
        assert result.get(PATIENCE) is None
        result.wait()
        del items, result
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning] * 2


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


class Interrupts:
    """Sends this process a Ctrl-C when a call runs, and again when asked."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self.slots: list[int] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.slots.append(int(self._mailbox.read()))
        os.kill(os.getpid(), signal.SIGINT)

    def join(self) -> None:
        self._thread.join()


@pytest.mark.parametrize("name", ["apply_async", "map_async", "imap"])
def test_an_interrupted_wait_may_be_repeated(pool: Pool, mailbox: Mailbox, gate: Gate, name: str) -> None:
    result: Any
    if name == "apply_async":
        result = pool.apply_async(hold, (mailbox.path, gate.path, 5))
    elif name == "map_async":
        result = pool.starmap_async(hold, [(mailbox.path, gate.path, 5)])
    else:
        result = pool.imap(hold_item, [(mailbox.path, gate.path, 5)])
    wait: Callable[..., Any] = result.next if name == "imap" else result.get
    interrupts = Interrupts(mailbox)
    with pytest.raises(KeyboardInterrupt):
        wait(PATIENCE)
    interrupts.join()
    gate.open()
    assert wait(PATIENCE) in (5, [5])


def hold_item(item: tuple[str, str, int]) -> Any:
    return hold(*item)


@pytest.mark.parametrize("name", ["apply", "map"])
def test_an_interrupt_stops_calls_whose_result_nobody_can_ask_for(pool: Pool, mailbox: Mailbox, name: str) -> None:
    interrupts = Interrupts(mailbox)
    with pytest.raises(KeyboardInterrupt):
        if name == "apply":
            pool.apply(hold_for_good, (mailbox.path,))
        else:
            pool.map(hold_for_good, [mailbox.path])
    interrupts.join()
    with watching(*interrupts.slots, may_be_gone=True) as slots:
        assert all_ended(slots)
    assert pool.apply(square, (3,)) == 9


def test_an_interrupt_ends_a_block(start: Start, mailbox: Mailbox) -> None:
    process = start("interrupted_in_a_block", mailbox.path)
    with watching(int(mailbox.read())) as slots:
        process.send_signal(signal.SIGINT)
        code, stdout, stderr = outcome(process)
        assert all_ended(slots)
    assert (code, stdout) == (-signal.SIGINT, "")
    assert stderr.endswith("KeyboardInterrupt\n")
    assert stderr.count("Traceback") == 1


# -- interpreter exit and fork -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["end_while_a_call_runs", "end_closed_while_a_call_runs"])
def test_the_pool_is_terminated_when_the_interpreter_ends(
    start: Start, mailbox: Mailbox, tmp_path: Path, program: str
) -> None:
    """As in multiprocessing. An executor waits for its calls."""
    gate = Gate(Path(mailbox.path + "-read"))
    process = start(program, mailbox.path)
    with watching(int(mailbox.read())) as slots:
        gate.open()
        assert outcome(process) == (0, "", "")
        assert all_ended(slots)
    gate.close()


@pytest.mark.parametrize(
    ("program", "output"),
    [
        ("end_in_the_midst_of_endless_items", ""),
        ("end_with_an_unused_pool", ""),
        ("end_after_join", "[1]\n"),
    ],
)
def test_a_program_ends_in_silence(start: Start, program: str, output: str) -> None:
    assert outcome(start(program)) == (0, output, "")


def test_a_forked_child_is_refused_and_the_parent_goes_on(start: Start, mailbox: Mailbox, gate: Gate) -> None:
    process = start("fork", mailbox.path, gate.path)
    said = {mailbox.read() for _ in range(2)}
    assert "forked" in said
    gate.open(4)
    code, stdout, stderr = outcome(process)
    refused = "ForkedExecutorError"
    assert stdout.splitlines() == [
        f"apply {refused}",
        f"map {refused}",
        f"imap {refused}",
        f"get {refused} {refused} {refused}",
        "close fine",
        "join fine",
        "terminate fine",
        "child 0",
        "late [None] [None, None] [2]",
    ]
    assert (code, stderr) == (0, "")
