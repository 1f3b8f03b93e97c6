"""What futures, executors and pools look like: in a terminal, and in a notebook."""

from __future__ import annotations

import re
import threading
import traceback
from concurrent.futures import Future as BaseFuture
from concurrent.futures import wait
from html.parser import HTMLParser
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, Future, Pool
from dragonfly_executor.backends.local import LocalBackend
from tests.engine.conftest import MakeExecutor, MakePool
from tests.support import payloads
from tests.support.helpers import SOON, Gate, Mailbox
from tests.support.no_imports import no_imports


def state_of(future: BaseFuture[Any]) -> str:
    found = re.fullmatch(r"<Future at 0x[0-9a-f]+ state=(.*)>", repr(future))
    assert found, repr(future)
    return found[1]


class TextDecoder(HTMLParser):
    """The words of some HTML, once it is seen that every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_a_future_is_shown_in_the_standard_librarys_words(make: MakeExecutor, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1)
    running = ex.submit(payloads.hold, mailbox.path, gate.path, "ran")
    mailbox.read()
    waiting, dropped = ex.submit(payloads.echo, 1), ex.submit(payloads.echo, 2)
    dropped.cancel()
    # A start is reported a moment after it.
    assert state_of(running) in ("running", "pending")
    assert (state_of(waiting), state_of(dropped)) == ("pending", "cancelled")
    gate.open()
    wait([running, waiting], SOON)
    assert (state_of(running), state_of(waiting)) == ("finished returned str", "finished returned int")
    assert (running.result(), waiting.result()) == ("ran", 1)
    assert (state_of(running), state_of(waiting)) == ("finished returned str", "finished returned int")


@pytest.mark.parametrize(
    ("fn", "args", "name"),
    [
        (payloads.fail, (ValueError("no"),), "ValueError"),
        (payloads.leave, (3,), "RunnerLostError"),
        (payloads.echo, (threading.Lock(),), "CallSerializationError"),
        (payloads.raise_one, ("ExitsInParent",), None),
    ],
)
def test_an_error_is_shown_by_its_type(make: MakeExecutor, fn: Any, args: Any, name: str | None) -> None:
    future = make(1).submit(fn, *args)
    wait([future], SOON)
    before = state_of(future)
    error = future.exception()
    assert state_of(future) == f"finished raised {type(error).__name__}"
    if name is not None:
        assert before == f"finished raised {name}"


def test_a_value_is_not_opened_to_be_shown(make: MakeExecutor) -> None:
    future = make(1).submit(payloads.make_harm, "open in parent", "exit")
    wait([future], SOON)
    assert state_of(future).startswith("finished returned ")
    assert future.exception() is not None
    assert state_of(future) == "finished raised ResultDeserializationError"


def test_a_large_value_is_not_looked_into(make: MakeExecutor) -> None:
    future = make(1).submit(payloads.big_result, 2**20)
    wait([future], SOON)
    assert state_of(future) == "finished returned object"
    future.result()
    assert state_of(future) == "finished returned bytes"


def test_an_executor_shows_its_backend_its_runners_and_its_calls(make: MakeExecutor) -> None:
    ex = make(2)
    assert re.fullmatch(
        r"<DragonflyExecutor 'executor-\d+' on local: runners 0 of at most 1 up; slots 0 of 0 busy; "
        r"calls 0 waiting, 0 on runners>",
        repr(ex),
    )
    ex.submit(payloads.echo, 1).result(SOON)
    assert "runners 1 of at most 1 up; slots 0 of " in repr(ex)
    assert "calls 0 waiting, 0 on runners, 1 done>" in repr(ex)
    assert repr(ex.options(timeout=3)).startswith("<PoolExecutor 'executor-")
    ex.shutdown()
    assert "held by shutdown" in repr(ex)


class Named(LocalBackend):
    name = "<b>&"


def test_notebooks_get_tables_that_hold_no_markup_of_others(make: MakeExecutor, make_pool: MakePool) -> None:
    pool = make_pool("<script>alert(1)</script>", backend=Named())
    for html in (pool._repr_html_(), DragonflyExecutor(pool=pool)._repr_html_()):
        assert "<script" not in html
        words = TextDecoder(html).words
        assert "<script>alert(1)</script>" in words
        assert "<b>&" in words
        assert "0 of at most 1 up" in words
    future = make(1).submit(payloads.fail, ValueError("<i>"))
    wait([future], SOON)
    words = TextDecoder(future._repr_html_()).words
    assert words == ["Future", "state", "finished", "outcome", "raised ValueError"]


def test_a_notebook_shows_the_runners_of_a_pool_and_the_calls_on_them(
    make: MakeExecutor, mailbox: Mailbox, gate: Gate
) -> None:
    ex = make(1)
    assert ex.submit(payloads.echo, 1).result(SOON) == 1
    future = ex.submit(payloads.hold, mailbox.path, gate.path)
    mailbox.read()
    words = TextDecoder(ex._repr_html_()).words
    at = words.index("runner")
    assert words[at : at + 8] == ["runner", "state", "host", "calls", "done", "age", "1", "up"]
    assert [word for word in words if word in ("function", "hold")] == ["function", "hold"]
    assert "run time" in words
    gate.open()
    future.result(SOON)


def test_a_failed_boot_shows_no_words_of_the_node(make: MakeExecutor) -> None:
    ex = make(1, backend=LocalBackend(python="/nowhere/python"), boot_wait=lambda state: 0.0)
    assert ex.submit(payloads.echo, 1).exception(SOON) is not None
    assert "nowhere" not in repr(ex) + ex._repr_html_()


# -- a repr never raises: a log line about a failure may hold it -------------------------------------------------------


@pytest.mark.parametrize("fn", [payloads.echo, payloads.fail], ids=["returns", "raises"])
def test_all_can_be_shown_where_nothing_can_be_imported(make: MakeExecutor, make_pool: MakePool, fn: Any) -> None:
    ex, pool = make(1), make_pool("shown")
    future = ex.submit(fn, ValueError("no"))
    wait([future, pool.submit(payloads.echo, 1)], SOON)
    stats = pool.stats()
    with no_imports():
        assert state_of(future) in ("finished returned object", "finished raised Exception")
        assert repr(ex).startswith("<DragonflyExecutor ")
        assert repr(pool).startswith("<Pool 'shown'")
        assert "runners_up=1" in repr(stats)
        future.exception()
        assert state_of(future) in ("finished returned ValueError", "finished raised ValueError")
    assert "1 done" in repr(ex)


class Nameless(type):
    @property
    def __name__(cls) -> str:
        raise LookupError("no name")


class Unnamed(metaclass=Nameless):
    pass


def test_a_type_that_cannot_say_its_name_can_be_shown(make: MakeExecutor) -> None:
    future = make(1).submit(lambda: Unnamed())
    future.result(SOON)
    assert state_of(future) == "unknown"


def test_what_was_refused_before_it_was_made_can_be_shown() -> None:
    """Tools that log tracebacks show the local variables of each frame, `self` of an `__init__` included."""
    for cls, options in ((Pool, {"name": "x", "min": -1, "max": 1}), (DragonflyExecutor, {"max_workers": -1})):
        with pytest.raises(ValueError) as caught:
            cls(**options)
        for frame, _ in traceback.walk_tb(caught.value.__traceback__):
            assert all(repr(value) for value in frame.f_locals.values())
    future: Any = Future.__new__(Future)
    assert repr(future).startswith("<Future at ")
