"""`dragonfly status`, and the socket on which a pool answers it: what it says, and what becomes of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import Pool
from dragonfly_executor.cli.main import main
from dragonfly_executor.cli.status.client import PoolAddress, StatusError, addresses, ask_all
from dragonfly_executor.engine import components
from dragonfly_executor.engine.observing import status_report, status_socket
from tests.processes.conftest import Make
from tests.processes.observing.conftest import Start
from tests.support.helpers import PATIENCE, Gate, Mailbox, becomes_true, error_of
from tests.support.payloads import echo, fail, hold

STATUS: dict[str, Any] = {"ask": "status"}


def only(pool: Pool) -> PoolAddress:
    """The address of the only pool, once it is there: a pool opens its socket 0.2 s after its start."""
    found: list[PoolAddress] = []

    def look() -> bool:
        found[:] = addresses()
        return bool(found)

    assert becomes_true(pool, look)
    (address,) = found
    return address


def refuses(call: Callable[[], object]) -> str:
    with pytest.raises(StatusError) as caught:
        call()
    return str(caught.value)


def test_it_says_what_a_pool_does_now(sockets: Path, make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(2, output="capture")
    future = ex.submit(hold, mailbox.path, gate.path, 7)
    mailbox.read()
    assert ex.submit(echo, 1).result(PATIENCE) == 1
    assert isinstance(error_of(ex.submit(fail, KeyError())), KeyError)
    address = only(ex.pool)
    assert stat.S_IMODE(address.path.lstat().st_mode) == 0o600
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert becomes_true(ex.pool, lambda: ex.pool.stats().calls_running == 1)
    report = address.ask(STATUS)
    assert {**report, "time": 0} | {"calls": []} == {**json.loads(json.dumps(ex.pool.status())), "time": 0} | {
        "calls": [],
        "runners": report["runners"],
        "stats": report["stats"],
    }
    assert (report["pid"], report["pool"], report["backend"]) == (os.getpid(), ex.pool.name, "local")
    (call,) = report["calls"]
    assert (call["function"], call["state"], call["runner"], call["attempt"]) == ("hold", "running", 1, 1)
    assert call["slot"] in (0, 1)
    assert 0 <= call["running_for"] <= call["age"]
    (runner,) = report["runners"]
    assert (runner["state"], runner["slots"], runner["in_flight"], runner["calls_done"]) == ("up", 2, 1, 2)
    assert report["times"]["calls"] == 2
    assert 0 <= report["times"]["run_p50"] <= report["times"]["run_p95"]
    gate.open()
    assert future.result(PATIENCE) == 7


def test_the_command_prints_tables_and_json(
    sockets: Path, make: Make, mailbox: Mailbox, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status"]) == 1
    assert "no program of this user runs a pool" in capsys.readouterr().err
    ex = make(1)
    future = ex.submit(hold, mailbox.path, gate.path)
    waiting = ex.submit(echo, 1)
    mailbox.read()
    only(ex.pool)
    assert becomes_true(ex.pool, lambda: ex.pool.stats().calls_running == 1)
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert f"(process {os.getpid()}): pool {ex.pool.name!r} on local" in out
    assert "1 up; 0 to 1 allowed" in out
    assert next(line for line in out.splitlines() if line.endswith("hold")).split()[:2] == ["1", "running"]
    assert main(["status", "--json", "--pool", ex.pool.name]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["calls"][0]["function"] == "hold"
    assert main(["status", "--json", "--pid", "1"]) == 1
    assert json.loads(capsys.readouterr().out) == []
    gate.open()
    future.result(PATIENCE)
    waiting.result(PATIENCE)


def test_a_call_is_killed_and_its_output_is_shown(sockets: Path, make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1, output="capture")
    future = ex.submit(_print_and_hold, mailbox.path, gate.path)
    mailbox.read()
    address = only(ex.pool)
    assert future.call is not None
    number = future.call.id
    assert becomes_true(ex.pool, lambda: "a line" in address.ask({"ask": "output", "call": number})["output"])
    assert address.ask({"ask": "kill", "call": number}) == {"killed": number}
    with pytest.raises(CancelledError):
        future.result(PATIENCE)
    assert ex.submit(echo, 1).result(PATIENCE) == 1
    assert "has ended, or the number is wrong" in refuses(lambda: address.ask({"ask": "kill", "call": number}))


def _print_and_hold(mailbox: str, gate: str) -> None:
    print("a line", flush=True)
    hold(mailbox, gate)


def test_garbage_and_greedy_clients_harm_nobody(sockets: Path, make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1)
    future = ex.submit(hold, mailbox.path, gate.path, 7)
    mailbox.read()
    address = only(ex.pool)
    assert "output='capture'" in refuses(lambda: address.ask({"ask": "output", "call": 1}))
    assert "cannot answer 'dance'" in refuses(lambda: address.ask({"ask": "dance"}))
    assert "is not waiting or running" in refuses(lambda: address.ask({"ask": "kill", "call": [1]}))
    for garbage, answer in ((b"\xff\xfe\n", b'{"error"'), (b"[]\n", b'{"error"'), (b"x" * 10_000, b"")):
        assert _answer_to(address, garbage) == answer
    served = ex.pool._engine._components._status_socket
    assert served is not None
    assert becomes_true(ex.pool, lambda: not served._clients)
    greedy = [socket.socket(socket.AF_UNIX) for _ in range(status_socket.MAX_CLIENTS)]
    try:
        for client in greedy:
            client.connect(str(address.path))
        # Far more answers than its socket holds, and none of them is read.
        greedy[0].sendall(b'{"ask": "status"}\n' * 5000)
        assert becomes_true(ex.pool, lambda: len(served._clients) == len(greedy))
        assert becomes_true(ex.pool, lambda: any(client._unsent for client in list(served._clients)))
        with pytest.raises((ConnectionError, StatusError)):
            address.ask(STATUS, 1.0)
    finally:
        for client in greedy:
            client.close()
    assert becomes_true(ex.pool, lambda: bool(ask_all().reports))
    gate.open()
    assert future.result(PATIENCE) == 7


def _answer_to(address: PoolAddress, garbage: bytes) -> bytes:
    """The beginning of the answer; empty if the pool has hung up."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(address.path))
        try:
            client.sendall(garbage)
            return client.recv(8)
        except ConnectionError:
            return b""


def test_the_socket_goes_with_its_pool(sockets: Path, make: Make) -> None:
    ex = make(1)
    ex.submit(echo, 1).result(PATIENCE)
    only(ex.pool)
    ex.shutdown()
    assert list(sockets.iterdir()) == []


def test_what_killed_programs_leave_is_removed_and_living_ones_stay(
    sockets: Path, start_program: Start, news: Mailbox, gate: Gate, make: Make
) -> None:
    program, other = (start_program(news.path, gate.path) for _ in range(2))
    news.read(), news.read()
    _wait_for_sockets(sockets, 2)
    program.kill()
    program.wait()
    assert [report["pid"] for _, report in ask_all().reports] == [other.pid]
    assert len(list(sockets.iterdir())) == 1
    other.kill()
    other.wait()
    # A pool that opens its own socket removes it as well, and what was bound and never listened.
    unfinished = sockets / f".{other.pid}-1.sock.tmp"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(unfinished))
    os.utime(unfinished, (time.time() - 3600,) * 2)
    ex = make(1)
    ex.submit(echo, 1).result(PATIENCE)
    assert becomes_true(ex.pool, lambda: [path.name.split("-")[0] for path in sockets.iterdir()] == [str(os.getpid())])


def _wait_for_sockets(folder: Path, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not folder.exists() or len([path for path in folder.iterdir() if path.suffix == ".sock"]) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_program_that_is_stopped_delays_no_other(
    sockets: Path, start_program: Start, news: Mailbox, gate: Gate, make: Make
) -> None:
    program = start_program(news.path, gate.path)
    news.read()
    _wait_for_sockets(sockets, 1)
    os.kill(program.pid, signal.SIGSTOP)
    ex = make(1)
    ex.submit(echo, 1).result(PATIENCE)
    _wait_for_sockets(sockets, 2)
    answers = ask_all(0.2)
    assert [report["pid"] for _, report in answers.reports] == [os.getpid()]
    (silent,) = answers.silent
    assert f"process {program.pid} has not answered for 0.2 s: it may be stopped" in silent


def test_a_pool_of_another_version_is_named(
    sockets: Path, make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ex = make(1)
    ex.submit(echo, 1).result(PATIENCE)
    only(ex.pool)
    monkeypatch.setattr(status_report, "VERSION", 9)
    assert main(["status"]) == 1
    assert f"process {os.getpid()} reports in version 9, this command in 1" in capsys.readouterr().err


def test_the_folder_of_another_user_is_not_used(
    sockets: Path, make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sockets.mkdir()
    sockets.chmod(0o777)  # so that others may put sockets there
    _opens_none(make, sockets)
    sockets.rmdir()
    (sockets.parent / "real").mkdir()
    sockets.symlink_to(sockets.parent / "real")
    _opens_none(make, sockets)
    if os.geteuid() == 0:
        sockets.unlink()
        sockets.mkdir(0o700)
        os.chown(sockets, 12345, 12345)
        _opens_none(make, sockets)
    assert main(["status"]) == 1


def _opens_none(make: Make, folder: Path) -> None:
    ex = make(1)
    assert ex.submit(echo, 1).result(PATIENCE) == 1
    parts = ex.pool._engine._components
    assert becomes_true(ex.pool, lambda: parts._status_socket is not None)
    assert parts._status_socket is not None
    assert becomes_true(ex.pool, lambda: parts._status_socket.problem is not None)
    assert isinstance(parts._status_socket.problem, PermissionError)
    assert list(folder.iterdir()) == []
    ex.shutdown()


def test_a_full_disk_costs_the_socket_and_nothing_else(
    sockets: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(status_socket, "make_directory", full)
    ex = make(1)
    assert ex.submit(echo, 1).result(PATIENCE) == 1
    parts = ex.pool._engine._components
    assert becomes_true(ex.pool, lambda: parts._status_socket is not None and parts._status_socket.problem is not None)
    assert ex.submit(echo, 2).result(PATIENCE) == 2


FORKING = """
import os, select, time
from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.cli.status.client import addresses, ask_all

with DragonflyExecutor(1) as ex:
    ex.submit(pow, 2, 3).result()
    while not list(addresses()):
        time.sleep(0.01)
    parent = os.pidfd_open(os.getpid())
    if not os.fork():
        select.select([parent], [], [])  # until all threads of the parent have ended, which have its sockets
        print("silent" if not ask_all(1).reports else "answers", len(list(addresses())), flush=True)
        os._exit(0)
    assert [report["pid"] for _, report in ask_all().reports] == [os.getpid()]
    os.kill(os.getpid(), 9)
"""


def test_a_forked_child_does_not_keep_the_socket_alive(sockets: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stdout.split()) == (-signal.SIGKILL, ["silent", "0"]), ended.stderr


def test_a_short_program_opens_no_socket(sockets: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "STATUS_AFTER", 3600.0)
    ex = make(1)
    ex.submit(echo, 1).result(PATIENCE)
    assert not sockets.exists()
    assert ex.pool._engine._components._status_socket is None
