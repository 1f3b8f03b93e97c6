"""Whether a global is still what it was, without pickling it again."""

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

from dragonfly_executor.payload.tracking import MAIN_NAMES

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Any

_CONSTANT = frozenset({
    bool, bytes, complex, float, int, str, NoneType, range, type(...), type(NotImplemented),
    BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType, MethodDescriptorType, WrapperDescriptorType,
})  # fmt: skip
# In a class: written once when the class is made. Some are dicts, which nobody changes afterwards.
_CLASS_OWN = frozenset({
    "__abc_impl", "_abc_impl", "__annotations__", "__abstractmethods__", "__dataclass_fields__", "__dataclass_params__",
    "__match_args__", "__orig_bases__", "__parameters__", "__slotnames__", "__slots__", "__static_attributes__",
    "_field_defaults",
})  # fmt: skip
_DEEPEST = 8


def fingerprint(value: Any) -> list[Any] | None:
    """The objects that make up a constant, a function or a class; None for what may change in itself.

    Two fingerprints are the same where they hold the very same objects (`same`).
    """
    parts: list[Any] = []
    return parts if _collect(value, parts, 0) else None


def same(one: list[Any] | None, other: list[Any] | None) -> bool:
    """Whether two fingerprints were taken of one unchanged thing."""
    if one is None or other is None or len(one) != len(other):
        return False
    return all(a is b for a, b in zip(one, other, strict=True))


def _collect(value: Any, parts: list[Any], depth: int) -> bool:
    parts.append(value)
    kind = type(value)
    if kind in _CONSTANT:
        return True
    if depth > _DEEPEST:
        return False
    if depth and any(value is known for known in parts[:-1]):
        return True  # a method's own class
    if kind is FunctionType:
        return _function(value, parts, depth)
    if kind is tuple:
        return _all(value, parts, depth)
    if kind is staticmethod or kind is classmethod:
        return _collect(value.__func__, parts, depth + 1)
    if kind is property:
        return _all((value.fget, value.fset, value.fdel), parts, depth)
    if isinstance(value, type):
        return _class(value, parts, depth)
    return False


def _function(function: FunctionType, parts: list[Any], depth: int) -> bool:
    parts.append(function.__code__)
    if function.__module__ not in MAIN_NAMES:
        return not function.__closure__ and not function.__dict__
    return (
        _all(function.__defaults__ or (), parts, depth)
        and _all((function.__kwdefaults__ or {}).values(), parts, depth)
        and _all(function.__dict__.values(), parts, depth)
        and all(_cell(cell, parts, depth) for cell in function.__closure__ or ())
    )


def _cell(cell: Any, parts: list[Any], depth: int) -> bool:
    try:
        return _collect(cell.cell_contents, parts, depth + 1)
    except ValueError:  # nothing assigned yet
        return False


def _class(value: type, parts: list[Any], depth: int) -> bool:
    if value.__module__ not in MAIN_NAMES:
        return True  # travels by reference, or is a base that never changes
    enum = sys.modules.get("enum")
    if enum is not None and isinstance(value, enum.EnumType):
        return True
    generated = "__dataclass_fields__" in vars(value)
    for name, part in vars(value).items():
        if generated and _is_generated(name, part):
            parts.append(part)  # its closure holds what a dataclass needs, not what a user changes
        elif name not in _CLASS_OWN and not _collect(part, parts, depth + 1):
            return False
    return True


def _is_generated(name: str, part: Any) -> bool:
    code = getattr(getattr(part, "__wrapped__", part), "__code__", None)
    return name.startswith("__") and name.endswith("__") and getattr(code, "co_filename", None) == "<string>"


def _all(values: Any, parts: list[Any], depth: int) -> bool:
    return all(_collect(value, parts, depth + 1) for value in values)
