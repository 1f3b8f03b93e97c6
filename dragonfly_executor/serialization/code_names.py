"""Finds the names and imports that a function's code uses."""

from __future__ import annotations

import builtins
import sys
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet
    from typing import Any

# The body of a class inside a function uses LOAD_NAME (LOAD_FROM_DICT_OR_GLOBALS since Python 3.12).
_GLOBAL_OPS = ("STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")

_IMPORTERS = frozenset({"import_module", "__import__"})


def all_names(code: CodeType) -> set[str]:
    """Return every name in a code object and in its nested code objects: globals, attributes, imports.

    This is cheap, but an overestimate: attribute names are included.
    """
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= all_names(constant)
    return names


def code_names(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Return the globals that a code object reads, assigns or deletes, and every name in it.

    Nested code objects are included in both sets.
    """
    names = _globals_of(code) if code.co_names else set()
    everything = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner, inner_everything = code_names(constant)
            names |= inner
            everything |= inner_everything
    return frozenset(names), frozenset(everything)


def _globals_of(code: CodeType) -> set[str]:
    """Return the globals that the instructions of a code object name.

    The module ``dis`` takes 10 ms to import, and 50 times as long for each instruction.
    """
    load_global, extended_arg, others = _operations()
    names = set()
    raw, extended = code.co_code, 0
    for place in range(0, len(raw), 2):  # inline caches are zeros here
        operation, argument = raw[place], raw[place + 1] | extended
        extended = argument << 8 if operation == extended_arg else 0
        if operation == load_global:
            names.add(code.co_names[argument >> 1])
        elif operation in others:
            names.add(code.co_names[argument])
    return names


@lru_cache(maxsize=1)
def _operations() -> tuple[int, int, frozenset[int]]:
    """Return the numbers of LOAD_GLOBAL, of EXTENDED_ARG, and of the other instructions that name a global."""
    from opcode import opmap

    others = frozenset(opmap[name] for name in _GLOBAL_OPS if name in opmap)
    return opmap["LOAD_GLOBAL"], opmap["EXTENDED_ARG"], others


@lru_cache(maxsize=1024)
def code_imports(code: CodeType) -> frozenset[str]:
    """Return the modules that a code object and its nested code objects may import when they run.

    Relative names keep their leading dots. A name imported by a ``from`` statement may be a submodule, so it is
    included.
    """
    from dis import get_instructions

    found: set[str] = set()
    steps = [step for step in get_instructions(code) if step.opname != "EXTENDED_ARG"]
    for position, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            level, names = (constant.argval for constant in steps[position - 2 : position])
            base = "." * level + step.argval
            found.add(base)
            dot = "" if base.endswith(".") else "."
            found.update(f"{base}{dot}{name}" for name in names or () if name != "*")
    if not _IMPORTERS.isdisjoint(code.co_names):
        texts = (constant for constant in code.co_consts if isinstance(constant, str))
        found.update(text for text in texts if all(part.isidentifier() for part in text.lstrip(".").split(".")))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= code_imports(constant)
    return frozenset(found)


def submodules(module: ModuleType, names: Iterable[str]) -> tuple[str, ...]:
    """Return the imported submodules of a module that code using these names may reach as attributes."""
    prefix = module.__name__ + "."
    wanted = set(names)
    reached = (name for name in list(sys.modules) if name.startswith(prefix))
    return tuple(sorted(name for name in reached if wanted.issuperset(name[len(prefix) :].split("."))))


def names_used(value: Any, namespace: dict[str, Any], bound: frozenset[str]) -> set[str]:
    """Return the globals used by the code of a function or class that the slot imports."""
    names: set[str] = set()
    for code in _codes(value, namespace, set()):
        names |= _precise(code, bound)
    return names


def _precise(code: CodeType, bound: frozenset[str]) -> AbstractSet[str]:
    every = all_names(code)
    if every <= bound or not every - bound - vars(builtins).keys():
        return every & bound
    return code_names(code)[0]


def _codes(value: Any, namespace: dict[str, Any], seen: set[int]) -> Iterable[CodeType]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, property):
        for part in (value.fget, value.fset, value.fdel):
            yield from _codes(part, namespace, seen)
    elif isinstance(value, FunctionType):
        if value.__globals__ is namespace:
            yield value.__code__
        for cell in value.__closure__ or ():
            yield from _codes(_content(cell), namespace, seen)
    elif isinstance(value, type):
        for part in list(vars(value).values()):
            yield from _codes(part, namespace, seen)
    else:  # static methods and class methods have __wrapped__, too
        yield from _codes(getattr(value, "__wrapped__", None), namespace, seen) if hasattr(value, "__wrapped__") else ()


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None
