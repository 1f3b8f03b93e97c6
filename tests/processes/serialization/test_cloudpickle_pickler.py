"""What cannot be imported travels by value, in another process."""

from __future__ import annotations

import abc
import dataclasses
import enum
import functools
import os
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dragonfly_executor.errors import CallSerializationError, ResultSerializationError
from dragonfly_executor.serialization import CallCodec
from tests.support import importable
from tests.support.codec_pair import CodecPair
from tests.support.codec_process import CodecProcess

FACTOR = 3


@pytest.fixture(scope="module", params=["cloudpickle", "dill"])
def far(request: pytest.FixtureRequest) -> Iterator[CodecProcess]:
    if request.param == "dill":
        pytest.importorskip("dill", reason="dill is an extra")
    with CodecProcess(request.param) as far:
        yield far


def test_lambda_and_closure(far: CodecProcess) -> None:
    base = 10
    assert far(lambda x: x + base, 1) == 11
    assert far(lambda: os.getpid()) != os.getpid()
    assert far(lambda x, *, y=base: x + y + FACTOR, 1) == 14


def test_recursive_closure(far: CodecProcess) -> None:
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    assert far(factorial, 5) == 120
    back = far(lambda: factorial)
    assert back(4) == 24


def test_closures_share_their_variables(far: CodecProcess) -> None:
    count = 0

    def increase() -> None:
        nonlocal count
        count += 1

    def read() -> int:
        return count

    def both() -> int:
        increase()
        increase()
        return read()

    assert far(both) == 2
    assert far(lambda pair: (pair[0](), pair[1]()), (increase, read)) == (None, 1)
    assert count == 0


def test_empty_cell(far: CodecProcess) -> None:
    def early() -> Any:
        return late

    assert isinstance(far.error(early), NameError)
    late = 1
    assert far(early) == late


def test_functions_use_the_globals_of_a_module_that_can_be_imported(far: CodecProcess) -> None:
    reader = importable.reader()
    assert far(reader) == ("the module's", True)  # and the lock beside it did not have to travel
    far(importable.set_state, "the slot's")
    assert far(reader) == ("the slot's", True)
    assert importable.state == "the module's"


def test_decorated_and_wrapped(far: CodecProcess) -> None:
    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return "wrapped", function(*args)

        return wrapper

    @decorate
    def local(x: int) -> int:
        """Its text."""
        return x + FACTOR

    local.mark = "kept"
    assert far(local, 1) == ("wrapped", 4)
    there = far(lambda: local)
    assert (there.mark, there.__doc__, there.__qualname__) == ("kept", "Its text.", local.__qualname__)
    assert far(functools.partial(local, 2)) == ("wrapped", 5)

    @functools.lru_cache(maxsize=7)
    def cached(x: int) -> int:
        return x * FACTOR

    assert far(cached, 2) == 6
    assert far(lambda: cached.cache_info().maxsize) == 7

    @functools.singledispatch
    def dispatched(x: object) -> str:
        return "any"

    dispatched.register(int, lambda x: "int")
    assert far(lambda: (dispatched(1), dispatched(""))) == ("int", "any")


def test_local_classes_come_back_as_themselves(far: CodecProcess) -> None:
    class Base:
        def name(self) -> str:
            return type(self).__name__

    class Local(Base):
        count = 0

        def __init__(self, x: int) -> None:
            super().__init__()
            self.x = x

        @functools.cached_property
        def double(self) -> int:
            return self.x * 2

    method = Local.name
    there = far(lambda: Local(3))
    assert type(there) is Local
    assert (there.x, there.double, there.name()) == (3, 6, "Local")
    assert Local.name is method
    assert type(far(Local, 4)) is Local
    assert far(lambda thing: isinstance(thing, Base), Local(1))
    assert far(lambda: Local.__qualname__) == Local.__qualname__


def test_what_a_slot_does_to_a_class_stays_there(far: CodecProcess) -> None:
    class Local:
        count = 0

    def change() -> Any:
        Local.count += 1
        return Local()

    there = far(change)
    assert type(there) is Local
    assert Local.count == 0


def test_what_the_parent_changes_in_a_class_goes_along(far: CodecProcess) -> None:
    class Local:
        level = 1

    assert far(lambda: Local.level) == 1
    Local.level = 2
    assert far(lambda: Local.level) == 2


def test_kinds_of_local_classes(far: CodecProcess) -> None:
    @dataclasses.dataclass
    class Data:
        x: int
        items: list[int] = dataclasses.field(default_factory=list)

    class Slots:
        __slots__ = ("__private", "a")

        def __init__(self) -> None:
            self.a, self.__private = 1, 2

        def total(self) -> int:
            return self.a + self.__private

    class Color(enum.Enum):
        RED = 1

        def nice(self) -> str:
            return self.name.lower()

    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self) -> int: ...

    class Square(Shape):
        def area(self) -> int:
            return 4

    assert far(Data, 1) == Data(1)
    assert far(lambda: Slots().total()) == 3
    assert far(Slots).total() == 3
    assert far(lambda: not hasattr(Slots(), "__dict__"))
    assert far(Color.RED.nice) == "red"
    assert far(lambda: Color.RED) is Color.RED
    assert far(lambda: Square().area()) == 4
    assert isinstance(far(Square), Shape)
    assert isinstance(far.error(Shape), TypeError)


def test_class_made_in_the_slot(far: CodecProcess) -> None:
    def make() -> Any:
        class There:
            def value(self) -> int:
                return FACTOR

        return There()

    one, other = far(make), far(make)
    assert one.value() == other.value() == 3
    assert type(one).__name__ == "There"


def test_local_exception(far: CodecProcess) -> None:
    class Problem(Exception):
        def __init__(self, code: int) -> None:
            super().__init__(code)
            self.code = code

    def fail() -> None:
        raise Problem(5)

    error = far.error(fail)
    assert type(error) is Problem
    assert error.code == 5
    assert far.retryable((Problem,), fail)
    assert not far.retryable((KeyError,), fail)


def test_modules_and_their_parts(far: CodecProcess) -> None:
    import xml.etree.ElementTree as Tree
    import xml.sax

    assert far(lambda: Tree.fromstring("<a/>").tag) == "a"
    assert far(lambda: xml.sax.handler.version) == xml.sax.handler.version
    assert far(importable.same, os) is os
    assert far(lambda things: things[0].path is things[1], (os, os.path))


def test_odd_things(far: CodecProcess) -> None:
    assert far(importable.same, type(None)) is type(None)
    for view in (memoryview(b"abc"), memoryview(bytearray(9000)).cast("d"), memoryview(bytes(6)).cast("B", (2, 3))):
        there = far(importable.same, view)
        assert there == view
        assert (there.format, there.shape, there.readonly) == (view.format, view.shape, view.readonly)
    assert far(importable.same, memoryview(b"abcd")[::2]) == b"ac"
    assert list(far(importable.same, {1: 2}.values())) == [2]
    weak = weakref.WeakValueDictionary()
    assert len(far(importable.same, weak)) == 0
    assert far(property, lambda self: 5).fget(None) == 5


def test_the_hot_path_after_a_cold_one(far: CodecProcess) -> None:
    assert far(lambda x: x, 1) == far(importable.same, 1)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("a pool cannot be sent into a call")


class Exits:
    def __reduce__(self) -> Any:
        raise SystemExit(3)


class ExitsInState:
    def __getstate__(self) -> Any:
        raise SystemExit(3)


class Interrupts:
    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


@pytest.mark.parametrize("thing", [Unpicklable(), Exits(), ExitsInState(), threading.Lock(), (n for n in [1])])
def test_what_cannot_be_pickled_is_said_at_once(thing: Any) -> None:
    with pytest.raises(CallSerializationError) as caught:
        CallCodec().encode_call(importable.same, (thing,), {})
    assert caught.value.__cause__ is not None
    assert type(caught.value.__cause__).__name__ in str(caught.value)


def test_the_text_of_a_refusal_reaches_the_user() -> None:
    pool = Unpicklable()
    with pytest.raises(CallSerializationError, match="a pool cannot be sent into a call"):
        CallCodec().encode_call(lambda: pool, (), {})
    with pytest.raises(CallSerializationError, match="a pool cannot be sent into a call"):
        CallCodec().encode_call(importable.same, ([pool],), {})


def test_interrupts_pass_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        CallCodec().encode_call(importable.same, (Interrupts(),), {})


def test_too_deep() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CallSerializationError):
        CallCodec().encode_call(importable.same, (deep,), {})
    near = CodecPair()
    with pytest.raises(ResultSerializationError):
        near.slot.encode_result(deep)
    assert near(importable.add, 1) == 2
    while deep:  # taken apart by hand: a deep list is freed by recursion otherwise
        deep = deep.pop()


def test_threads_do_not_meet() -> None:
    near, results = CodecPair(), []

    def submit(number: int) -> None:
        for step in range(30):
            value = number * 1000 + step
            results.append(near(lambda value=value: value) == value and near(importable.add, value) == value + 1)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(submit, range(4)))
    assert results == [True] * 120
