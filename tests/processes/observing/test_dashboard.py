"""The web page of a pool and of all programs: its server, over HTTP. What a browser shows: test_dashboard_page.py."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from dragonfly_executor import DragonflyExecutor, Pool
from dragonfly_executor.cli.main import main
from dragonfly_executor.dashboard import http_thread, server, source
from dragonfly_executor.testing import FakeBackend
from tests.processes.conftest import Make
from tests.processes.observing.conftest import Start
from tests.support.helpers import PATIENCE, Gate, Mailbox, becomes_true, error_of, watching
from tests.support.payloads import echo, fail, hold


def url_of(pool: Pool) -> str:
    assert pool.dashboard_url is not None
    return pool.dashboard_url


def get(url: str, **query: Any) -> Any:
    answer = httpx.get(url, params=query, timeout=PATIENCE, trust_env=False)
    return answer.json() if answer.status_code in (200, 400) else answer.status_code


def post(url: str, **body: Any) -> Any:
    return httpx.post(url, json=body, timeout=PATIENCE, trust_env=False).json()


def print_and_hold(mailbox: str, gate: str) -> None:
    print("a line", flush=True)
    hold(mailbox, gate)


def test_it_shows_a_pool_from_its_beginning_to_its_end(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(2, output="capture", dashboard=True)
    url = url_of(ex.pool)
    # Before the first call it boots no runner.
    assert get(f"{url}api/state")["report"]["runners"] == []
    assert ex.pool.stats().boots_attempted == 0
    held = ex.submit(print_and_hold, mailbox.path, gate.path)
    mailbox.read()
    assert isinstance(error_of(ex.submit(fail, KeyError("no"))), KeyError)
    assert becomes_true(ex.pool, lambda: ex.pool.stats().calls_running == 1)
    state = get(f"{url}api/state", pool="0")
    (call,) = state["report"]["calls"]
    assert (call["function"], call["state"], call["runner"]) == ("print_and_hold", "running", 1)
    (runner,) = state["history"]["runners"]
    assert runner["boot"] <= runner["up"] <= state["history"]["now"]
    (failure,) = state["history"]["failures"]
    assert (failure["function"], failure["error_type"]) == ("fail", "KeyError")
    assert "KeyError: 'no'" in get(f"{url}api/call", pool="0", call=failure["call"])["traceback"]
    assert becomes_true(ex.pool, lambda: "a line" in get(f"{url}api/call", pool="0", call=call["id"])["output"])
    assert post(f"{url}api/kill", pool="0", call=call["id"]) == {"killed": call["id"]}
    with pytest.raises(CancelledError):
        held.result(PATIENCE)
    ended = get(f"{url}api/call", pool="0", call=call["id"])
    assert (ended["state"], ended["output"].splitlines()[0]) == ("cancelled", "a line")
    assert ended["seconds"] > 0
    assert post(f"{url}api/resize", pool="0", min=0, max=1) == {"min": 0, "max": 1}
    assert "min must be at most max" in post(f"{url}api/resize", pool="0", min=5, max=1)["error"]
    assert "there is no pool" in post(f"{url}api/resize", pool="x", max=1)["error"]
    ex.shutdown()
    with pytest.raises(httpx.ConnectError):
        get(url)


def test_its_address_is_in_no_log_and_no_repr(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn logs the paths of requests, if the program logs at all, and the token is in them."""
    caplog.set_level(1)
    ex = make(1, backend=FakeBackend(), dashboard=True, log=True)
    url = url_of(ex.pool)
    token = urlsplit(url).path.strip("/")
    before = list(logging.getLogger("uvicorn.access").handlers), logging.getLogger("uvicorn.access").propagate
    assert httpx.get(url, trust_env=False).status_code == 200
    with socket.create_connection((urlsplit(url).hostname or "", urlsplit(url).port or 0)) as client:
        client.sendall(f"GARBAGE {token}\r\n\r\n".encode())
        assert b"400" in client.recv(100)
    ex.shutdown()
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert ours
    for text in (*(record.getMessage() for record in ours), repr(ex), repr(ex.pool), repr(ex.pool.stats())):
        assert token not in text
    # A server of the program's own goes on to log as before.
    access = logging.getLogger("uvicorn.access")
    assert (list(access.handlers), access.propagate) == before
    assert not any("token" in name.lower() and token in value for name, value in os.environ.items())


def test_only_loopback_is_bound_and_idle_connections_are_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_thread, "IDLE", 0.2)
    ex = make(1, backend=FakeBackend(), dashboard=True)
    where = urlsplit(url_of(ex.pool))
    dashboard = ex.pool._engine._components._dashboard
    assert dashboard is not None
    assert dashboard._listener.getsockname()[0] == "127.0.0.1"
    address = "127.0.0.1", where.port or 0
    clients = [socket.create_connection(address) for _ in range(http_thread.MOST_CONNECTIONS + 8)]
    try:
        for client in clients:
            client.settimeout(PATIENCE)
            assert client.recv(1) == b""  # hung up: beyond the bound at once, the others after a while
    finally:
        for client in clients:
            client.close()
    assert get(url_of(ex.pool) + "api/state")["report"]["pool"] == ex.pool.name


def test_bad_clients_keep_no_connection_and_print_nothing(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Any user of this machine can connect. What uvicorn logs appears on the program's stderr without a handler."""
    caplog.set_level(1)
    ex = make(1, backend=FakeBackend(), dashboard=True)
    where = urlsplit(url_of(ex.pool))
    host = f"Host: 127.0.0.1:{where.port}\r\n"
    refused = f"GET /wrong/ HTTP/1.1\r\n{host}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    for request in ("GARBAGE\r\n\r\n", refused):
        with socket.create_connection(("127.0.0.1", where.port or 0), PATIENCE) as client, suppress(ConnectionError):
            client.sendall(request.encode())
            while answer := client.recv(1000):
                if b"token" in answer:
                    client.sendall(b"G")  # another request, which never ends
    body = "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", where.port or 0)) as client:
        client.sendall(f"POST {where.path}api/kill HTTP/1.1\r\n{host}{body}".encode())
    assert get(f"{where.geturl()}api/state")["report"]["pool"] == ex.pool.name
    ex.shutdown()
    assert [record for record in caplog.records if record.name.startswith(("uvicorn", http_thread.LOGGER.name))] == []


@pytest.mark.parametrize("ending", ["shutdown", "kill", "collected", "exit of the block"])
def test_nothing_of_it_outlives_the_pool(ending: str) -> None:
    """The census looks for threads and descriptors. A client is connected, and another one waits for an answer."""
    ex = DragonflyExecutor(1, backend=FakeBackend(), dashboard=True)
    where = urlsplit(url_of(ex.pool))
    names = [thread.name for thread in threading.enumerate()]
    assert f"dragonfly-{ex.pool.name}-dashboard" in names
    with httpx.Client(trust_env=False, timeout=PATIENCE) as client:
        assert client.get(url_of(ex.pool)).status_code == 200
        engine = ex.pool._engine
        thread = engine._thread
        assert thread is not None
        if ending == "shutdown":
            ex.shutdown()
        elif ending == "kill":
            ex.pool.kill()
        elif ending == "exit of the block":
            with ex:
                pass
        del ex
        gc.collect()
        thread.join(PATIENCE)
        dashboard = engine._components._dashboard
        assert dashboard is not None
        assert dashboard.join(PATIENCE)
        with pytest.raises((httpx.ConnectError, httpx.ReadError)):
            client.get(where.geturl())


def test_a_pool_that_does_not_answer_is_named_and_keeps_nobody_waiting(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "TIMEOUT", 0.2)
    ex = make(1, backend=FakeBackend(), dashboard=True)
    url = url_of(ex.pool)
    get(f"{url}api/state")
    go_on = threading.Event()
    ex.pool._engine.on_thread(lambda _: go_on.wait(PATIENCE))
    state = get(f"{url}api/state")
    assert (state["pools"], state["silent"]) == ([], ["the pool has not answered for 0.2 s"])
    monkeypatch.setattr(source, "TIMEOUT", PATIENCE)
    answers: list[Any] = []
    client = threading.Thread(target=lambda: answers.append(get(f"{url}api/state")))
    client.start()
    components = ex.pool._engine._components
    assert components._dashboard is not None
    waiting = components._dashboard._source._waiting  # type: ignore[attr-defined]
    deadline = time.monotonic() + PATIENCE
    while not waiting:
        assert time.monotonic() < deadline
    # The server ends before the pool's thread does: the client that waits gets an error.
    components._dashboard.close()
    client.join(PATIENCE)
    assert answers[0]["silent"] == [source.ENDED]
    go_on.set()


def test_a_call_that_waits_for_its_retry_does_not_run(make: Make) -> None:
    ex = make(1, dashboard=True)
    url = url_of(ex.pool)
    call = ex.options(retries=1, retry_wait=lambda state: 3600.0).submit(os.abort)
    assert becomes_true(ex.pool, lambda: ex.pool.stats().calls_retried == 1)
    state = get(f"{url}api/state", pool="0")
    assert (state["report"]["calls"], state["history"]["running"]) == ([], [])
    assert call.cancel()


def test_a_page_that_may_only_be_read(make: Make) -> None:
    ex = make(1, backend=FakeBackend(), dashboard="read-only")
    url = url_of(ex.pool)
    assert get(f"{url}api/state")["read_only"] is True
    assert post(f"{url}api/resize", pool="0", max=5) == {"error": "this page is read-only"}


def test_bad_options_and_missing_packages_are_refused_at_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in ("yes", 8080, None):
        with pytest.raises(ValueError, match="dashboard must be True, False or 'read-only'"):
            DragonflyExecutor(1, dashboard=bad)  # type: ignore[arg-type]
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find_spec(name))
    advice = r"dashboard=True needs uvicorn: pip install 'dragonfly-executor\[dashboard\]'"
    with pytest.raises(ImportError, match=advice):
        DragonflyExecutor(1, dashboard=True)
    with pytest.raises(ImportError, match="dashboard='read-only' needs uvicorn"):
        Pool("none", min=0, max=1, dashboard="read-only")
    with DragonflyExecutor(1, backend=FakeBackend()) as ex:
        assert ex.pool.dashboard_url is None
        assert ex.submit(echo, 1).result(PATIENCE) == 1
        assert ex.pool._engine._components._dashboard is None


def test_a_start_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(server.socket.socket, "bind", fails)
    with pytest.raises(RuntimeError, match="could not be started, and was cleaned up: OSError"):
        DragonflyExecutor(1, backend=FakeBackend(), dashboard=True)


PROGRAM = """
import os, sys
from dragonfly_executor import DragonflyExecutor
from urllib.request import urlopen

ex = DragonflyExecutor(1, dashboard=True)
url = ex.pool.dashboard_url
print(url, flush=True)
assert urlopen(url).status == 200
ex.submit(pow, 2, 3).result()
"""
FORKING = (
    PROGRAM
    + """
if not os.fork():
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    own = [os.readlink(link) for link in links if os.path.lexists(link)]
    port = f":{int(url.split(':')[2].split('/')[0]):04X} "
    sockets = [f"socket:[{line.split()[9]}]" for line in open("/proc/self/net/tcp") if port in line]
    print(bool(sockets), len(set(own) & set(sockets)), len([each for each in own if "eventpoll" in each]), flush=True)
    os._exit(0)
os.wait()
assert urlopen(url).status == 200
os.kill(os.getpid(), 9)
"""
)


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)


def test_a_program_ends_although_it_has_a_page() -> None:
    """Without a shutdown: at its exit, and by Ctrl-C."""
    ended = run(PROGRAM)
    assert (ended.returncode, ended.stderr) == (0, "")
    ended = run(PROGRAM + "os.kill(os.getpid(), 2); import time; time.sleep(60)")
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")


def test_a_forked_child_does_not_keep_the_page() -> None:
    ended = run(FORKING)
    assert (ended.returncode, ended.stdout.split()[1:]) == (-signal.SIGKILL, ["True", "0", "0"]), ended.stderr


@pytest.fixture
def command(sockets: Path) -> Iterator[subprocess.Popen[str]]:
    """`dragonfly dashboard`."""
    arguments = [sys.executable, "-m", "dragonfly_executor", "dashboard"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def test_the_command_shows_all_programs(
    command: subprocess.Popen[str], start_program: Start, news: Mailbox, gate: Gate, sockets: Path
) -> None:
    assert command.stdout is not None
    url = command.stdout.readline().strip()
    assert get(f"{url}api/state")["pools"] == []
    program = start_program(news.path, gate.path, "capture")
    news.read()
    deadline = time.monotonic() + PATIENCE
    while not (state := get(f"{url}api/state"))["pools"]:
        assert time.monotonic() < deadline
    key = state["chosen"]
    assert (state["report"]["pid"], state["report"]["pool"]) == (program.pid, "held")
    while not (rows := get(f"{url}api/state", pool=key)["history"]["running"]):
        assert time.monotonic() < deadline
    assert get(f"{url}api/call", pool=key, call=rows[0][0])["function"] == "hold"
    assert post(f"{url}api/resize", pool=key, max=3) == {"min": 0, "max": 3}
    assert "ValueError" in post(f"{url}api/resize", pool=key, max=0)["error"]
    assert post(f"{url}api/kill", pool=key, call=rows[0][0]) == {"killed": rows[0][0]}
    assert news.read() == "error CancelledError"
    program.wait()
    assert get(f"{url}api/state", pool=key)["pools"] == []
    assert "has ended" in post(f"{url}api/kill", pool=key, call=1)["error"]
    with watching(command.pid) as (watch,):
        command.send_signal(signal.SIGINT)
        assert watch.ended()
    assert (command.wait(), command.stderr.read() if command.stderr else "") == (128 + signal.SIGINT, "")


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["dashboard", "--port", str(port)]) == 1
        assert f"cannot listen on port {port}: Address already in use" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["dashboard"]) == 1
    assert "pip install 'dragonfly-executor[dashboard]'" in capsys.readouterr().err
    for bad in ("70000", "-1", "http"):
        with pytest.raises(SystemExit):
            main(["dashboard", "--port", bad])
        assert f"must be a port between 0 and 65535, not '{bad}'" in capsys.readouterr().err
