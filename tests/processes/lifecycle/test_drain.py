"""A runner that somebody else wants to go (SIGTERM), heard word by word, by a parent that is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dragonfly_executor.protocol.file_manifest import SyncStep, TreeDifference, directory_entry
from dragonfly_executor.protocol.frames import Kind
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
