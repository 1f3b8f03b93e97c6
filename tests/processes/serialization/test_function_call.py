"""The short form of lambdas and closures: the same function arrives, and nothing of one call is left for the next."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_executor.errors import CallSerializationError
from dragonfly_executor.serialization import CallCodec, rebuild
from dragonfly_executor.serialization.layout import BOX, BY_CODE, unpack
from dragonfly_executor.serialization.map_chunk import run_chunk
from tests.support import importable
from tests.support.codec_pair import CodecPair
from tests.support.codec_process import CodecProcess

FACTOR = 3


def is_short(payload: Any) -> bool:
    data = b"".join(payload)
    return data[0] == BOX and bool(unpack(data)[0] & BY_CODE)


def opened(fn: Any, *args: Any, pair: CodecPair | None = None) -> tuple[Any, Any]:
    """The function and the arguments as a slot opens them, from the short form."""
    pair = pair or CodecPair()
    payload = pair.encode(fn, *args)
    assert is_short([payload])
    there, arguments, _, _ = pair.slot.decode_call(payload)
    return there, arguments


def made(value: Any, mark: Any = None) -> Any:
    def inner(x: int = 1, *rest: Any, y: int = 2, **more: Any) -> Any:
        """Its text."""
        return value, x, y, FACTOR

    return inner


def plain() -> Any:
    return lambda x: x + FACTOR


def with_attributes() -> Any:
    function = made([1])
    function.mark = {"a": [1]}
    return function


def renamed() -> Any:
    function = made(1)
    function.__name__, function.__qualname__, function.__doc__ = "other", "Other.<locals>.other", "another text"
    function.__module__ = "elsewhere"
    return function


def with_defaults() -> Any:
    function = made(1)
    function.__defaults__, function.__kwdefaults__ = ([5],), {"y": [6]}
    return function


ATTRIBUTES = ("__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__", "__annotations__")


@pytest.mark.parametrize("make", [plain, lambda: made((1, "a")), with_attributes, renamed, with_defaults])
def test_the_function_arrives_as_it_is(make: Callable[[], Any]) -> None:
    here = make()
    there, _ = opened(here, 1)
    assert there is not here
    for name in (*ATTRIBUTES, "__dict__", "__code__"):
        assert getattr(there, name) == getattr(here, name), name
    assert there.__globals__ is here.__globals__
    assert [cell.cell_contents for cell in there.__closure__ or ()] == [
        cell.cell_contents for cell in here.__closure__ or ()
    ]
    assert there(4) == here(4)


def test_code_keeps_its_file_and_its_lines() -> None:
    def fail() -> None:
        raise ValueError("here")

    code = opened(fail)[0].__code__
    assert (code.co_filename, code.co_firstlineno) == (__file__, fail.__code__.co_firstlineno)
    assert list(code.co_lines()) == list(fail.__code__.co_lines())
    with CodecProcess() as far:
        text = "".join(traceback.format_exception(far.error(fail)))
    assert f'File "{__file__}", line {fail.__code__.co_firstlineno + 1}, in fail' in text
    assert 'raise ValueError("here")' in text


def test_what_a_call_does_to_its_function_is_gone_with_the_call() -> None:
    caught: list[int] = []
    count = 0

    def work(x: Any, items: list[Any] = [], *, more: Any = {}) -> Any:  # noqa: B006
        nonlocal count
        count += 1
        caught.append(x)
        items.append(x)
        more[x] = x
        return len(caught), count, len(items), len(more)

    with CodecProcess() as far:
        for number in range(4):
            assert is_short(far.codec.encode_call(work, (number,), {}))
            assert far(work, number) == (1, 1, 1, 1)
        caught.append(7)  # and what the parent changes reaches the next call
        count = 5
        assert far(work, 1) == (2, 6, 1, 1)


def test_attributes_that_a_call_sets_on_its_function_are_gone() -> None:
    function = with_attributes()
    pair = CodecPair()
    first, _ = opened(function, pair=pair)
    first.mark["a"].append(2)
    first.added = 1
    second, _ = opened(function, pair=pair)
    assert second.__dict__ == {"mark": {"a": [1]}}


def test_code_that_a_slot_has_is_not_opened_again() -> None:
    pair = CodecPair()
    one, _ = opened(made(1), pair=pair)
    other, _ = opened(made(2), pair=pair)
    assert one.__code__ is other.__code__
    assert (one()[0], other()[0]) == (1, 2)


def test_large_code_is_opened_each_time_and_not_kept() -> None:
    text = "x" * 100_000
    function = eval(f"lambda: {text!r}", importable.__dict__)
    pair = CodecPair()
    kept = rebuild._small_code.cache_info().currsize
    assert opened(function, pair=pair)[0]() == opened(function, pair=pair)[0]() == text
    assert rebuild._small_code.cache_info().currsize == kept
    assert len(pair.codec._format.codes) == 0


def test_an_object_that_is_captured_and_passed_is_one_object() -> None:
    shared = [1]
    there, (argument,) = opened(lambda x: x is shared, shared)
    assert there(argument)


def recursive() -> Any:
    def function(n: int) -> int:
        return 1 if n < 2 else n * function(n - 1)

    return function


def captured_function() -> Any:
    inner = made(1)
    return lambda x: inner(x)[1]


def captured_module() -> Any:
    import json as held

    return lambda x: held.loads(str(x))


def captured_class() -> Any:
    class Local:
        level = 5

    return lambda x: x * Local.level


def with_empty_cell() -> Any:
    def function(x: int) -> int:
        return x or late

    if not FACTOR:
        late = 0
    return function


def captured_by_hand() -> Any:
    return eval("lambda x: x * value", {"value": 2, "__name__": "made_by_hand"})


def refers_to_itself() -> Any:
    function = made(1)
    function.itself = function
    return lambda x: function.itself is function and x


@pytest.mark.parametrize(
    "make",
    [
        recursive,
        captured_function,
        captured_module,
        captured_class,
        with_empty_cell,
        captured_by_hand,
        refers_to_itself,
    ],
)
def test_what_the_short_form_cannot_hold_travels_in_the_long_one(make: Callable[[], Any]) -> None:
    function = make()
    with CodecProcess() as far:
        assert not is_short(far.codec.encode_call(function, (3,), {}))
        assert far(function, 3) == function(3)


def test_arguments_may_need_the_long_form() -> None:
    function = plain()

    class Local:
        def __add__(self, other: int) -> int:
            return 10 + other

    assert not is_short(CallCodec().encode_call(function, (Local(),), {}))
    with CodecProcess() as far:
        assert far(function, Local()) == 13


def test_a_chunk_of_a_map_has_the_short_form() -> None:
    base = 2
    payload = CallCodec().encode_call(run_chunk, (lambda x: x * base, ([1, 2],), 5), {})
    assert is_short(payload)
    with CodecProcess() as far:
        assert far(run_chunk, lambda x: x * base, ([1, 2],), 5) == [2, 4]
        error = far.error(run_chunk, lambda x: base // x, ([1, 0],), 5)
    assert error.__notes__ == ["raised for item 6 of the map (the first is item 0): 0"]


def with_constant(value: Any) -> Any:
    def function() -> Any:
        return "replaced"

    constants = tuple(value if constant == "replaced" else constant for constant in function.__code__.co_consts)
    function.__code__ = function.__code__.replace(co_consts=constants)
    return function


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value", [bytearray(b"a"), [1], {"a": 1}, Text("a"), importable.Thing(2), (1, (bytearray(b"a"),))]
)
def test_constants_that_no_compiler_makes_keep_their_types(value: Any) -> None:
    """marshal would refuse them, or write them as bytes."""
    function = with_constant(value)
    with CodecProcess() as far:
        assert not is_short(far.codec.encode_call(function, (), {}))
        there = far(function)
        assert type(there) is type(value)
        assert there == value


@pytest.mark.parametrize("value", [None, 1, 1.5, 2j, "a", b"a", ..., (1, (2, None)), frozenset({1, (2,)})])
def test_constants_of_compilers_keep_their_types(value: Any) -> None:
    function = with_constant(value)
    there, _ = opened(function)
    assert there() == value
    assert type(there()) is type(value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner) | st.sets(st.integers())
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(captured=VALUES, default=VALUES, argument=VALUES, keyword=VALUES)
def test_any_value_is_captured_and_passed(captured: Any, default: Any, argument: Any, keyword: Any) -> None:
    def function(x: Any, y: Any = default, *, z: Any) -> Any:
        return captured, x, y, z

    pair = CodecPair()
    assert pair(function, argument, z=keyword) == (captured, argument, default, keyword)
    assert pair(lambda: captured) == captured


def test_equal_code_of_two_files_is_two_codes() -> None:
    one, other = (
        FunctionType(compile("lambda: 1", name, "eval").co_consts[0], importable.__dict__) for name in ("a.py", "b.py")
    )
    assert one.__code__ == other.__code__
    pair = CodecPair()
    assert [opened(function, pair=pair)[0].__code__.co_filename for function in (one, other)] == ["a.py", "b.py"]


def test_code_that_is_replaced_travels_anew() -> None:
    function = plain()
    pair = CodecPair()
    assert opened(function, 1, pair=pair)[0](1) == 4
    function.__code__ = (lambda x: x - FACTOR).__code__
    assert opened(function, 1, pair=pair)[0](1) == -2


@pytest.mark.parametrize("serializer", ["dill", json])
def test_other_serializers_have_no_short_form(serializer: Any) -> None:
    if serializer == "dill":
        pytest.importorskip("dill", reason="dill is an extra")
        payload = CallCodec(serializer).encode_call(plain(), (1,), {})
        assert not is_short(payload)
        return
    with pytest.raises(CallSerializationError):
        CallCodec(serializer).encode_call(plain(), (1,), {})


def test_plain_pickle_refuses_a_lambda_as_before() -> None:
    with pytest.raises(CallSerializationError, match="serializer='pickle' sends by reference only"):
        CallCodec("pickle").encode_call(plain(), (1,), {})


def test_a_part_that_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()
    with pytest.raises(CallSerializationError, match=r"variable 'lock' of the function .*<lambda>"):
        CallCodec().encode_call(lambda: lock, (), {})
    with pytest.raises(CallSerializationError, match=r"argument 1 of .*<lambda>\(\)"):
        CallCodec().encode_call(plain(), (lock,), {})


def test_code_of_the_short_form_is_reported() -> None:
    """The files that it imports have to reach runners elsewhere."""
    seen: list[Any] = []
    codec = CallCodec(on_code=seen.extend)
    function = plain()
    assert is_short(codec.encode_call(function, (1,), {}))
    assert seen == [(function.__code__, importable.__package__.rpartition(".")[0] + ".processes.serialization")]


def test_a_class_of_a_module_that_no_runner_finds_needs_the_long_form() -> None:
    hidden = ModuleType("hidden_by_hand")
    exec("class Hidden:\n    level = 4", hidden.__dict__)
    sys.modules["hidden_by_hand"] = hidden
    try:
        value = hidden.Hidden()
        with CodecProcess() as far:
            assert not is_short(far.codec.encode_call(lambda: value.level, (), {}))
            assert far(lambda: value.level) == 4
    finally:
        del sys.modules["hidden_by_hand"]


def test_threads_do_not_meet() -> None:
    pair, results = CodecPair(), []

    def submit(number: int) -> None:
        for step in range(200):
            value = number * 1000 + step
            there, _ = opened(lambda: value, pair=pair)  # noqa: B023
            results.append(there() == value)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(submit, range(4)))
    assert results == [True] * 800


PROGRAM = """
import sys
from dragonfly_executor import DragonflyExecutor
NUMBER = 2
def scaled(x): return x * NUMBER
with DragonflyExecutor(max_workers=1) as executor:
    base = 1
    def closure(base):
        return lambda x: scaled(x) + base
    assert executor.submit(closure(1), 3).result() == 7
    NUMBER = 3
    assert executor.submit(closure(1), 3).result() == 10
    assert list(executor.map(lambda x: scaled(x) + NUMBER, range(3))) == [3, 6, 9]
    loaded = executor.submit(lambda: sorted({"cloudpickle", "dis"} & sys.modules.keys())).result()
    print(loaded, sorted({"cloudpickle", "dis"} & sys.modules.keys()))
"""


def test_a_lambda_needs_no_cloudpickle_on_either_side() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("[] []\n", "")


def test_names_are_found_as_the_standard_library_finds_them() -> None:
    from dis import get_instructions

    from dragonfly_executor.serialization.code_names import code_names

    operations = {"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}

    def expected(code: CodeType) -> set[str]:
        names = {step.argval for step in get_instructions(code) if step.opname in operations}
        return names.union(*(expected(inner) for inner in code.co_consts if isinstance(inner, CodeType)))

    many = "\n".join(f"    global n{number}; n{number} = m{number}.a{number}(k{number})" for number in range(700))
    codes = [compile(f"def f():\n{many}", "many.py", "exec")]
    for module in (subprocess, textwrap, traceback, threading, functools, json.decoder):
        with open(module.__file__, encoding="utf-8") as file:
            codes.append(compile(file.read(), module.__file__, "exec"))
    for code in codes:
        assert code_names(code)[0] == expected(code)
    assert len(code_names(codes[0])[0]) > 2000
