"""Runs a runner on an SSH host that dials back to its parent, over a link of its own.

The stream that started the runner carries one line with the result of the dialing. After that it carries only the
parent's request that the runner end. If the stream breaks after the runner was admitted, the runner continues:
like every dial-back runner, it ends with its link. If the stream breaks earlier, the runner ends.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from contextlib import suppress

from dragonfly_executor.protocol.parent import Parent
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.runner import agent, dialback, orphans, process_tree
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

SURE_AFTER = 1.0
"""Seconds after which a definite refusal is believed: the parent has listened since before the dialing began."""
GRACE = 2.0
"""Seconds that an agent gets to end before it is killed."""


def run(reading: int, writing: int, parent: str, failsafe: float) -> tuple[int, orphans.RunnerRecord]:
    """Supervise an agent until it ends.

    Args:
        reading, writing: the descriptors of the parent's stream.
        parent: the encoded address of the parent, with the token.
        failsafe: seconds within which the agent must be admitted.

    Returns:
        The agent's wait status, and the record of the runner.
    """
    process_tree.become_subreaper()
    children, woken = socket.socketpair()
    woken.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    dialing, dialed = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for fd in (children.detach(), woken.detach(), reading, dialing):
            os.close(fd)
        _be_agent(writing, dialed, parent, failsafe)
    os.close(writing)
    os.close(dialed)
    record = orphans.RunnerRecord(pid)
    orphans.sweep()
    try:
        return _keep(pid, reading, dialing, children), record
    finally:
        # Other children may still end, and the wake-up socket is not read any more.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)


def _be_agent(writing: int, dialed: int, parent: str, failsafe: float) -> NoReturn:
    """Dial, report the result, and serve."""
    try:
        place = dialback.dial_back(Parent.decode(parent), failsafe, SURE_AFTER)
    except dialback.NotAdmittedError as error:
        _say(writing, {"error": str(error), "phase": error.phase})
        os._exit(1)
    except BaseException as error:  # mostly a Python without ssl
        _say(writing, {"error": f"{type(error).__name__}: {error}", "phase": "connect"})
        os._exit(1)
    _say(writing, {"dialed": True})
    # No slot may inherit these. Closing `dialed` tells the supervisor that the agent was admitted.
    os.close(writing)
    os.close(dialed)
    agent.run(*place, starters=1)
    os._exit(1)


def _say(writing: int, message: dict[str, object]) -> None:
    with suppress(OSError):  # if the stream is broken, supervisor and parent both see that
        os.write(writing, json.dumps(message).encode() + b"\n")


def _keep(agent_pid: int, reading: int, dialing: int, children: socket.socket) -> int:
    """Wait until the agent ends, and end it if the parent asks for that."""
    news = select.poll()
    for fd in (reading, dialing, children.fileno()):
        news.register(fd, select.POLLIN)
    is_let_in, kill_at = False, float("inf")
    while True:
        pid, status = os.waitpid(agent_pid, os.WNOHANG)
        if pid:
            return status
        left = kill_at - time.monotonic()
        if left <= 0:
            os.kill(agent_pid, signal.SIGKILL)
            left = kill_at = float("inf")
        found = {fd for fd, _ in news.poll(None if left == float("inf") else left * 1000)}
        if children.fileno() in found:
            children.recv(64)
        if dialing in found:
            is_let_in = True
            news.unregister(dialing)
        if reading in found:
            try:
                word = os.read(reading, 64)
            except OSError:
                word = b""
            if not word:
                news.unregister(reading)
            if word or not is_let_in:
                os.kill(agent_pid, signal.SIGTERM)
                kill_at = time.monotonic() + GRACE
