"""A runner that drains, after a SIGTERM or at a word of its parent, heard word by word, by a parent that is none."""

from __future__ import annotations

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


def test_one_that_its_parent_has_just_let_in_gives_back_what_comes(talk: Callable[[float], AgentClient]) -> None:
    """It may have said so, and have sent calls, though nothing of it has been read here."""
    agent = talk(LONG)
    agent.hear(Kind.HELLO)
    agent.terminate()
    agent.hear(Kind.STOP)
    agent.welcome()
    agent.call(1, payloads.pid)
    assert agent.hear(Kind.RETURNED).call_id == 1
    agent.terminate()  # once more is nothing new
    agent.say(Kind.STOP, detail=int(LONG * 1000))
    agent.says_bye()


def test_one_that_nobody_lets_in_goes_soon(talk: Callable[[float], AgentClient]) -> None:
    agent = talk(LONG)
    agent.hear(Kind.HELLO)
    agent.terminate()
    agent.hear(Kind.STOP)
    agent.says_bye()


@pytest.mark.parametrize("first", ["whoever is in a hurry", "the parent"])
def test_of_two_that_want_it_to_go_the_one_counts_that_waits_the_least(
    talk: Callable[[float], AgentClient], mailbox: Mailbox, first: str
) -> None:
    """Who sends a SIGTERM kills later, whatever a parent's `shutdown_timeout` is."""
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
    assert agent.hear(Kind.LOST).call_id == 1
    agent.says_bye()


def test_a_parents_grace_holds_where_it_is_the_shorter_one(
    talk: Callable[[float], AgentClient], mailbox: Mailbox
) -> None:
    agent = talk(LONG)
    agent.hear(Kind.HELLO)
    agent.welcome()
    agent.call(1, payloads.hold_for_good, mailbox.path)
    mailbox.numbers(1)
    agent.terminate()
    agent.hear(Kind.STOP)
    agent.say(Kind.STOP, detail=100)
    assert agent.hear(Kind.LOST).call_id == 1
    agent.says_bye()


def test_what_comes_amid_files_that_change_is_given_back_at_once(
    talk: Callable[[float], AgentClient], mailbox: Mailbox, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync may take longer than there is time."""
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
    agent.says_bye()


# -- on_drain ----------------------------------------------------------------------------------------------------------


def inside_a_runner() -> None:
    """Set what a pool sets: these runners have a parent that is none."""
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
    agent.says_bye()


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


def test_the_parents_word_ends_calls_that_take_too_long(
    talk: Callable[[float], AgentClient], mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent itself stops the runner at the end. This is for a parent that does not."""
    agent = admitted(talk)
    agent.call(1, payloads.hold_for_good, mailbox.path)
    mailbox.numbers(1)
    agent.say(Kind.DRAIN, detail=0)
    agent.hear(Kind.STOP)
    assert agent.hear(Kind.LOST).call_id == 1
    agent.says_bye()


def test_outside_a_runner_nothing_happens() -> None:
    with on_drain() as notice:
        os.kill(os.getpid(), signal.SIGURG)
    assert not notice.has_begun


def test_another_thread_cannot_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragonfly_executor.protocol.parent.Parent.get", lambda: "a parent")
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
