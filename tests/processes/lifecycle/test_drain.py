"""A runner that drains, after a SIGTERM or its parent's DRAIN. The test is its parent, and reads each frame."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dragonfly_executor.protocol.file_manifest import SyncStep, TreeDifference, directory_entry
from dragonfly_executor.protocol.frames import Kind
from dragonfly_executor.protocol.parent import VARIABLE, Parent
from dragonfly_executor.runner.drain_notice import on_drain
from tests.support import payloads
from tests.support.agent_client import LONG, AgentClient
from tests.support.helpers import Gate, Mailbox
from tests.support.trees import file_of


def test_a_runner_that_was_just_admitted_returns_the_calls_that_come(
    talk: Callable[[float], AgentClient],
) -> None:
    """WELCOME and calls may be on their way when the SIGTERM comes."""
    agent = talk(LONG)
    agent.hear(Kind.HELLO)
    agent.terminate()
    agent.hear(Kind.STOP)
    agent.welcome()
    agent.call(1, payloads.pid)
    assert agent.hear(Kind.RETURNED).call_id == 1
    agent.terminate()  # a second signal changes nothing
    agent.say(Kind.STOP, detail=int(LONG * 1000))
    assert agent.exit_status_after_bye() == 0


def test_a_runner_that_is_not_admitted_ends_long_before_its_grace_is_over(talk: Callable[[float], AgentClient]) -> None:
    agent = talk(LONG)
    agent.hear(Kind.HELLO)
    agent.terminate()
    agent.hear(Kind.STOP)
    assert agent.exit_status_after_bye() == 0


@pytest.mark.parametrize("first", ["the platform", "the parent"])
def test_of_two_deadlines_the_earlier_one_counts(
    talk: Callable[[float], AgentClient], mailbox: Mailbox, first: str
) -> None:
    """The sender of a SIGTERM kills the runner later, whatever the parent's `shutdown_timeout` is."""
    agent = talk(0.2)
    agent.hear(Kind.HELLO)
    agent.welcome()
    agent.call(1, payloads.hold_for_good, mailbox.path)
    mailbox.numbers(1)
    if first == "the parent":
        agent.say(Kind.STOP, detail=int(LONG * 1000))
        agent.say(Kind.PING)
        agent.hear(Kind.PONG)
        agent.terminate()
    else:
        agent.terminate()
        agent.hear(Kind.STOP)
        agent.say(Kind.STOP, detail=int(LONG * 1000))
    if first == "the parent":
        agent.hear(Kind.STOP)
    lost = agent.hear(Kind.LOST)
    assert lost.call_id == 1
    assert json.loads(bytes(lost.payload))["stopped_after"] == 0.2
    assert agent.exit_status_after_bye() == 0


def test_a_parents_grace_counts_if_it_is_shorter(talk: Callable[[float], AgentClient], mailbox: Mailbox) -> None:
    agent = talk(LONG)
    agent.hear(Kind.HELLO)
    agent.welcome()
    agent.call(1, payloads.hold_for_good, mailbox.path)
    mailbox.numbers(1)
    agent.terminate()
    agent.hear(Kind.STOP)
    agent.say(Kind.STOP, detail=100)
    assert agent.hear(Kind.LOST).call_id == 1
    assert agent.exit_status_after_bye() == 0


def test_a_call_that_comes_during_a_sync_is_returned_at_once(
    talk: Callable[[float], AgentClient], mailbox: Mailbox, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync may take longer than the runner has left."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    agent = talk(LONG)
    agent.hear(Kind.HELLO)
    agent.welcome()
    agent.call(1, payloads.hold, mailbox.path, gate.path)
    mailbox.numbers(1)
    agent.terminate()
    agent.hear(Kind.STOP)
    difference = TreeDifference({"cwd": directory_entry(), "cwd/f": file_of(b"never sent")}, [])
    agent.say(Kind.SYNC_BEGIN, SyncStep(difference, [], False, []).dump(), detail=1)
    agent.call(2, payloads.pid)
    agent.hear(Kind.SYNC_HAVE)
    assert agent.hear(Kind.RETURNED).call_id == 2
    gate.open()
    assert agent.hear(Kind.RESULT).call_id == 1
    agent.say(Kind.STOP, detail=int(LONG * 1000))
    assert agent.exit_status_after_bye() == 0


# -- on_drain ----------------------------------------------------------------------------------------------------------


def inside_a_runner() -> None:
    """Set the variable that a pool sets: the runners of this test have no pool."""
    os.environ[VARIABLE] = Parent.new("test", 1, "local").encode()


def save_when_told(mailbox: str, rounds: int = 1) -> str:
    """Run until the runner drains, and save once for each of the blocks."""
    inside_a_runner()
    payloads.tell(mailbox, os.getpid())
    with on_drain(lambda: payloads.tell(mailbox, "outer")):
        for _ in range(rounds):
            with on_drain(lambda: payloads.tell(mailbox, "inner")) as notice:
                while not notice.has_begun:
                    signal.pause()
    return "stopped in time"


def raise_when_told(mailbox: str) -> None:
    def stop() -> None:
        raise InterruptedError("the runner ends")

    inside_a_runner()
    with on_drain(stop):
        payloads.hold_for_good(mailbox)


def listen_late(mailbox: str, gate: str) -> bool:
    """Listen once the drain has begun."""
    inside_a_runner()
    payloads.hold(mailbox, gate)
    with on_drain() as notice:
        while not notice.has_begun:
            signal.pause()
    return signal.getsignal(signal.SIGURG) is signal.SIG_DFL


def admitted(talk: Callable[[float], AgentClient]) -> AgentClient:
    agent = talk(LONG)
    agent.hear(Kind.HELLO)
    agent.welcome()
    return agent


@pytest.mark.parametrize("who", ["the platform", "the parent"])
def test_a_call_is_told_once_that_its_runner_drains(
    talk: Callable[[float], AgentClient], mailbox: Mailbox, who: str
) -> None:
    """The hook of an outer block comes first."""
    agent = admitted(talk)
    agent.call(1, save_when_told, mailbox.path)
    mailbox.numbers(1)
    if who == "the parent":
        agent.say(Kind.DRAIN, detail=int(LONG * 1000))
    else:
        agent.terminate()
    agent.hear(Kind.STOP)
    assert agent.hear(Kind.RESULT).call_id == 1
    assert [mailbox.read(), mailbox.read()] == ["outer", "inner"]
    agent.say(Kind.STOP, detail=0)
    assert agent.exit_status_after_bye() == 0


def test_an_exception_of_the_hook_ends_the_call(talk: Callable[[float], AgentClient], mailbox: Mailbox) -> None:
    agent = admitted(talk)
    agent.call(1, raise_when_told, mailbox.path)
    mailbox.numbers(1)
    agent.terminate()
    agent.hear(Kind.STOP)
    assert b"the runner ends" in bytes(agent.hear(Kind.RESULT).payload)


def test_a_call_that_listens_late_is_told(talk: Callable[[float], AgentClient], mailbox: Mailbox, gate: Gate) -> None:
    agent = admitted(talk)
    agent.call(1, listen_late, mailbox.path, gate.path)
    mailbox.numbers(1)
    agent.terminate()
    agent.hear(Kind.STOP)
    gate.open()
    assert agent.hear(Kind.RESULT).call_id == 1


def test_a_drain_of_the_parent_ends_calls_that_take_too_long(
    talk: Callable[[float], AgentClient], mailbox: Mailbox
) -> None:
    """Usually the parent stops the runner at that time. This parent does not."""
    agent = admitted(talk)
    agent.call(1, payloads.hold_for_good, mailbox.path)
    mailbox.numbers(1)
    agent.say(Kind.DRAIN, detail=0)
    agent.hear(Kind.STOP)
    lost = agent.hear(Kind.LOST)
    assert lost.call_id == 1
    assert json.loads(bytes(lost.payload))["stopped_after"] is None, "nothing but its parent has stopped it"
    assert agent.exit_status_after_bye() == 0


def test_outside_a_runner_nothing_happens() -> None:
    with on_drain() as notice:
        os.kill(os.getpid(), signal.SIGURG)
    assert not notice.has_begun


def test_another_thread_cannot_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragonfly_executor.protocol.parent.Parent.of_process", lambda: "a parent")
    raised: list[BaseException] = []

    def listen() -> None:
        try:
            on_drain().__enter__()
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert "only on the thread that runs the call" in str(raised[0])
