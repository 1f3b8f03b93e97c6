"""Fingerprints of globals: tell whether a global has changed without pickling it again."""

from __future__ import annotations

import sys
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    NoneType,
    WrapperDescriptorType,
)

from dragonfly_executor.serialization.main_pickler import MAIN_NAMES, by_reference, name_in
from dragonfly_executor.serialization.rebuild import main_module
from dragonfly_executor.serialization.working_directory import WorkingDirectory
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

_CONSTANT = frozenset({
    bool, bytes, complex, float, int, str, NoneType, range, type(...), type(NotImplemented),
    BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType, MethodDescriptorType, WrapperDescriptorType,
})  # fmt: skip
# Attributes that a class gets once, when it is made. Some are dicts, but user code does not change them.
_CLASS_OWN = frozenset({
    "__abc_impl", "_abc_impl", "__annotations__", "__abstractmethods__", "__dataclass_fields__", "__dataclass_params__",
    "__match_args__", "__orig_bases__", "__parameters__", "__slotnames__", "__slots__", "__static_attributes__",
    "_field_defaults",
})  # fmt: skip
# Functions that are generated for each named tuple.
_TUPLE_OWN = frozenset({"__getnewargs__", "__new__", "__replace__", "__repr__", "_asdict", "_make", "_replace"})
_FIELD = type(WorkingDirectory.root)  # the type of a named tuple's field
_DEEPEST = 8


def fingerprint(value: Any) -> list[Any] | None:
    """Return the objects that make up a constant, a function or a class; None if the value may change in place.

    Two fingerprints are equal if they hold the very same objects (see `same`).
    """
    parts: list[Any] = []
    return parts if _collect(value, parts, set(), 0) else None


def same(one: list[Any] | None, other: list[Any] | None) -> bool:
    """Return True if two fingerprints were taken of the same unchanged value."""
    if one is None or other is None or len(one) != len(other):
        return False
    return all(a is b for a, b in zip(one, other, strict=True))


def _collect(value: Any, parts: list[Any], met: set[int], depth: int) -> bool:
    """Add the objects that make up a value to its fingerprint.

    Args:
        value: a global, or a part of a global.
        parts: the fingerprint so far.
        met: the ids of the functions and classes that are in it already: a method's own class, for example.
        depth: how far the value lies below the global.

    Returns:
        False if the value may change in place.
    """
    parts.append(value)
    kind = type(value)
    if kind in _CONSTANT:
        return True
    if depth > _DEEPEST:
        return False
    if kind is tuple:
        return _all(value, parts, met, depth)
    if kind is staticmethod or kind is classmethod:
        return _collect(value.__func__, parts, met, depth + 1)
    if kind is property:
        return _all((value.fget, value.fset, value.fdel, value.__doc__), parts, met, depth)
    if kind is not FunctionType and not isinstance(value, type):
        return False
    if id(value) in met:
        return True
    met.add(id(value))
    if value.__module__ not in MAIN_NAMES:
        # An object that travels by reference is not sent, so changes to it do not matter.
        return value.__module__ == "builtins" or by_reference(value)
    return _function(value, parts, met, depth) if isinstance(value, FunctionType) else _class(value, parts, met, depth)


def _function(function: FunctionType, parts: list[Any], met: set[int], depth: int) -> bool:
    parts += (function.__code__, function.__name__, function.__qualname__, function.__doc__, function.__module__)
    parts += getattr(function, "__type_params__", ())
    # User code does not change an annotation in place, but a deep check reports most of them as changeable.
    for annotation in function.__annotations__.items():
        parts += annotation
    return (
        _all(function.__defaults__ or (), parts, met, depth)
        and _named(function.__kwdefaults__ or {}, parts, met, depth)
        and _named(function.__dict__, parts, met, depth)
        and all(_cell(cell, parts, met, depth) for cell in function.__closure__ or ())
    )


def _cell(cell: Any, parts: list[Any], met: set[int], depth: int) -> bool:
    try:
        return _collect(cell.cell_contents, parts, met, depth + 1)
    except ValueError:  # no value assigned yet
        return False


def _class(value: type, parts: list[Any], met: set[int], depth: int) -> bool:
    parts += (value.__name__, value.__qualname__, *value.__bases__)
    own = vars(value)
    enum = sys.modules.get("enum")
    if enum is not None and isinstance(value, enum.EnumType):
        for item in own.items():  # the enum machinery makes the members, and they do not change
            parts += item
        return True
    if not all(_base(base, parts, met, depth) for base in value.__bases__):
        return False
    for name, part in own.items():
        parts.append(name)
        if _is_generated(name, part, own):
            parts.append(part)  # its closure belongs to the generator, and user code does not change it
        elif name not in _CLASS_OWN and not _collect(part, parts, met, depth + 1):
            return False
    return True


def _base(base: type, parts: list[Any], met: set[int], depth: int) -> bool:
    main = main_module().__dict__
    # A base class that has a name in the script is a definition of its own.
    return name_in(main, base) is not None or _collect(base, parts, met, depth + 1)


def _is_generated(name: str, part: Any, own: Mapping[str, Any]) -> bool:
    """Return True if a library generated a part of a class when the class was made."""
    if "_field_defaults" in own:
        return name in _TUPLE_OWN or type(part) is _FIELD
    if "__dataclass_fields__" not in own:
        return False
    code = getattr(getattr(part, "__wrapped__", part), "__code__", None)
    return name.startswith("__") and name.endswith("__") and getattr(code, "co_filename", None) == "<string>"


def _named(values: dict[str, Any], parts: list[Any], met: set[int], depth: int) -> bool:
    parts += values
    return _all(values.values(), parts, met, depth)


def _all(values: Iterable[Any], parts: list[Any], met: set[int], depth: int) -> bool:
    return all(_collect(value, parts, met, depth + 1) for value in values)
