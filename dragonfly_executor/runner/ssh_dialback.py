"""A runner on a host that dials back to its parent, over a link of its own.

The stream over which it was started then carries one line, how the dialing went, and after that nothing but the
parent's word that the runner is to end. If the stream breaks, the runner goes on: its life hangs on the link, as that
of every runner that dials back. Only while it has not been let in is there nothing to go on with.
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

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

SURE_AFTER = 1.0
"""Seconds after which the agent believes that its parent is not where it dials: the door was open before it began."""
GRACE = 2.0
"""Seconds that an agent which is to end gets, until it is killed."""


def run(reading: int, writing: int, parent: str, failsafe: float) -> tuple[int, orphans.Record]:
    """Be an agent's keeper until it has ended. Return how it has, as waitpid has it, and the record of the runner.

    Args:
        reading, writing: the parent's stream.
        parent: whom to dial, encoded, with the token.
        failsafe: seconds within which the agent has to be let in.
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
    record = orphans.Record(pid)
    orphans.sweep()
    try:
        return _keep(pid, reading, dialing, children), record
    finally:
        # Others may end yet, and then there is nobody to wake.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)


def _be_agent(writing: int, dialed: int, parent: str, failsafe: float) -> NoReturn:
    """Dial, say how that went, and serve."""
    try:
        place = dialback.dial_back(Parent.decode(parent), failsafe, SURE_AFTER)
    except dialback.NotLetInError as error:
        _say(writing, {"error": str(error), "phase": error.phase})
        os._exit(1)
    except BaseException as error:  # a Python without ssl, above all
        _say(writing, {"error": f"{type(error).__name__}: {error}", "phase": "connect"})
        os._exit(1)
    _say(writing, {"dialed": True})
    # No slot may have these. The closing of the second one tells the keeper.
    os.close(writing)
    os.close(dialed)
    agent.run(*place)
    os._exit(1)


def _say(writing: int, message: dict[str, object]) -> None:
    with suppress(OSError):  # if the stream is broken the keeper and the parent know that
        os.write(writing, json.dumps(message).encode() + b"\n")


def _keep(agent_pid: int, reading: int, dialing: int, children: socket.socket) -> int:
    """Wait for the agent's end, and bring it about when the parent wants it."""
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
