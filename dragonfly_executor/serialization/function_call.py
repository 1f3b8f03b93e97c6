"""Calls whose function travels by value, in the form that is quick to write and to open.

The body of such a payload is the function's code, as `marshal` writes it, and a plain pickle: of what a function has
besides, and of its arguments. The slot keeps the code that it has opened, and makes a new function of it for each call.
So what a call does to its function, its defaults or its captured variables is gone with the call.
"""

from __future__ import annotations

import sys
from importlib import import_module
from operator import attrgetter
from struct import Struct
from types import CellType, FunctionType

from dragonfly_executor.serialization import rebuild
from dragonfly_executor.serialization.function_pickler import home_of, slots_of
from dragonfly_executor.serialization.map_chunk import run_chunk, run_items
from dragonfly_executor.serialization.payload_parts import stand_in
from dragonfly_executor.serialization.small_values import ATOMS, are_small
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.serialization.code_table import WrittenCode
    from dragonfly_executor.serialization.formats import SerializerFormat
    from dragonfly_executor.serialization.main_pickler import MainView

_SIZE = Struct("<I")
"""The length of the code in bytes, ahead of it."""
_USUAL = attrgetter("__module__", "__kwdefaults__", "__doc__", "__qualname__")


def function_of(call: tuple[Any, ...]) -> Any:
    """Return the function of a call, or of a chunk of a map."""
    return call[1][0] if call[0] is run_chunk or call[0] is run_items else call[0]


def nested_function(call: tuple[Any, ...]) -> FunctionType | None:
    """Return the function of a call, or of a chunk of a map, if it is a lambda or stands inside a function."""
    fn: Any = call[0]
    if fn is run_chunk:
        fn = call[1][0]
    # Their names contain "<lambda>" or "<locals>".
    return fn if type(fn) is FunctionType and "<" in fn.__qualname__ else None


def home_in_call(function: FunctionType, main: MainView, importable: set[str | None]) -> tuple[str | None, bool]:
    """Return the module whose namespace a function uses, and whether slots have it. None is ``__main__``.

    Args:
        function: the function.
        main: the parent's ``__main__``.
        importable: the modules that slots are known to have. The function's module is added if slots have it.
    """
    namespace = function.__globals__
    if namespace is main.namespace:
        return None, True
    home = namespace.get("__name__")
    if type(home) is str and home in importable and sys.modules[home].__dict__ is namespace:
        return home, True
    home, known = home_of(function, main)
    if known:
        importable.add(home)
    return home, known


def function_body(
    written: WrittenCode,
    function: FunctionType,
    home: str | None,
    call: tuple[Any, ...],
    serializer: SerializerFormat,
    marks: tuple[bytes, ...],
) -> tuple[list[Any], list[memoryview]] | None:
    """Write the body of a call.

    Args:
        written: the function's code.
        function: the function.
        home: the module whose namespace it uses; None for ``__main__``.
        call: the call.
        serializer: pickles the parts.
        marks: bytes that must not occur in the pickle.

    Returns:
        The body and its buffers; None if this form is not enough: a part needs more than plain pickle, or refers to the
        function itself.
    """
    parts = None if written.data is None else _parts(function, home, call)
    if parts is None or written.data is None:
        return None
    head = _SIZE.pack(len(written.data)) + written.data
    if _is_atomic(parts):
        pickled = pickle.dumps(parts, 5)
        return None if any(mark in pickled for mark in marks) else ([head, pickled], [])
    plain = serializer.plain(parts, marks)
    return None if plain is None else ([head, *plain[0]], plain[1].views)


def _parts(function: FunctionType, home: str | None, call: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Return what the slot needs besides the code; None if the function captured a variable that has no value yet."""
    closure = function.__closure__
    contents: list[Any] | None = None
    if closure is not None:
        try:
            contents = [stand_in(cell.cell_contents) for cell in closure]
        except ValueError:
            return None
    slots, defaults = _slots(function, home), function.__defaults__
    if defaults is not None:
        defaults = tuple(map(stand_in, defaults))
    if call[0] is run_chunk:
        _, (_, *args), *rest = call
        return home, function.__name__, defaults, contents, slots, run_chunk, args, *rest
    return home, function.__name__, defaults, contents, slots, None, *call[1:]


def _slots(function: FunctionType, home: str | None) -> dict[str, Any] | None:
    """Return the attributes of a function that slots cannot tell from its code and its namespace; None for no such."""
    code = function.__code__
    if (
        _USUAL(function) == (home or "__main__", None, None, code.co_qualname)
        and not function.__annotations__
        and not function.__dict__
        and not getattr(function, "__type_params__", ())
    ):
        return None
    slots = slots_of(function)
    slots.pop("__defaults__", None)
    if function.__dict__:
        slots["__dict__"] = function.__dict__
    return slots


def _is_atomic(parts: tuple[Any, ...]) -> bool:
    """Return True if nothing in the parts needs more than `pickle.dumps`: this is so for most functions."""
    _, _, defaults, contents, slots, caller, args, *rest = parts
    return (
        slots is None
        and caller is None
        and len(rest) == 1
        and not rest[0]
        and (ATOMS.issuperset(map(type, args)) or are_small(args))
        and (contents is None or ATOMS.issuperset(map(type, contents)))
        and (defaults is None or ATOMS.issuperset(map(type, defaults)))
    )


def split(body: memoryview) -> tuple[bytes, memoryview]:
    """Split a body into the function's code and the pickle of the parts."""
    (size,) = _SIZE.unpack_from(body)
    end = _SIZE.size + size
    return bytes(body[_SIZE.size : end]), body[end:]


def made(data: bytes, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Make the function, and return the call of it."""
    home, name, defaults, contents, slots, caller, args, *rest = parts
    module = rebuild.main_module() if home is None else sys.modules.get(home) or import_module(home)
    cells = None if contents is None else tuple(map(CellType, contents))
    function = FunctionType(rebuild.code(data), module.__dict__, name, defaults, cells)
    function.__module__ = home or "__main__"  # not "__mp_main__"
    if slots is not None:
        for slot, value in slots.items():
            setattr(function, slot, value)
    if caller is not None:
        return caller, (function, *args), *rest
    return function, args, *rest
