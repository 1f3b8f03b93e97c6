"""Errors of lost calls quote the platform's reason. The pool waits for that reason for a limited time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from dragonfly_executor import BootRequest, Node, RunnerLostError
from dragonfly_executor.engine import runner_links
from dragonfly_executor.protocol.frames import Kind
from tests.engine.conftest import MakeExecutor
from tests.support.helpers import PATIENCE, ScriptedBackend, error_of, frames_from, say_hello
from tests.support.payloads import echo


def dies_at_the_first_call(sock: socket.socket, number: int) -> None:
    say_hello(sock)
    for frame in frames_from(sock):
        if frame.kind in (Kind.CALL, Kind.STOP):
            return


class ExplainingBackend(ScriptedBackend):
    """A backend whose nodes say why they ended."""

    def __init__(self, explain: Callable[[], str]) -> None:
        super().__init__(dies_at_the_first_call)
        self._explain = explain

    def boot(self, request: BootRequest) -> Node:
        node, explain = super().boot(request), self._explain

        class ExplainingNode(type(node)):  # type: ignore[misc]
            def explain_loss(self) -> str:
                return explain()

        node.__class__ = ExplainingNode
        return node


def test_the_platforms_reason_is_in_the_error(make: MakeExecutor) -> None:
    executor = make(backend=ExplainingBackend(lambda: "Pod p was evicted"))
    error = error_of(executor.submit(echo, 1))
    assert isinstance(error, RunnerLostError)
    assert "was lost: " in str(error)
    assert str(error).endswith(". Pod p was evicted")


def test_a_platform_that_has_no_reason(make: MakeExecutor) -> None:
    error = error_of(make(backend=ExplainingBackend(lambda: "")).submit(echo, 1))
    assert isinstance(error, RunnerLostError)
    assert "had stopped it" not in str(error)


def test_a_platform_that_does_not_answer_is_not_waited_for(make: MakeExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_links, "EXPLAIN_TIMEOUT", 0.1)
    go_on = threading.Event()

    def hang() -> str:
        go_on.wait(PATIENCE)
        return "too late"

    error = error_of(make(backend=ExplainingBackend(hang)).submit(echo, 1))
    assert isinstance(error, RunnerLostError)
    assert "too late" not in str(error)
    go_on.set()


def test_the_lost_runner_counts_until_its_node_is_released_and_is_then_replaced(make: MakeExecutor) -> None:
    executor = make(backend=ExplainingBackend(lambda: "why"), max=1)
    for _ in range(3):
        assert "why" in str(error_of(executor.submit(echo, 1)))
    executor.shutdown()
    stats = executor.pool.stats()
    assert stats.boots_attempted == 3
    assert stats.runners_up == stats.runners_booting == 0


def test_a_pool_ends_while_a_platform_is_asked(make: MakeExecutor) -> None:
    """A shutdown waits for the answer, and for the release after it."""
    asked, go_on = threading.Event(), threading.Event()

    def explain() -> str:
        asked.set()
        go_on.wait(PATIENCE)
        return "why"

    executor = make(backend=ExplainingBackend(explain))
    future = executor.submit(echo, 1)
    assert asked.wait(PATIENCE)
    executor.shutdown(wait=False)
    go_on.set()
    assert "why" in str(error_of(future))
    executor.shutdown()
