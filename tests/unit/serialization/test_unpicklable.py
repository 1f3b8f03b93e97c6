"""What cannot travel is named: which part of which argument, what it is, and what to do instead."""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import contextvars
import functools
import os
import queue
import re
import socket
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.errors import CallSerializationError, ResultSerializationError
from dragonfly_executor.serialization import CallCodec
from dragonfly_executor.serialization.map_chunk import run_chunk
from tests.support import importable
from tests.support.codec_pair import CodecPair


class Holder:
    def __init__(self, held: Any) -> None:
        self.number = 1
        self.held = held

    def run(self, x: Any = None) -> Any:
        return x


class LeavesItOut(Holder):
    def __getstate__(self) -> dict[str, Any]:
        return {"number": self.number}


class Refuses:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        raise ValueError("not today")


def refusal(fn: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(CallSerializationError) as caught:
        CallCodec().encode_call(fn, args, kwargs)
    assert caught.value.__cause__ is not None
    assert type(caught.value.__cause__).__name__ in str(caught.value)
    return str(caught.value)


FUTURE: concurrent.futures.Future[Any] = concurrent.futures.Future()


@pytest.mark.parametrize(
    ("args", "kwargs", "place"),
    [
        ((FUTURE,), {}, "argument 1 of same(), "),
        ((1, [2, FUTURE]), {}, "[1] of argument 2 of same(), "),
        ((), {"jobs": (FUTURE,)}, "[0] of argument 'jobs' of same(), "),
        (({"a": [{7: FUTURE}]},), {}, "['a'][0][7] of argument 1 of same(), "),
        (({Refuses: FUTURE},), {}, "[...] of argument 1 of same(), "),
        (({FUTURE},), {}, "an element of argument 1 of same(), "),
        ((deque([0, FUTURE]),), {}, "[1] of argument 1 of same(), "),
        ((Holder([FUTURE]),), {}, ".held[0] of argument 1 of same(), "),
        ((LeavesItOut(threading.Lock()), FUTURE), {}, "argument 2 of same(), "),
        ((functools.partial(importable.same, FUTURE),), {}, ".args[0] of argument 1 of same(), "),
        ((lambda: FUTURE,), {}, None),
        (([*range(10_000), FUTURE],), {}, "[10000] of argument 1 of same(), "),
    ],
)
def test_a_future_among_the_arguments_is_named(args: Any, kwargs: Any, place: str | None) -> None:
    if place is None:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        args, place = (lambda: future,), "variable 'future' of argument 1 of same(), "
    text = refusal(importable.same, *args, **kwargs)
    assert text.startswith(f"{place}of type concurrent.futures._base.Future, cannot be pickled: TypeError: ")
    assert ".result()" in text


def test_the_function_itself_may_hold_it() -> None:
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    assert refusal(lambda: future).startswith("variable 'future' of the function ")
    assert refusal(Holder(future).run).startswith(".__self__.held of the function Holder.run, ")
    assert refusal(functools.partial(importable.same, [future])).startswith(".args[0][0] of the function partial, ")


async def _a_coroutine() -> int:
    return 1


def _of_the_loop(get: Callable[[], Any]) -> Callable[[], Any]:
    async def inside() -> Any:
        return get()

    return lambda: asyncio.run(inside())


@pytest.mark.parametrize(
    ("make", "kind", "advice"),
    [
        (lambda: (n for n in [1]), "generator", "Pass list(...) of it"),
        (threading.Lock, "_thread.lock", "in the call"),
        (threading.RLock, "_thread.RLock", "in the call"),
        (threading.Event, "threading.Event", "in the call"),
        (threading.Condition, "threading.Condition", "multiprocessing.Manager()"),
        (_thread._local, "_thread._local", "in the call"),
        (threading.Thread, "threading.Thread", "in the call"),
        (queue.Queue, "queue.Queue", "multiprocessing.Manager()"),
        (queue.SimpleQueue, "_queue.SimpleQueue", "multiprocessing.Manager()"),
        (_of_the_loop(lambda: asyncio.get_running_loop().create_future()), "_asyncio.Future", "Await it here"),
        (_of_the_loop(asyncio.current_task), "_asyncio.Task", "Await it here"),
        (lambda: concurrent.futures.ThreadPoolExecutor(1), "concurrent.futures.thread.ThreadPoolExecutor", "submit"),
        (lambda: re.match("a", "a"), "re.Match", "Pass .group()"),
        (lambda: [*os.scandir("/")].pop(), "posix.DirEntry", "Pass its .path"),
        (lambda: weakref.ref(Holder), "weakref.ReferenceType", "Pass the object itself"),
        (
            contextvars.copy_context,
            "_contextvars.Context",
            "Make it in the call, or pass the values that it is made from",
        ),
    ],
)
def test_kinds_that_people_pass_come_with_advice(make: Callable[[], Any], kind: str, advice: str) -> None:
    text = refusal(importable.same, [make()])
    assert text.startswith(f"[0] of argument 1 of same(), of type {kind}, cannot be pickled: ")
    assert advice in text


def test_open_files_and_connections_come_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("w") as text_file, path.open("rb") as binary, socket.socket() as one:
        assert "Pass its path" in refusal(importable.same, text_file)
        assert "Pass its path" in refusal(importable.same, binary)
        assert "Pass the address" in refusal(importable.same, one)
    database = sqlite3.connect(path)
    assert "Pass the path, and connect in the call" in refusal(importable.same, database)
    database.close()


def test_a_coroutine_is_refused_and_left_to_its_owner() -> None:
    coroutine = _a_coroutine()
    assert "Await it here" in refusal(importable.same, coroutine)
    assert "Submit the function and its arguments" in refusal(coroutine)
    assert asyncio.run(coroutine) == 1


def test_a_function_of_no_module_names_its_global() -> None:
    namespace: dict[str, Any] = {}
    exec("import threading\nlock = threading.Lock()\ndef f():\n    return [lock for _ in '1']", namespace)
    assert refusal(namespace["f"]).startswith(
        "global 'lock' of the function f, of type _thread.lock, cannot be pickled"
    )


def test_an_object_that_refuses_is_not_looked_into() -> None:
    """Its own words count, not the lock that it holds."""
    text = refusal(importable.same, [Refuses()])
    assert text.startswith("[0] of argument 1 of same(), of type tests.unit.serialization.test_unpicklable.Refuses, ")
    assert text.endswith("ValueError: not today")


def test_the_argument_of_an_item_of_a_chunk_is_named() -> None:
    text = refusal(run_chunk, importable.add, ([1, 3], [2, [FUTURE]]), 20)
    assert text.startswith("[0] of argument 2 of item 21 of the map (the first is item 0), of type ")


def test_with_a_serializer_of_the_users_the_part_is_named_too() -> None:
    class OnlyText:
        def dumps(self, value: Any) -> bytes:
            if "lock" in repr(value):
                raise ValueError("a lock")
            return b""

        def loads(self, data: bytes) -> Any:
            return None

    with pytest.raises(CallSerializationError) as caught:
        CallCodec(OnlyText()).encode_call(importable.same, (1, [threading.Lock()]), {})
    assert str(caught.value).startswith(
        "[0] of argument 2 of same(), of type _thread.lock, cannot be pickled: ValueError"
    )


def test_by_reference_only_names_the_lambda() -> None:
    with pytest.raises(CallSerializationError, match=r"^\[0\] of argument 1 of same\(\), of type function, cannot be"):
        CallCodec("pickle").encode_call(importable.same, ([lambda: 1],), {})


# -- results -----------------------------------------------------------------------------------------------------------


def _numbers() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("make", "place", "advice"),
    [
        (lambda: _numbers(), "the result, of type generator", "Return list(...) of it"),
        (lambda: _a_coroutine(), "the result, of type coroutine", "asyncio.run()"),
        (lambda: [1, _a_coroutine()], "[1] of the result (a list), of type coroutine", "asyncio.run()"),
        (
            lambda: {"jobs": [FUTURE]},
            "['jobs'][0] of the result (a dict), of type concurrent.futures._base.Future",
            "Return its",
        ),
        (
            lambda: Holder(threading.Lock()),
            ".held of the result (a tests.unit.serialization.test_unpicklable.Holder), of type _thread.lock",
            "in one process only",
        ),
    ],
)
def test_a_result_that_cannot_travel_is_named(make: Callable[[], Any], place: str, advice: str) -> None:
    """A coroutine is closed, too: nobody complains later that it was never awaited."""
    with pytest.raises(ResultSerializationError) as caught:
        CodecPair().slot.encode_result(make())
    assert str(caught.value).startswith(f"{place}, cannot be pickled: ")
    assert advice in str(caught.value)


def test_the_result_of_an_item_of_a_chunk_is_named() -> None:
    error = CodecPair().error(run_chunk, lambda n: _numbers() if n == 3 else n, (range(5),), 20)
    assert isinstance(error, ResultSerializationError)
    assert str(error).startswith("the result of item 23 of the map (the first is item 0), of type generator, cannot")


# -- items that raise --------------------------------------------------------------------------------------------------


class KeepsNothing(Exception):
    """Pickles without what it does not name itself: its notes, say."""

    def __reduce__(self) -> Any:
        return KeepsNothing, ()


class NoRepr:
    def __repr__(self) -> str:
        raise ValueError("no repr")


def _raise(error: Any, *more: Any) -> None:
    raise error


def _raise_local(more: Any) -> None:
    class HereError(Exception):
        def __init__(self, one: Any, two: Any) -> None:
            raise SystemExit

    raise HereError.__new__(HereError)


def notes_of(fn: Any, *items: tuple[Any, ...]) -> list[str]:
    columns = tuple(zip(*items, strict=True))
    return getattr(CodecPair().error(run_chunk, fn, columns, 10), "__notes__", [])


def test_an_exception_tells_its_item() -> None:
    (note,) = notes_of(lambda n: 1 // n, (1,), (0,))
    assert note == "raised for item 11 of the map (the first is item 0): 0"
    (note,) = notes_of(lambda a, b: a // b, (1, 0))
    assert note == "raised for item 10 of the map (the first is item 0): (1, 0)"


def test_an_item_is_shown_short_and_whatever_its_repr_does() -> None:
    (note,) = notes_of(lambda text: 1 // 0, ("x" * 100_000,))
    assert "'xxxx" in note
    assert len(note) < 250
    assert "item 10" in notes_of(lambda thing: 1 // 0, (NoRepr(),))[0]


def test_the_note_comes_with_exceptions_that_pickle_without_it_and_with_stand_ins() -> None:
    assert "item 10" in notes_of(_raise, (KeepsNothing(), 1))[0]
    assert "item 10" in notes_of(_raise_local, (1,))[0]


def test_notes_of_the_calls_own_come_first() -> None:
    def noted(n: int) -> None:
        error = ValueError(n)
        error.add_note("its own")
        raise error

    own, note = notes_of(noted, (1,))
    assert own == "its own"
    assert "item 10" in note
