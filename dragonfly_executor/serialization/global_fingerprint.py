"""Fingerprints of globals: tell whether a global has changed without pickling it again."""

from __future__ import annotations

import functools
import sys
from operator import attrgetter, is_
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
    from collections.abc import Callable, Collection, Iterable, Mapping
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
_MOST_ITEMS = 256
"""Items of the largest list, dict or set that is checked item by item. Pickling a larger one again takes as long."""
_FUNCTION = attrgetter(
    "__code__", "__name__", "__qualname__", "__doc__", "__module__", "__defaults__", "__kwdefaults__", "__closure__",
    "__annotations__", "__dict__",
)  # fmt: skip
_TYPE_PARAMETERS = attrgetter("__type_params__", "__code__")
# All that they are pickled from, but the parameters of a cache, which never change.
_WRAPPERS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    staticmethod: attrgetter("__func__", "__wrapped__"),
    classmethod: attrgetter("__func__", "__wrapped__"),
    property: attrgetter("fget", "fset", "fdel", "__doc__"),
    type(functools.lru_cache(len)): attrgetter("__wrapped__", "__module__"),
    functools.cached_property: attrgetter("func", "attrname"),
}
_CONTAINERS = frozenset({list, dict, set})
_CLASS = attrgetter("__name__", "__qualname__", "__bases__")


class Fingerprint:
    """The very objects that a constant, a function, a class or a small container consists of.

    To check them takes a few operations for each function and class: all loops over objects run in C.
    """

    __slots__ = ("_attributes", "_cells", "_items", "_values", "met")

    def __init__(self) -> None:
        self.met: set[int] = set()
        """The ids of the objects that are in it already: a method's own class, for example."""
        self._attributes: list[tuple[Any, Callable[[Any], tuple[Any, ...]], tuple[Any, ...]]] = []
        self._items: list[tuple[Collection[Any], tuple[Any, ...]]] = []
        self._values: list[tuple[Mapping[Any, Any], tuple[Any, ...]]] = []
        self._cells: list[tuple[Any, Any]] = []

    def holds(self) -> bool:
        """Return True if each object still consists of the same objects."""
        try:
            return (
                all(all(map(is_, get(found), parts)) for found, get, parts in self._attributes)
                and all(len(found) == len(parts) and all(map(is_, found, parts)) for found, parts in self._items)
                and all(all(map(is_, found.values(), parts)) for found, parts in self._values)
                and all(cell.cell_contents is content for cell, content in self._cells)
            )
        except (RuntimeError, ValueError):  # another thread changes it; a variable has lost its value
            return False

    def add(self, value: Any, depth: int) -> bool:
        """Add the objects that make up a value.

        Args:
            value: a global, or a part of a global.
            depth: how far the value lies below the global.

        Returns:
            False if the value may change in a way that cannot be checked.
        """
        kind = type(value)
        if kind in _CONSTANT:
            return True
        if depth > _DEEPEST:
            return False
        if kind is tuple:
            return self._all(value, depth)
        if kind in _WRAPPERS:
            get = _WRAPPERS[kind]
            self._attributes.append((value, get, get(value)))
            return self._all(get(value), depth)
        if kind in _CONTAINERS:
            return self._container(value, depth)
        if kind is not FunctionType and not isinstance(value, type):
            return False
        if id(value) in self.met:
            return True
        self.met.add(id(value))
        if value.__module__ not in MAIN_NAMES:
            # An object that travels by reference is not sent, so changes to it do not matter.
            return value.__module__ == "builtins" or by_reference(value)
        return self._function(value, depth) if isinstance(value, FunctionType) else self._class(value, depth)

    def _function(self, function: FunctionType, depth: int) -> bool:
        self._attributes.append((function, _FUNCTION, _FUNCTION(function)))
        if hasattr(function, "__type_params__"):
            self._attributes.append((function, _TYPE_PARAMETERS, _TYPE_PARAMETERS(function)))
        # User code does not change an annotation in place, but a deep check reports most of them as changeable.
        self._mapping(function.__annotations__)
        self._mapping(function.__dict__)
        if function.__kwdefaults__ is not None:
            self._mapping(function.__kwdefaults__)
        return (
            self._all(function.__defaults__ or (), depth)
            and self._all((function.__kwdefaults__ or {}).values(), depth)
            and self._all(function.__dict__.values(), depth)
            and all(self._cell(cell, depth) for cell in function.__closure__ or ())
        )

    def _cell(self, cell: Any, depth: int) -> bool:
        try:
            content = cell.cell_contents
        except ValueError:  # no value assigned yet
            return False
        self._cells.append((cell, content))
        return self.add(content, depth + 1)

    def _class(self, value: type, depth: int) -> bool:
        self._attributes.append((value, _CLASS, _CLASS(value)))
        own = vars(value)
        self._mapping(own)
        enum = sys.modules.get("enum")
        if enum is not None and isinstance(value, enum.EnumType):
            return True  # the enum machinery makes the members, and they do not change
        if not all(self._base(base, depth) for base in value.__bases__):
            return False
        return all(
            name in _CLASS_OWN
            # The closure of a generated method belongs to the generator, and user code does not change it.
            or _is_generated(name, part, own)
            or self.add(part, depth + 1)
            for name, part in own.items()
        )

    def _base(self, base: type, depth: int) -> bool:
        main = main_module().__dict__
        # A base class that has a name in the script is a definition of its own.
        return name_in(main, base) is not None or self.add(base, depth + 1)

    def _container(self, value: Any, depth: int) -> bool:
        if len(value) > _MOST_ITEMS:
            return False
        if id(value) in self.met:
            return True
        self.met.add(id(value))
        if type(value) is dict:
            self._mapping(value)
            return self._all((*value, *value.values()), depth)
        parts = tuple(value)
        self._items.append((value, parts))
        return self._all(parts, depth)

    def _mapping(self, value: Mapping[Any, Any]) -> None:
        self._items.append((value, tuple(value)))
        if value:
            self._values.append((value, tuple(value.values())))

    def _all(self, values: Iterable[Any], depth: int) -> bool:
        return all(self.add(value, depth + 1) for value in values)


def fingerprint(value: Any) -> Fingerprint | None:
    """Return the fingerprint of a value; None if the value may change in a way that cannot be checked."""
    found = Fingerprint()
    return found if found.add(value, 0) else None


def _is_generated(name: str, part: Any, own: Mapping[str, Any]) -> bool:
    """Return True if a library generated a part of a class when the class was made."""
    if "_field_defaults" in own:
        return name in _TUPLE_OWN or type(part) is _FIELD
    if "__dataclass_fields__" not in own:
        return False
    code = getattr(getattr(part, "__wrapped__", part), "__code__", None)
    return name.startswith("__") and name.endswith("__") and getattr(code, "co_filename", None) == "<string>"
