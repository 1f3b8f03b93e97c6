"""What ``ps`` shows for the processes of a runner."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dragonfly_executor.protocol.frames import Kind
from tests.engine.conftest import MakePool, make_pool
from tests.support import payloads
from tests.support.agent_client import LONG, AgentClient
from tests.support.helpers import PATIENCE, Gate, Mailbox

__all__ = ["make_pool"]
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux has titles that can be written"
)


def shown(pid: int | str) -> tuple[str, str]:
    """A process's name and title."""
    folder = Path("/proc") / str(pid)
    return (folder / "comm").read_text().strip(), (folder / "cmdline").read_bytes().rstrip(b"\0").decode()


def shown_here() -> tuple[tuple[str, str], tuple[str, str], list[str]]:
    """Of the slot that runs this and of its agent; and what the interpreter was called with."""
    return shown("self"), shown(os.getppid()), sys.orig_argv


def test_processes_are_shown_with_their_pool_and_their_role(make_pool: MakePool) -> None:
    slot, agent, arguments = make_pool("media", max_concurrency=1).submit(shown_here).result(PATIENCE)
    # On a busy machine the call itself may have run for long enough to be shown.
    assert slot[0] == "dragonfly-slot"
    assert slot[1].replace(", call 1", "") == "dragonfly slot 0: pool media, runner 1"
    assert agent == ("dragonfly-agent", "dragonfly agent: pool media, runner 1")
    assert "dragonfly slot" not in " ".join(arguments)


def is_shown_in_time(agent: AgentClient, slot: int, title: str) -> bool:
    """Whether the slot gets this title, while the agent answers one question after another."""
    deadline = time.monotonic() + PATIENCE
    while shown(slot)[1] != title:
        agent.say(Kind.PING)
        agent.hear(Kind.PONG)
        if time.monotonic() > deadline:
            return False
    return True


def test_a_call_that_runs_for_long_is_shown_until_it_ends(
    talk: Callable[[float], AgentClient], mailbox: Mailbox, gate: Gate
) -> None:
    agent = talk(LONG)
    agent.hear(Kind.HELLO)
    agent.welcome()
    agent.call(17, payloads.hold, mailbox.path, gate.path)
    slot = int(mailbox.read())
    agent.hear(Kind.STARTED)
    assert is_shown_in_time(agent, slot, "dragonfly slot 0, call 17")
    gate.open()
    agent.hear(Kind.RESULT)
    agent.call(18, payloads.pid)
    assert agent.hear(Kind.RESULT).call_id == 18
    assert "call 17" not in shown(slot)[1]


@pytest.mark.parametrize("name", ["x" * 10_000, "müsli\u2028"])
def test_a_title_takes_no_more_room_than_there_is(name: str, make_pool: MakePool) -> None:
    """What lies behind it is the environment, which stays as it was."""
    pool = make_pool(name, max_concurrency=1)
    slot, _, _ = pool.submit(shown_here).result(PATIENCE)
    assert slot[1].replace(", call 1", "").startswith(f"dragonfly slot 0: pool {name}"[:40])
    here = pool.submit(Path("/proc/self/environ").read_bytes).result(PATIENCE)
    assert {entry for entry in here.split(b"\0") if entry.startswith(b"HOME=")} == {b"HOME=" + os.environb[b"HOME"]}
