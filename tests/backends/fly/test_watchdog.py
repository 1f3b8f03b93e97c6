"""The main process of a runner's machine: it ends what does not end itself, whatever the agent's health."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dragonfly_executor.protocol.parent import VARIABLE
from dragonfly_executor.runner import exit_codes, process_tree
from tests.processes.dialback.conftest import Receive
from tests.support.census import Census
from tests.support.dialback import start_runner
from tests.support.helpers import PATIENCE, Mailbox, all_ended, watching

PROGRAM = """
import os, signal, subprocess, sys
from dragonfly_executor.runner import watchdog

def agent(show_life):
    def tell(word):
        os.write(told, f"{word}\\n".encode())
    told = os.open(sys.argv[1], os.O_WRONLY)
    %s

lifetime, start, silence, idle = map(float, sys.argv[2:])
watchdog.guard(agent, lifetime, start, idle, silence)
"""
STRAY = (
    "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], start_new_session=True)\n    "
)
HANGS = STRAY + "tell(os.getpid()); tell(child.pid); signal.pause()"
LONG = 600.0


@contextmanager
def watchdog(
    mailbox: Mailbox,
    agent: str,
    lifetime: float = LONG,
    start: float = 0.0,
    silence: float = LONG,
    idle: float = 0.0,
) -> Iterator[subprocess.Popen[bytes]]:
    numbers = [str(number) for number in (lifetime, start, silence, idle)]
    with subprocess.Popen([sys.executable, "-c", PROGRAM % agent, mailbox.path, *numbers]) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process_tree.kill_tree(process.pid)


def test_everything_ends_with_the_lifetime(mailbox: Mailbox) -> None:
    """An agent that hangs, and what it has started in a session of its own."""
    with watchdog(mailbox, HANGS, lifetime=1.0) as process, watching(*mailbox.numbers(2)) as watches:
        assert process.wait(PATIENCE) == exit_codes.EXPIRED
        assert all_ended(watches)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_the_agents_health_is_not_asked(mailbox: Mailbox, number: signal.Signals) -> None:
    """Stopped, it ends with the lifetime; killed, at once, and with what it has left behind."""
    with watchdog(mailbox, HANGS, lifetime=1.2 if number == signal.SIGSTOP else LONG) as process:
        agent, child = mailbox.numbers(2)
        with watching(agent, child) as watches:
            os.kill(agent, number)
            assert process.wait(PATIENCE) == (exit_codes.EXPIRED if number == signal.SIGSTOP else 128 + number)
            assert all_ended(watches)


def test_an_agent_without_a_sign_of_life_ends(mailbox: Mailbox) -> None:
    with watchdog(mailbox, HANGS, silence=0.3) as process, watching(*mailbox.numbers(2)) as watches:
        assert process.wait(PATIENCE) == exit_codes.SILENT
        assert all_ended(watches)


def test_signs_of_life_keep_it(mailbox: Mailbox) -> None:
    """It lives for longer than its silence may last: the second half of its words come after that."""
    agent = (
        "import time\n    for _ in range(10):\n        show_life(False); tell('alive'); time.sleep(0.1)\n"
        "    os._exit(7)"
    )
    with watchdog(mailbox, agent, silence=0.6) as process:
        assert process.wait(PATIENCE) == 7
        assert [mailbox.read() for _ in range(10)] == ["alive"] * 10


def test_an_agent_without_calls_is_told_to_go(mailbox: Mailbox) -> None:
    """Signs of life alone do not keep it, signs of work do: the second half of its words come after that."""
    agent = (
        "import time\n    signal.signal(signal.SIGTERM, lambda *_: (tell('told'), os._exit(0)))\n    "
        "for _ in range(8):\n        show_life(True); tell('works'); time.sleep(0.1)\n    "
        "while True:\n        show_life(False); time.sleep(0.1)"
    )
    with watchdog(mailbox, agent, idle=0.5) as process:
        assert [mailbox.read() for _ in range(9)] == ["works"] * 8 + ["told"]
        assert process.wait(PATIENCE) == exit_codes.IDLE


def test_the_agents_own_end_is_its_end(mailbox: Mailbox) -> None:
    with watchdog(mailbox, STRAY + "tell(child.pid); sys.exit(3)") as process, watching(*mailbox.numbers(1)) as watches:
        assert process.wait(PATIENCE) == 3
        assert all_ended(watches)


def test_strays_are_reaped_meanwhile(mailbox: Mailbox) -> None:
    """What a daemonized child leaves is a child of the main process: it must not become a zombie for good."""
    agent = (
        "child = subprocess.Popen(['sh', '-c', 'sleep 0.05 & echo $!'], stdout=subprocess.PIPE)\n"
        "    tell(child.stdout.readline().decode().strip()); child.wait(); signal.pause()"
    )
    with watchdog(mailbox, agent, lifetime=1.0) as process:
        (stray,) = mailbox.numbers(1)
        assert process.wait(PATIENCE) == exit_codes.EXPIRED
        assert not Path(f"/proc/{stray}").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_stops_the_machine_reaches_the_agent(mailbox: Mailbox, number: signal.Signals) -> None:
    """Fly sends SIGINT if nothing else is said; an agent knows SIGTERM."""
    agent = (
        "signal.signal(signal.SIGTERM, lambda *_: (tell('told'), os._exit(5)))\n    tell('ready')\n    signal.pause()"
    )
    with watchdog(mailbox, agent) as process:
        assert mailbox.read() == "ready"
        process.send_signal(number)
        assert mailbox.read() == "told"
        assert process.wait(PATIENCE) == 5


def test_the_agent_ends_with_it(mailbox: Mailbox) -> None:
    """Who kills the main process has ended the machine."""
    agent = "tell(os.getpid()); signal.pause()"
    with watchdog(mailbox, agent) as process, watching(*mailbox.numbers(1)) as watches:
        process.kill()
        assert all_ended(watches)


def test_it_imports_next_to_nothing() -> None:
    code = "import sys, dragonfly_executor.runner.watchdog; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"typing", "logging", "ssl", "asyncio", "subprocess", "threading", "ctypes"} & set(loaded)


# -- as a runner -------------------------------------------------------------------------------------------------------


def test_a_runner_dials_back_and_is_ended_by_its_lifetime(receive: Receive, census: Census) -> None:
    """The token is in neither process's environment, and no process outlives the first."""
    reception = receive()
    parent = reception.expect()
    with start_runner(parent, "--max-lifetime", "2") as process:
        assert reception.joined.get(timeout=PATIENCE) == 1
        (agent,) = process_tree.children(process.pid)
        for pid in (process.pid, agent):
            # It holds the token base64-encoded: neither a whole description nor a part of one is there.
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            assert parent.encode().encode() not in environment
            assert b"DRAGONFLY_PARENT=--" in environment
        with watching(agent) as watches:
            # It hears nothing of the parent, and does nothing: as one that hangs.
            os.kill(agent, signal.SIGSTOP)
            assert process.wait(PATIENCE) == exit_codes.EXPIRED
            assert all_ended(watches)
    sock = reception.take()
    assert sock is not None
    sock.close()


IMPATIENT = """
import sys
from dragonfly_executor.runner import watchdog
from dragonfly_executor.runner.__main__ import main

watchdog.EVERY = 0.1
watchdog.guard.__defaults__ = (0.0, 0.7)
main(["--max-lifetime", "600", "--failsafe", "0.5", *sys.argv[1:]])
"""


def test_an_agent_gives_signs_of_life_until_it_is_stopped(receive: Receive) -> None:
    """Checklist 20: also where its machine goes on, and nobody but the watchdog could notice."""
    reception = receive()
    environment = {**os.environ, VARIABLE: reception.expect().encode()}
    with subprocess.Popen([sys.executable, "-c", IMPATIENT], env=environment) as process:
        assert reception.joined.get(timeout=PATIENCE) == 1
        (agent,) = process_tree.children(process.pid)
        with pytest.raises(subprocess.TimeoutExpired):
            # Longer than silence may last, the start counted in.
            process.wait(2.0)
        with watching(agent) as watches:
            os.kill(agent, signal.SIGSTOP)
            assert process.wait(PATIENCE) == exit_codes.SILENT
            assert all_ended(watches)
    sock = reception.take()
    assert sock is not None
    sock.close()


def test_a_runner_without_calls_ends(receive: Receive) -> None:
    """Its parent is there, and wants nothing of it."""
    reception = receive()
    environment = {**os.environ, VARIABLE: reception.expect().encode()}
    with subprocess.Popen([sys.executable, "-c", IMPATIENT, "--max-idle", "0.5"], env=environment) as process:
        assert reception.joined.get(timeout=PATIENCE) == 1
        sock = reception.take()
        assert sock is not None
        assert process.wait(PATIENCE) == exit_codes.IDLE
        sock.close()


def test_a_runner_that_reaches_nobody_says_so_by_its_status(receive: Receive) -> None:
    reception = receive()
    parent = reception.expect()
    reception.forget()
    with start_runner(parent, "--max-lifetime", "60", "--failsafe", "0.3", stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == exit_codes.UNREACHABLE
        assert b"could not reach the parent" in said
        assert b"Traceback" not in said
